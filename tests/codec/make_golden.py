"""The objects of ``tests/codec/golden``, made with keys and salts that follow from their names.

    python -m tests.codec.make_golden

writes those that are not there. One that is there is never written again: it is what a released
version wrote. A new version of the format adds names here.
"""

from pathlib import Path

from entrepot.codec.seal import Flags, Seal, seal_for_place
from tests.codec.making import KINDS, TENANT_KEY, counting, noise, shape, stored_object, text

GOLDEN = Path(__file__).parent / "golden"
BUCKET, KEY = "photos", "2026/a b/é.jpg"

PARTS: dict[str, tuple[bytes, ...]] = {
    "empty": (b"",),
    "small": (b"The quick brown fox jumps over the lazy dog",),
    "parts": (text(70_000, seed=1), b"", noise(300, seed=2)),
}
"""Plaintexts by name; what does not repeat is small, so that the files are."""

NAMES = [f"v1-{kind}-{parts}" for kind in KINDS for parts in PARTS]


def made(name: str) -> tuple[bytes, str]:
    """The stored bytes of that name, and the metadata entry of their place."""
    _, kind, parts = name.split("-")
    random = counting(name)
    shaped = shape(kind, random=random)
    if shaped.data_key:
        seal = seal_for_place(
            shaped.data_key,
            tenant_key=TENANT_KEY,
            bucket=BUCKET,
            key=KEY,
            compressed=shaped.compressed,
            random=random,
        )
    else:
        seal = Seal(Flags.COMPRESSED, shaped.data_id)
    return stored_object(shaped, *PARTS[parts], random=random), seal.text()


def main() -> None:
    """Write what is not there."""
    for name in NAMES:
        stored, entry = made(name)
        if not (GOLDEN / f"{name}.bin").exists():
            (GOLDEN / f"{name}.bin").write_bytes(stored)
            (GOLDEN / f"{name}.seal").write_text(entry)


if __name__ == "__main__":
    main()
