"""The recovery kit: round trip, every kind of accident, recovery over a ring that is there."""

import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from entrepot.codec.keys.kit import export_kit, kit_keys, read_kit, recover
from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.ring import KeyRing, KeyState
from entrepot.errors import (
    AccessDenied,
    AlreadyExists,
    EntrepotError,
    IntegrityError,
    InvalidInput,
    NotFound,
    PermanentError,
    Unavailable,
    Unsupported,
)
from tests.codec.keys.tools import (
    CHEAP,
    PASSPHRASE,
    HandClock,
    SwitchRoot,
    all_keys,
    bytes_below,
    copy_of,
    file_of,
)

Keys = dict[tuple[str, int], bytes]


@pytest.fixture
async def ring(tmp_path: Path, root: SwitchRoot, clock: HandClock) -> AsyncIterator[KeyRing]:
    """Keys 1 to 3 of ``acme``, of which 2 is shredded, 1 of ``other``, and a shredded ``gone``."""
    ring = KeyRing(tmp_path / "keys", root, clock=clock)
    for tenant in ("acme", "acme", "acme", "other", "gone"):
        await ring.rotate(tenant)
    await ring.shred("acme", number=2)
    await ring.shred("gone")
    yield ring
    await ring.close()


async def kit_of(ring: KeyRing) -> str:
    return await export_kit(ring, passphrase=PASSPHRASE, cost=CHEAP)


async def test_a_kit_brings_every_key_back(ring: KeyRing, tmp_path: Path, clock: HandClock) -> None:
    before, text = await all_keys(ring), await kit_of(ring)
    new_root = LocalRoot(bytes(32))
    done = await recover(tmp_path / "new", text, passphrase=PASSPHRASE, root=new_root, clock=clock)
    assert done.added == (("acme", 1), ("acme", 3), ("other", 1))
    assert (done.kept, done.repaired) == ((), ())
    assert set(done.shredded) == {("acme", 2), ("gone", 1), ("gone", None)}
    made = KeyRing(tmp_path / "new", new_root, create=False, clock=clock)
    assert await all_keys(made) == before
    assert made.directory.id == ring.directory.id
    for tenant in ("acme", "other"):
        was, now = ring.describe(tenant), made.describe(tenant)
        assert [each.created for each in was] == [each.created for each in now]
    with pytest.raises(PermanentError, match="shredded"):
        await made.get("acme", 2)
    with pytest.raises(PermanentError, match="shredded"):
        await made.current("gone")
    assert (await made.rotate("acme")).number == 4


async def test_a_kit_alone_has_the_keys(ring: KeyRing) -> None:
    before = await all_keys(ring)
    secret_of = kit_keys(await kit_of(ring), passphrase=PASSPHRASE)
    assert {name: secret_of(*name) for name in before} == before
    for name in (("acme", 2), ("gone", 1), ("gone", 9)):
        with pytest.raises(PermanentError, match="was shredded"):
            secret_of(*name)
    for name in (("acme", 4), ("nobody", 1)):
        with pytest.raises(NotFound, match="kit has no such key"):
            secret_of(*name)
    with pytest.raises(InvalidInput):
        secret_of("../acme", 1)


async def test_an_empty_ring_has_a_kit(tmp_path: Path, root: SwitchRoot) -> None:
    text = await kit_of(KeyRing(tmp_path / "empty", root))
    assert not read_kit(text, passphrase=PASSPHRASE).keys


async def test_a_kit_can_be_read_by_a_person(ring: KeyRing) -> None:
    text = await kit_of(ring)
    head = text.partition("-----BEGIN")[0]
    for words in ("entrepot keys recover FILE", "the 3 keys", "2 tenants", ring.directory.id):
        assert words in head
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100
    for name, secret in (await all_keys(ring)).items():
        assert secret.hex() not in text, name
    assert "acme" not in text, "who the tenants are is sealed too"


async def test_a_kit_that_lacks_a_key_is_not_made(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    clock.pass_s(301)
    root.switch_off()
    with pytest.raises(Unavailable):
        await kit_of(ring)
    root.switch_on()
    path = file_of(ring, await ring.get("acme", 1))
    path.write_text("{")
    with pytest.raises(IntegrityError):
        await kit_of(ring)


async def test_a_wrong_passphrase_is_called_that(ring: KeyRing, tmp_path: Path) -> None:
    text = await kit_of(ring)
    for wrong in ("correct horse battery stapl", "Correct horse battery staple", "x"):
        with pytest.raises(AccessDenied, match="passphrase is not this kit's") as caught:
            read_kit(text, passphrase=SecretStr(wrong))
        assert wrong not in caught.value.hint + str(caught.value) or wrong == "x"
    with pytest.raises(AccessDenied):
        await recover(
            tmp_path / "new", text, passphrase=SecretStr("x" * 20), root=LocalRoot(bytes(32))
        )
    assert not (tmp_path / "new").exists()
    with pytest.raises(InvalidInput, match="fewer than 12"):
        await export_kit(ring, passphrase=SecretStr("short"), cost=CHEAP)


async def test_every_flipped_bit_is_damage(ring: KeyRing) -> None:
    """In its plain words too, and before any passphrase is tried."""
    data = (await kit_of(ring)).encode()
    for at in range(len(data.rstrip())):
        for bit in range(8):
            flipped = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            with pytest.raises((IntegrityError, Unsupported)):
                read_kit(flipped.decode("latin-1"), passphrase=PASSPHRASE)


async def test_every_cut_is_damage(ring: KeyRing) -> None:
    text = (await kit_of(ring)).rstrip()
    for at in range(len(text)):
        with pytest.raises(IntegrityError):
            read_kit(text[:at], passphrase=PASSPHRASE)
    lines = text.splitlines()
    for at in range(len(lines)):
        if lines[at]:
            with pytest.raises(IntegrityError):
                read_kit("\n".join(lines[:at] + lines[at + 1 :]), passphrase=PASSPHRASE)


async def test_accidents_with_lines_are_damage(ring: KeyRing) -> None:
    text = await kit_of(ring)
    other = await kit_of(ring)
    rows = [line for line in text.splitlines() if re.match(r"\d+: ", line)]
    assert len(rows) > 5
    for altered in (
        text.replace(rows[2], "").replace(rows[3], f"{rows[3]}\n{rows[2]}"),  # two in wrong order
        text.replace(rows[2], f"{rows[2]}\n{rows[2]}"),  # one twice
        text.replace(rows[2], other.splitlines()[text.splitlines().index(rows[2])]),
        text + text,
        text + "and more",
        text.lower(),
        "",
        "hello",
    ):
        with pytest.raises(IntegrityError):
            read_kit(altered, passphrase=PASSPHRASE)


async def test_a_misread_letter_names_its_row(ring: KeyRing) -> None:
    text = await kit_of(ring)
    row = re.search(r"^4: .*$", text, re.MULTILINE)
    assert row
    letter = "A" if row[0][5] != "A" else "B"
    misread = row[0][:5] + letter + row[0][6:]
    with pytest.raises(IntegrityError, match="row 4 is misread"):
        read_kit(text.replace(row[0], misread), passphrase=PASSPHRASE)


async def test_what_mail_and_paper_do_to_blanks_is_no_damage(ring: KeyRing) -> None:
    text = await kit_of(ring)
    whole = read_kit(text, passphrase=PASSPHRASE)
    quoted = "\r\n".join(f"   {line}  " for line in text.splitlines())
    for changed in (quoted, text.replace(" ", "\n"), " ".join(text.split()), text.strip()):
        assert read_kit(changed, passphrase=PASSPHRASE) == whole


async def test_a_kit_of_a_newer_format_says_so(ring: KeyRing) -> None:
    text = (await kit_of(ring)).replace("ENTREPOT RECOVERY KIT 1", "ENTREPOT RECOVERY KIT 2")
    with pytest.raises(Unsupported, match="format 2"):
        read_kit(text, passphrase=PASSPHRASE)


@given(st.text(max_size=300))
def test_no_text_is_taken_for_a_kit(text: str) -> None:
    with pytest.raises(EntrepotError):
        read_kit(text, passphrase=PASSPHRASE)


# --- over a ring that is there


def same(directory: Path) -> tuple[list[Path], bytes]:
    return sorted(directory.rglob("*")), bytes_below(directory)


async def test_recovery_of_a_whole_ring_changes_nothing(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    text, path = await kit_of(ring), ring.directory.path
    before = same(path)
    done = await recover(path, text, passphrase=PASSPHRASE, root=root, clock=clock)
    assert done.kept == (("acme", 1), ("acme", 3), ("other", 1))
    assert (done.added, done.repaired) == ((), ())
    assert same(path) == before


async def test_recovery_adds_what_is_missing_and_repairs_what_does_not_open(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    text, before = await kit_of(ring), await all_keys(ring)
    path = ring.directory.path
    file_of(ring, await ring.get("acme", 1)).unlink()
    damaged = file_of(ring, await ring.get("acme", 3))
    values = json.loads(damaged.read_text())
    damaged.write_text(json.dumps(values | {"wrapped": "AAAA" + values["wrapped"][4:]}))
    done = await recover(path, text, passphrase=PASSPHRASE, root=root, clock=clock)
    assert done.added == (("acme", 1),)
    assert done.repaired == (("acme", 3),)
    assert done.kept == (("other", 1),)
    assert await all_keys(KeyRing(path, root, clock=clock)) == before


async def test_recovery_after_the_root_key_is_lost(ring: KeyRing, clock: HandClock) -> None:
    text, before, path = await kit_of(ring), await all_keys(ring), ring.directory.path
    new_root = LocalRoot(bytes(32))
    done = await recover(path, text, passphrase=PASSPHRASE, root=new_root, clock=clock)
    assert len(done.repaired) == 3
    assert await all_keys(KeyRing(path, new_root, clock=clock)) == before


async def test_another_key_under_a_kits_number_stops_recovery_before_it_begins(
    ring: KeyRing, tmp_path: Path, root: SwitchRoot, clock: HandClock
) -> None:
    """A gateway made new keys on an empty disk before anybody thought of the kit."""
    text = await kit_of(ring)
    wrong = KeyRing(tmp_path / "wrong", root, clock=clock)
    await wrong.current("other")
    before = same(tmp_path / "wrong")
    with pytest.raises(AlreadyExists, match="nothing was changed") as caught:
        await recover(tmp_path / "wrong", text, passphrase=PASSPHRASE, root=root, clock=clock)
    assert dict(caught.value.fields) == {"tenant": "other", "number": 1}
    assert same(tmp_path / "wrong") == before


async def test_a_damaged_file_stops_recovery_before_it_begins(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    text, path = await kit_of(ring), ring.directory.path
    file_of(ring, await ring.get("acme", 1)).unlink()
    file = file_of(ring, await ring.get("other", 1))
    file.write_text("{")
    before = same(path)
    with pytest.raises(IntegrityError) as caught:
        await recover(path, text, passphrase=PASSPHRASE, root=root, clock=clock)
    assert f"mv {file} {file}.damaged" in caught.value.hint
    assert same(path) == before
    file.rename(f"{file}.damaged")
    assert len((await recover(path, text, passphrase=PASSPHRASE, root=root)).added) == 2


async def test_a_tombstone_wins_over_an_old_kit(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    text = await kit_of(ring)
    await ring.shred("acme", number=1)
    await ring.shred("other")
    done = await recover(ring.directory.path, text, passphrase=PASSPHRASE, root=root, clock=clock)
    assert done.kept == (("acme", 3),)
    assert {("acme", 1), ("other", 1)} <= set(done.shredded)
    for tenant in ("acme", "other"):
        with pytest.raises(PermanentError, match="was shredded"):
            await KeyRing(ring.directory.path, root, clock=clock).get(tenant, 1)


async def test_a_ring_from_before_a_shred_does_not_keep_the_key_quietly(
    ring: KeyRing, tmp_path: Path, root: SwitchRoot, clock: HandClock
) -> None:
    old = copy_of(ring.directory.path, tmp_path / "old")
    await ring.shred("acme", number=1)
    text, before = await kit_of(ring), same(old)
    with pytest.raises(AlreadyExists, match="shredded before the kit") as caught:
        await recover(old, text, passphrase=PASSPHRASE, root=root, clock=clock)
    assert "entrepot keys shred acme --number 1" in caught.value.hint
    assert same(old) == before
    await KeyRing(old, root, clock=clock).shred("acme", number=1)
    await recover(old, text, passphrase=PASSPHRASE, root=root, clock=clock)


async def test_a_recovery_that_breaks_off_is_run_again(
    ring: KeyRing, tmp_path: Path, clock: HandClock
) -> None:
    text, before = await kit_of(ring), await all_keys(ring)

    class Tiring(SwitchRoot):
        async def wrap(self, secret: bytes, *, context: str) -> bytes:
            if context.endswith("other"):
                self.switch_off()
            return await super().wrap(secret, context=context)

    with pytest.raises(Unavailable):
        await recover(tmp_path / "new", text, passphrase=PASSPHRASE, root=Tiring(bytes(32)))
    new_root = LocalRoot(bytes(32))
    done = await recover(tmp_path / "new", text, passphrase=PASSPHRASE, root=new_root)
    assert (len(done.kept), len(done.added)) == (2, 1)
    assert await all_keys(KeyRing(tmp_path / "new", new_root, clock=clock)) == before


async def test_secrets_are_in_no_repr_and_no_log(
    ring: KeyRing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    kit = read_kit(await kit_of(ring), passphrase=PASSPHRASE)
    shown = repr(kit) + repr(list(kit.keys.values())) + caplog.text
    assert PASSPHRASE.get_secret_value() not in shown
    for kept in kit.keys.values():
        assert repr(kept.key.secret)[2:-1] not in shown
        assert kept.key.secret.hex() not in shown
    assert [info.state for info in ring.describe("gone")] == [KeyState.SHREDDED]
