"""The ring: numbers, what it refuses, and that it shows no secret."""

import asyncio
import json
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.codec.keys import files
from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.record import check_name
from entrepot.codec.keys.ring import KeyRing, KeyState
from entrepot.errors import (
    AccessDenied,
    EntrepotError,
    IntegrityError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    SetupError,
    Unavailable,
    Unsupported,
)
from tests.codec.keys.tools import (
    TTL_S,
    HandClock,
    SwitchRoot,
    all_keys,
    another,
    bytes_below,
    file_of,
)

# --- numbers


async def test_the_first_use_makes_number_1_and_rotation_adds_one(ring: KeyRing) -> None:
    first = await ring.current("acme")
    assert (first.tenant, first.number, len(first.secret)) == ("acme", 1, 32)
    assert await ring.current("acme") == first
    second = await ring.rotate("acme")
    assert second.number == 2
    assert second.secret != first.secret
    assert await ring.current("acme") == second
    assert await ring.get("acme", 1) == first
    assert (await ring.current("other")).secret not in (first.secret, second.secret)
    assert ring.tenants() == ["acme", "other"]


async def test_a_rotation_before_the_first_use_makes_number_1(ring: KeyRing) -> None:
    assert (await ring.rotate("acme")).number == 1


async def test_keys_are_the_same_after_a_restart(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    made = [await ring.current("acme"), await ring.rotate("acme")]
    later = another(ring, root, clock)
    assert [await later.get("acme", 1), await later.current("acme")] == made


async def test_many_rotations_at_once_give_as_many_numbers(ring: KeyRing) -> None:
    keys = await asyncio.gather(*(ring.rotate("acme") for _ in range(20)))
    assert sorted(key.number for key in keys) == list(range(1, 21))
    assert len({key.secret for key in keys}) == 20
    assert {(key.tenant, key.number): key.secret for key in keys} == await all_keys(ring)


async def test_a_lost_file_says_how_to_get_it_back(ring: KeyRing, clock: HandClock) -> None:
    key = await ring.current("acme")
    file_of(ring, key).unlink()
    clock.pass_s(TTL_S + 1)
    for number in (1, 7):
        with pytest.raises(NotFound) as caught:
            await ring.get("acme", number)
        assert "entrepot keys recover" in caught.value.hint
    with pytest.raises(NotFound):
        await ring.get("nobody", 1)


async def test_numbers_end(ring: KeyRing) -> None:
    key = await ring.current("acme")
    file_of(ring, key).rename(file_of(ring, key).with_name(f"{2**32 - 1}.json"))
    with pytest.raises(LimitExceeded):
        await ring.rotate("acme")


# --- what it refuses

TRAVERSALS = ["..", ".", "", "../other", "a/b", "/etc", "a\x00", "a\n", "A", "ä", "-a", "x" * 64]


@pytest.mark.parametrize("tenant", TRAVERSALS)
async def test_a_tenant_is_no_path(ring: KeyRing, directory: Path, tenant: str) -> None:
    (directory / "tenants" / "other").mkdir(parents=True)
    calls: list[Any] = [ring.current, ring.rotate, ring.shred, lambda name: ring.get(name, 1)]
    for call in calls:
        with pytest.raises(InvalidInput, match="tenant id"):
            await call(tenant)
    with pytest.raises(InvalidInput, match="tenant id"):
        ring.describe(tenant)


@given(st.text(max_size=70))
def test_whatever_names_a_tenant_is_one_plain_step_of_a_path(tenant: str) -> None:
    try:
        check_name(tenant)
    except InvalidInput:
        return
    assert os.path.normpath(f"/a/{tenant}") == f"/a/{tenant}"
    assert tenant.isascii()
    assert tenant == tenant.lower()
    assert "/" not in tenant


@pytest.mark.parametrize("number", [0, -1, 2**32])
async def test_a_number_is_one_of_the_headers(ring: KeyRing, number: int) -> None:
    await ring.current("acme")
    with pytest.raises(InvalidInput, match="key numbers"):
        await ring.get("acme", number)
    with pytest.raises(InvalidInput, match="key numbers"):
        await ring.shred("acme", number=number)
    assert len(ring.describe("acme")) == 1


async def test_files_are_ours_alone(ring: KeyRing, directory: Path) -> None:
    await ring.rotate("acme")
    await ring.shred("acme", number=1)
    await ring.rotate("acme")
    below = directory.rglob("*")  # noqa: ASYNC240
    for path in (directory, *below):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
        assert not path.name.startswith("."), "a temporary file stayed"


async def test_a_key_that_others_can_read_is_refused(ring: KeyRing, clock: HandClock) -> None:
    path = file_of(ring, await ring.current("acme"))
    clock.pass_s(TTL_S + 1)
    for mode in (0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(AccessDenied, match="open to others") as caught:
            await ring.get("acme", 1)
        assert f"chmod 600 {path}" in caught.value.hint
    path.chmod(0o600)
    await ring.get("acme", 1)


def test_a_ring_that_others_can_enter_is_refused(directory: Path, root: SwitchRoot) -> None:
    KeyRing(directory, root)
    directory.chmod(0o750)
    with pytest.raises(AccessDenied) as caught:
        KeyRing(directory, root)
    assert f"chmod 700 {directory}" in caught.value.hint


async def test_a_link_in_place_of_a_key_is_not_followed(ring: KeyRing, clock: HandClock) -> None:
    path = file_of(ring, await ring.current("acme"))
    path.rename(path.with_name("away"))
    path.symlink_to("away")
    clock.pass_s(TTL_S + 1)
    with pytest.raises(EntrepotError):
        await ring.get("acme", 1)


def test_a_directory_that_is_not_mounted_gets_no_new_keys(
    directory: Path, root: SwitchRoot
) -> None:
    directory.mkdir(mode=0o700)
    for missing in (directory, directory.with_name("absent")):
        with pytest.raises(SetupError, match="no key ring") as caught:
            KeyRing(missing, root, create=False)
        assert "entrepot keys init" in caught.value.hint
    (directory / "something").touch()
    with pytest.raises(SetupError, match="no key ring"):
        KeyRing(directory, root, create=True)


async def test_a_killed_first_start_is_no_obstacle(directory: Path, root: SwitchRoot) -> None:
    directory.mkdir(mode=0o700)  # noqa: ASYNC240
    (directory / ".ring.json.0011223344556677").write_text("half of")
    assert (await KeyRing(directory, root).current("acme")).number == 1


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"format": 2}, Unsupported),
        ({"format": "1"}, Unsupported),
        ({"kind": "tombstone"}, IntegrityError),
        ({"tenant": "other"}, IntegrityError),
        ({"number": 2}, IntegrityError),
        ({"wrapped": "AAAA"}, IntegrityError),
        ({"wrapped": "?"}, IntegrityError),
        ({"wrapped": 7}, IntegrityError),
        ({"check": "AAAA"}, IntegrityError),
        ({"created": "yesterday"}, IntegrityError),
        ({"created": "2026-01-01T00:00:00"}, IntegrityError),
        ({"root": "local:00000000"}, AccessDenied),
    ],
    ids=str,
)
async def test_a_changed_file_is_refused(
    ring: KeyRing, clock: HandClock, change: dict[str, Any], kind: type[EntrepotError]
) -> None:
    path = file_of(ring, await ring.current("acme"))
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | change))
    clock.pass_s(TTL_S + 1)
    with pytest.raises(kind):
        await ring.get("acme", 1)


async def test_damaged_files_are_refused_and_shown_as_such(ring: KeyRing, clock: HandClock) -> None:
    path = file_of(ring, await ring.current("acme"))
    clock.pass_s(TTL_S + 1)
    for text in (b"", b"{", b"[]", b"\xff\xfe", b"null", bytes(70_000)):
        path.write_bytes(text)
        with pytest.raises(IntegrityError):
            await ring.get("acme", 1)
        assert ring.describe("acme")[0].state is KeyState.DAMAGED


async def test_another_tenants_key_does_not_open_in_its_place(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    """Also where the names in the file are changed to fit: the wrap is bound to them."""
    mine, yours = await ring.current("mine"), await ring.current("yours")
    values = json.loads(file_of(ring, yours).read_text())
    file_of(ring, mine).write_text(json.dumps(values | {"tenant": "mine"}))
    with pytest.raises(IntegrityError):
        await another(ring, root, clock).current("mine")


async def test_a_root_that_gives_another_key_back_is_noticed(
    directory: Path, clock: HandClock
) -> None:
    class Swapped(SwitchRoot):
        async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
            return bytes(32)

    with pytest.raises(IntegrityError, match="another key"):
        await KeyRing(directory, Swapped(), clock=clock).current("acme")
    assert b"wrapped" not in bytes_below(directory), "a key that cannot be unwrapped was kept"


async def test_another_root_key_is_named(ring: KeyRing, clock: HandClock) -> None:
    await ring.current("acme")
    stranger = LocalRoot(bytes(32))
    with pytest.raises(AccessDenied) as caught:
        await KeyRing(ring.directory.path, stranger, clock=clock).current("acme")
    assert stranger.name in str(caught.value)
    assert ring.health.root in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="disk refuses"), files.disk_errors(Path("/dev/full")):
        handle = os.open("/dev/full", os.O_WRONLY)
        try:
            os.write(handle, b"x")
        finally:
            os.close(handle)


# --- secrets


async def test_secrets_are_in_no_repr_and_no_file(
    ring: KeyRing, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = await ring.current("acme")
    shown = [repr(each) for each in (key, ring, ring.describe("acme"), ring.health)]
    shown += [str(key), f"{key}", caplog.text, repr(vars(ring))]
    for text in shown:
        assert key.secret.hex() not in text
        assert repr(key.secret)[2:-1] not in text
    assert key.secret not in bytes_below(directory)
    assert pickle.loads(pickle.dumps(key)) == key
