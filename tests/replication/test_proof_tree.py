"""Digests of listings: as the format says, and a way to the place that differs."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from entrepot.errors import IntegrityError
from entrepot.replication.proof import drill, tree
from entrepot.replication.proof.drill import Place, places
from entrepot.replication.proof.record import (
    Aspect,
    Level,
    Profile,
    digest_of,
    fact_of,
    in_order,
)
from entrepot.replication.proof.tree import Root, Tree
from entrepot.store.protocol import Attributes, Lock, LockMode, Version
from tests.replication import independent_digest as independent

PROFILE = Profile()
KEYS = st.binary(min_size=1, max_size=6).map(lambda raw: b"p/" + bytes(b % 4 + 97 for b in raw))
LISTINGS = st.dictionaries(KEYS, st.binary(min_size=32, max_size=32), max_size=40)


def rooted(keys: Mapping[bytes, bytes], *, prefix: bytes = b"p/") -> Root:
    built = Tree(PROFILE, prefix=prefix)
    for key in sorted(keys):
        built.add(key, keys[key], versions=2)
    return built.root()


@given(LISTINGS)
@example({})
@example({b"p/": bytes(32)})
@example({b"p/": bytes(32), b"p/a": bytes(32)})
def test_the_digest_is_the_one_of_the_format(keys: dict[bytes, bytes]) -> None:
    found = rooted(keys)
    profile, versions = PROFILE.text, 2 * len(keys)
    assert found.digest == independent.root(keys, profile=profile, prefix=b"p/", versions=versions)
    assert (found.keys, found.versions) == (len(keys), versions)


@given(LISTINGS, LISTINGS, st.integers(2, 30))
def test_places_hold_every_difference_and_are_the_same_from_both_sides(
    one: dict[bytes, bytes], changes: dict[bytes, bytes], most: int
) -> None:
    other = {**one, **changes}
    for key in list(changes)[::3]:
        del other[key]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "SKETCH_MAX", most)
        patch.setattr(drill, "PLACES_MAX", most)
        roots = [rooted(one), rooted(other)]
        found = places([root.sketch for root in roots])
        assert found == places([root.sketch for root in reversed(roots)])
    differing = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    for key in differing:
        assert any(
            key == place.prefix if place.is_key else key.startswith(place.prefix) for place in found
        )
    assert (roots[0].digest == roots[1].digest) == (not differing)
    if not differing:
        assert found == ()


def test_one_changed_key_of_many_is_one_place() -> None:
    keys = {f"p/{n:06}".encode(): bytes(32) for n in range(5_000)}
    one, other = rooted(keys), rooted(keys | {b"p/004321": bytes(31) + b"x"})
    assert len(one.sketch.branches) <= tree.SKETCH_MAX
    [place] = places([one.sketch, other.sketch])
    assert place.prefix.startswith(b"p/0043")
    shorter = rooted({key: each for key, each in keys.items() if key != b"p/001234"})
    [place] = places([one.sketch, shorter.sketch])
    assert place.prefix.startswith(b"p/0012")


def test_a_key_that_is_a_prefix_of_others_is_a_place_of_its_own() -> None:
    keys = {b"p/a": bytes(32), b"p/ab": bytes(32), b"p/ac": bytes(32)}
    one, other = rooted(keys), rooted(keys | {b"p/a": bytes(31) + b"x"})
    assert places([one.sketch, other.sketch]) == (Place(b"p/a", is_key=True),)


@pytest.mark.parametrize("second", [b"p/a", b"p/A", b"q"])
def test_keys_out_of_order_or_place_are_refused(second: bytes) -> None:
    built = Tree(PROFILE, prefix=b"p/")
    built.add(b"p/a", bytes(32), versions=1)
    with pytest.raises(IntegrityError):
        built.add(second, bytes(32), versions=1)


GOLDEN = Version(
    key="photos/ü.jpg",
    version_id="0b0e3c3e-7a5f-4c0c-9a57-4f5d6c1f2a10",
    mtime_ms=1_750_000_000_123,
    size_bytes=3,
    etag="900150983cd24fb0d6963f7d28e17f72",
    is_current=False,
    attributes=Attributes(
        content_type="image/jpeg",
        metadata={"taken": "2025"},
        headers={"cache-control": "no-store"},
        tags={"b": "2", "a": "1"},
    ),
    lock=Lock(LockMode.GOVERNANCE, datetime(2026, 1, 1, tzinfo=UTC), True),
)
MARKER = Version(
    key=GOLDEN.key, version_id="null", mtime_ms=GOLDEN.mtime_ms + 1, is_delete_marker=True
)
SHA = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
VECTORS = {
    Profile(): "28d6f543bfb8766eba72a3b282889141f73acb936e6d4d89f24d7bcb433ed237",
    Profile(
        level=Level.ATTRIBUTES
    ): "20a4dcc09269e28317582e254d9f47805fb35aee68894e205ddddab2eb2ca5c3",
    Profile(
        level=Level.ATTRIBUTES, aspects=frozenset({Aspect.TAGS})
    ): "6cc44085da90711b5fc12ef5d1ef3fd15ea3c5de2572e451e800bfcb7c995205",
    Profile(
        level=Level.CONTENT, is_exact=False
    ): "2634177e34e48bc4be8b2bf3d0e0d6aceb8c96e66572aafc94bb959c7abd5797",
}
PAIRS = {
    "metadata": "000a696d6167652f6a706567"  # content type
    "0001000d63616368652d636f6e74726f6c00086e6f2d73746f7265"  # headers
    "0001000574616b656e000432303235",  # metadata
    "tags": "0002000161000131000162000132",
    "lock": "05000000006955b900",
}


@pytest.mark.parametrize("profile", VECTORS, ids=lambda profile: profile.text)
def test_golden_vectors(profile: Profile) -> None:
    """A listing of one object with a delete marker above it."""
    sha256 = SHA if profile.level is Level.CONTENT else ""
    facts = [fact_of(GOLDEN, profile, sha256=sha256), fact_of(MARKER, profile)]
    if not profile.has_history:
        facts = [facts[0]._replace(is_current=True)]
    facts_in_order = in_order(facts, profile)
    key = GOLDEN.key.encode()
    built = Tree(profile, prefix=b"photos/")
    built.add(key, digest_of(key, facts_in_order), versions=len(facts_in_order))
    found = built.root()

    object_ = {
        "marker": 0,
        "current": int(not profile.has_history),
        "id": GOLDEN.version_id if profile.is_exact else "",
        "mtime_ms": GOLDEN.mtime_ms if profile.is_exact else 0,
        "size": 3,
        "content": f"sha256:{SHA}" if sha256 else f"etag:{GOLDEN.etag}",
        **{
            name: bytes.fromhex(PAIRS[name]) if profile.looks_at(Aspect(name)) else b""
            for name in PAIRS
        },
    }
    marker = {
        "marker": 1,
        "current": 1,
        "id": "cc0b2629-a836-511e-ae2f-260230ae1411",
        "mtime_ms": GOLDEN.mtime_ms + 1,
        "size": 0,
        "content": "",
        **dict.fromkeys(PAIRS, b""),
    }
    versions = [object_, marker] if profile.has_history else [object_]
    same = independent.root(
        {key: independent.record(key, versions)},
        profile=profile.text,
        prefix=b"photos/",
        versions=len(versions),
    )
    assert (found.digest.hex(), same.hex()) == (VECTORS[profile],) * 2
