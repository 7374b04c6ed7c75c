"""Sites surveyed together: as long as they tell the same they share a tree, and then no longer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.clock import derived_id
from entrepot.replication.proof.record import Level, Profile
from entrepot.replication.proof.survey import Reader, survey
from entrepot.replication.sites import Site
from entrepot.store.memory import MemoryStore
from entrepot.store.protocol import Origin, Page
from entrepot.store.wrapper import StoreWrapper
from tests.replication.worlds import ALL

BUCKET = "survey"
THEN_MS = 1_750_000_000_000


async def put(site: Site, key: str, body: bytes, at: int) -> str:
    origin = Origin(str(derived_id(key, str(at))), THEN_MS + at)
    return (await site.store.put(BUCKET, key, body, origin=origin)).version_id


@given(
    st.integers(0, 11), st.sampled_from(["bytes", "gone", "more", "tags", ""]), st.integers(1, 7)
)
@settings(max_examples=40)
def test_sites_that_part_on_any_page_have_the_trees_of_each_alone(
    at: int, what: str, size: int
) -> None:
    class Short(StoreWrapper):
        def versions(self, bucket: str, **more: Any) -> AsyncIterator[Page]:
            return self._store.versions(bucket, **{**more, "page_size": size})

    async def check() -> None:
        sites = [Site(f"site-{n}", n, Short(MemoryStore()), ALL) for n in range(3)]
        odd, key, version_id = sites[2], f"k{at:02}", ""
        for site in sites:
            await site.store.create(BUCKET)
            for number in range(24):
                name = f"k{number // 2:02}"
                given = await put(site, name, b"body", number)
                version_id = given if name == key else version_id
        match what:
            case "gone":
                await odd.store.delete(BUCKET, key, version_id=version_id)
            case "tags":
                await odd.store.tag(BUCKET, key, {"a": "b"}, version_id=version_id)
            case "bytes" | "more":
                await put(odd, key + ("-more" if what == "more" else ""), b"y", 99)
        tagged = Profile(Level.LISTING, tag_filter=(("a", "b"),))
        for profile in (Profile(Level.LISTING), Profile(Level.ATTRIBUTES), tagged):
            readers = {site.name: Reader(site, BUCKET, profile, 4) for site in sites}
            together = await survey(readers)
            for name, reader in readers.items():
                assert together[name] == (await survey({name: reader}))[name]
            one, other, third = (root.digest for root in together.values())
            assert one == other
            shows_tags = profile.level is Level.ATTRIBUTES or profile is tagged
            is_of_it = profile is not tagged and what in ("gone", "bytes", "more")
            assert (one == third) == (not is_of_it and not (what == "tags" and shows_tags))

    asyncio.run(check())
