"""Objects of every version that was ever written: they must read for ever, and be written again."""

import pytest
import zstandard

from entrepot.codec.decode import Reader
from entrepot.codec.seal import Seal, open_for_place
from tests.codec import independent, make_golden, making
from tests.codec.make_golden import BUCKET, GOLDEN, KEY, NAMES, PARTS
from tests.codec.making import TENANT, TENANT_KEY, Held, read

LIBZSTD = (1, 5, 7)
"""It compressed the golden objects. Another version may choose other bytes for the same content."""

names = pytest.mark.parametrize("name", NAMES)


@names
async def test_golden_objects_are_read(name: str) -> None:
    stored = (GOLDEN / f"{name}.bin").read_bytes()
    entry = (GOLDEN / f"{name}.seal").read_text()
    plaintext = b"".join(PARTS[name.split("-")[2]])
    seal = Seal.parse(entry)
    where = {"bucket": BUCKET, "key": KEY}
    data_key = None
    if seal.encrypted:
        data_key = open_for_place(seal, tenant=TENANT, tenant_key=TENANT_KEY, **where)
        secret = independent.open_entry(entry, TENANT, TENANT_KEY, BUCKET, KEY)
        assert data_key.secret == secret
    reader = await Reader.open(
        Held(stored).fetch,
        stored_bytes=len(stored),
        data_key=data_key,
        data_id=seal.data_id,
        compressed=seal.compressed,
    )
    assert await read(reader) == plaintext
    middle = len(plaintext) // 2
    assert await read(reader, middle) == plaintext[middle:]
    assert making.decrypted(stored) == plaintext
    assert independent.decode(stored, making.tenant_key) == plaintext


@names
def test_golden_objects_are_written(name: str) -> None:
    stored, entry = make_golden.made(name)
    assert entry == (GOLDEN / f"{name}.seal").read_text()
    golden = (GOLDEN / f"{name}.bin").read_bytes()
    if Seal.parse(entry).compressed and LIBZSTD != zstandard.ZSTD_VERSION:
        stored, golden = making.decrypted(stored), making.decrypted(golden)
    assert stored == golden


def test_no_golden_object_is_forgotten() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.bin")) == sorted(NAMES)
    assert sorted(path.stem for path in GOLDEN.glob("*.seal")) == sorted(NAMES)
