"""Conflicts as a sweep meets them: who contends, who wins, and what the ledger is told.

The losers stay as noncurrent versions at every site that keeps ids; the ledger is told before
anything is written, and told again it changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from entrepot.errors import BucketNotFound, NotFound
from entrepot.replication.hooks import HOOKS, Hooks
from entrepot.replication.plan import Facts, conflict
from entrepot.replication.policy import Policy, Verdict, is_ambiguous, judge
from entrepot.replication.sites import Site
from entrepot.replication.view import Entry, View
from entrepot.store.marks import mark_of, without_marks
from entrepot.store.protocol import Attributes, Version
from entrepot.terms import HOOK

OF_TAGS = "tags"
"""The policy of conflicts about the tags of one version, see ``traits``."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the writes; ``version_id`` is its id at ``site``, ``identity`` that of its copies,
    ``writer`` who made it, if known.
    """

    site: str
    identity: str
    version_id: str
    time_ms: int
    writer: str
    size_bytes: int
    etag: str
    is_delete_marker: bool


@dataclass(frozen=True, slots=True)
class Conflict:
    """A key of which the sites held writes that did not know of each other.

    ``winner`` is a place in ``contenders``, which are by time; ``serves`` the version id that
    stands for it everywhere. ``is_ambiguous``: their times are nearer than the clocks are known.
    """

    key: str
    contenders: tuple[Contender, ...]
    winner: int
    policy: str
    reason: str
    is_ambiguous: bool
    serves: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """A conflict and the verdict on it."""

    conflict: Conflict
    verdict: Verdict


async def judged(
    view: View,
    *,
    facts: Facts,
    policy: Policy,
    sites: Sequence[Site],
    bucket: str,
    bound_ms: int,
    hooks: Hooks = HOOKS,
) -> Judged | None:
    """The conflict over a key, and who wins it; ``None`` where nobody contends.

    Contenders with the same bytes and attributes are one write that was made twice.
    """
    entries = conflict(view, facts=facts, policy=policy)
    if not entries:
        return None
    found = [await _attributes(sites[entry.site], bucket, view.key, entry) for entry in entries]
    plain = [without_marks(version.attributes or Attributes()) for version in found]
    same_bytes = len({entry.bytes for entry in entries}) == 1
    if same_bytes and all(attributes == plain[0] for attributes in plain):
        return None
    contenders = tuple(
        _contender(facts.names[entry.site], entry, version)
        for entry, version in zip(entries, found, strict=True)
    )
    text, note = policy.conflict_policy(view.key), ""
    verdict: Verdict | None = None
    if text.startswith(HOOK):
        choice, note = await hooks.ask(text.removeprefix(HOOK), view.key, contenders)
        if choice is not None:
            verdict = Verdict(entries[choice], text, note)
    verdict = verdict or judge(entries, policy=text, note=note)
    return Judged(
        Conflict(
            key=view.key,
            contenders=contenders,
            winner=entries.index(verdict.winner),
            policy=verdict.policy,
            reason=verdict.reason[:300],
            is_ambiguous=is_ambiguous(entries, bound_ms=bound_ms),
        ),
        verdict,
    )


async def _attributes(site: Site, bucket: str, key: str, entry: Entry) -> Version:
    bare = Version(key, entry.version_id, entry.mtime_ms, is_delete_marker=entry.is_delete_marker)
    if entry.is_delete_marker:
        return bare
    try:
        return await site.store.head(bucket, key, version_id=entry.version_id)
    except BucketNotFound:
        raise
    except NotFound:
        return bare  # removed since it was listed; what is planned then finds that out by itself


def _contender(site: str, entry: Entry, version: Version) -> Contender:
    mark = mark_of(replace(version, version_id=entry.version_id))
    return Contender(
        site=site,
        identity=entry.identity,
        version_id=entry.version_id,
        time_ms=entry.mtime_ms,
        writer=f"{mark.stamp.site}/{mark.stamp.writer}" if mark else "",
        size_bytes=entry.size_bytes,
        etag=entry.etag,
        is_delete_marker=entry.is_delete_marker,
    )
