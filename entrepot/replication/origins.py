"""What the versions on an endpoint that mints ids and times stand for.

A copy there is younger than what it was copied from, so by its own time it would win over every
write that it does not know. Two rules give it its right place in the order:

- A copy carries a *mark* in its metadata: "<version id> <time in ms> <proof>" of its origin. The
  proof binds the mark to bucket, key, time and bytes, since a server-side copy carries metadata
  along. Whoever rewrites an object under its own key, bytes and metadata keeps the mark, so a
  change of other metadata made in that way is not seen.
- A delete marker carries nothing. It deletes what lies below it, so it counts from a millisecond
  after that; a later write, which it did not know of, wins.

The *version map* of a site repeats the marks, so that nobody has to ask every object. It is
believed as far as nothing is to be done: a row with a wrong proof counts as none, and before
anything is written or reported the objects themselves are asked.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from entrepot.clock import derived_id
from entrepot.errors import NotFound
from entrepot.replication.merge import Histories
from entrepot.replication.plan import Copy
from entrepot.replication.sites import Named, Site
from entrepot.replication.workers import side_by_side
from entrepot.store.protocol import NULL_VERSION, Attributes, Version

ORIGIN_NAME = "entrepot-origin"
"""The metadata that holds the mark."""

LOOK_MAX = 4
"""Versions below a write that are asked what they are copies of."""


def copy_mark(action: Copy, *, bucket: str) -> str:
    """The mark of a copy."""
    version_id, time = action.source_version, str(action.mtime_ms)
    return f"{version_id} {time} {_proof(bucket, action.target_key, version_id, time, action.etag)}"


def marked(attributes: Attributes, *, bucket: str, action: Copy) -> Attributes:
    """``attributes`` with the mark of a copy."""
    metadata = {**attributes.metadata, ORIGIN_NAME: copy_mark(action, bucket=bucket)}
    return replace(attributes, metadata=metadata)


def unmarked(attributes: Attributes) -> Attributes:
    """``attributes`` without the mark of an earlier journey."""
    if ORIGIN_NAME not in attributes.metadata:
        return attributes
    kept = {name: text for name, text in attributes.metadata.items() if name != ORIGIN_NAME}
    return replace(attributes, metadata=kept)


def mark_on(version: Version, *, bucket: str) -> str:
    """The mark that the version bears in its metadata; "" where it is no copy."""
    mark = version.attributes.metadata.get(ORIGIN_NAME, "") if version.attributes else ""
    return "" if _time_in(mark, version, bucket) is None else mark


def marked_time(version: Version, *, bucket: str) -> int:
    """The time (Unix ms) of what the version was copied from; its own where it is no copy."""
    time_ms = _time_in(mark_on(version, bucket=bucket), version, bucket)
    return version.mtime_ms if time_ms is None else time_ms


def _time_in(mark: str, version: Version, bucket: str) -> int | None:
    """The time that a mark tells of ``version``; ``None`` where it is none of its."""
    version_id, _, rest = mark.partition(" ")
    time, _, proof = rest.partition(" ")
    is_ours = time.isdecimal() and proof == _proof(
        bucket, version.key, version_id, time, version.etag
    )
    return int(time) if is_ours else None


def _proof(bucket: str, key: str, version_id: str, time: str, etag: str) -> str:
    return str(derived_id("origin", bucket, key, version_id, time, etag))


class Origins:
    """What versions on endpoints that mint ids and times stand for: by the sites' maps, and by what
    the objects say.

    Memory: a row of the maps for each version of the keys that it was loaded for.
    """

    def __init__(self, sites: Sequence[Site], bucket: str) -> None:
        self._sites, self._bucket = sites, bucket
        self._mapped = [site for site in sites if site.version_map is not None]
        self._known: dict[str, dict[Named, str]] = {}  # by the map of a site
        self._said: dict[str, dict[Named, str]] = {}  # by the objects there
        self._keys: frozenset[str] = frozenset()  # of which a map knows something

    async def load(self, after: str, last: str, *, prefix: str = "") -> None:
        """Have at hand what the maps know of keys after ``after`` up to ``last``."""
        self._known, self._said = {}, {}
        for site in self._mapped:
            assert site.version_map is not None
            rows = await site.version_map.between(self._bucket, after, last, prefix=prefix)
            self._known[site.name] = rows
        self._keys = frozenset(key for rows in self._known.values() for key, _ in rows)

    async def place(
        self, listed: Mapping[str, Histories], *, workers: int
    ) -> Mapping[str, Histories]:
        """``of`` for each key, as far as the maps are to be believed."""
        if all(site.keeps_origin for site in self._sites):
            return listed
        placed = dict(listed)  # in its order
        waiting = iter(listed.items())

        async def work() -> None:
            for key, histories in waiting:
                placed[key] = await self.of(histories)

        await side_by_side(work() for _ in range(min(workers, len(listed))))
        return placed

    def is_hearsay(self, key: str) -> bool:
        """Whether a map knows something of the key."""
        return key in self._keys

    def differs(self, site: Site, version: Version) -> bool:
        """Whether the map says something else than the version itself; ``version`` is whole."""
        if site.version_map is None:
            return False
        mark = self._learn(site, version)
        return self._known[site.name].get((version.key, version.version_id), mark) != mark

    async def save(self, listed: Mapping[str, Histories]) -> None:
        """Have the maps hold what the objects said, and nothing that was not listed."""
        for rank, site in enumerate(self._sites):
            if site.version_map is None:
                continue
            known = self._known.get(site.name, {})
            said = self._said.get(site.name, {})
            there = {
                (version.key, version.version_id)
                for histories in listed.values()
                for version in histories[rank]
            }
            news = {named: mark for named, mark in said.items() if known.get(named) != mark}
            gone = [named for named in known if named not in there]
            if news or gone:
                await site.version_map.keep(self._bucket, news, gone=gone)

    async def of(self, histories: Histories, *, believing: bool = True) -> Histories:
        """The histories of one key; on endpoints that mint times, the head and what it was written
        over as far as the order needs it, with the times they stand for.
        """
        heads = [history[0] for history in histories if history]
        has_object = any(not head.is_delete_marker for head in heads)

        async def placed(site: Site, history: tuple[Version, ...]) -> tuple[Version, ...]:
            if not history or site.keeps_origin:
                return history
            if not has_object:
                return history[:1]  # deleted everywhere needs no order
            if history[0].is_delete_marker:
                return await self._deleted(site, history, believing=believing)
            is_alone = len(heads) == 1
            return await self._written(site, history, is_alone=is_alone, believing=believing)

        pairs = zip(self._sites, histories, strict=True)
        return tuple(await asyncio.gather(*(placed(site, history) for site, history in pairs)))

    async def _written(
        self, site: Site, history: Sequence[Version], *, is_alone: bool, believing: bool
    ) -> tuple[Version, ...]:
        """The head, and below a write of the site's own the copy that its writer may have seen."""
        head, is_copy = await self.placed(site, history[0], believing=believing)
        found = [head]
        if not is_copy and not is_alone:
            for version in history[1 : 1 + LOOK_MAX]:
                if not version.is_delete_marker:
                    below, is_copy = await self.placed(site, version, believing=believing)
                    found.append(below)
                    if is_copy:
                        break
        return tuple(found)

    async def _deleted(
        self, site: Site, history: Sequence[Version], *, believing: bool
    ) -> tuple[Version, ...]:
        marker = history[0]
        for version in history[1:]:
            if not version.is_delete_marker:
                below, _ = await self.placed(site, version, believing=believing)
                return replace(marker, mtime_ms=below.mtime_ms + 1), below
        return (marker,)

    async def whole(self, site: Site, history: Sequence[Version]) -> tuple[Version, ...]:
        """All versions of a key at one site, objects with the times they stand for."""
        if site.keeps_origin:
            return tuple(history)
        return tuple(
            [
                version if version.is_delete_marker else (await self.placed(site, version))[0]
                for version in history
            ]
        )

    async def placed(
        self, site: Site, version: Version, *, believing: bool = True
    ) -> tuple[Version, bool]:
        """The version with the time it stands for, and whether it is a copy."""
        # Gone since it was listed: whatever is planned then finds that out by itself.
        with suppress(NotFound):
            mark = await self._mark(site, version, believing=believing)
            time_ms = _time_in(mark, version, self._bucket)
            if time_ms is not None:
                return replace(version, mtime_ms=time_ms), True
        return version, False

    async def _mark(self, site: Site, version: Version, *, believing: bool) -> str:
        named = version.key, version.version_id
        mark = self._said.get(site.name, {}).get(named)
        if mark is None and believing:
            mark = self._known.get(site.name, {}).get(named)
            if mark and _time_in(mark, version, self._bucket) is None:
                mark = None
        if mark is not None:
            return mark
        head = await site.store.head(self._bucket, version.key, version_id=version.version_id)
        return self._learn(site, replace(version, attributes=head.attributes))

    def _learn(self, site: Site, version: Version) -> str:
        mark = mark_on(version, bucket=self._bucket)
        # The only id that is ever given twice: a bucket whose versioning is suspended.
        if version.version_id != NULL_VERSION:
            self._said.setdefault(site.name, {})[version.key, version.version_id] = mark
        return mark


async def with_origins(sites: Sequence[Site], bucket: str, histories: Histories) -> Histories:
    """``Origins.of`` by the objects' own word."""
    return await Origins(sites, bucket).of(histories)
