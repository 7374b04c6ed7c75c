"""The vault of ``tests/vault/golden``, made with keys and salts that follow from its name.

    python -m tests.vault.make_golden

writes the vaults that are not there. One that is there is never written again: it is what a
released version wrote. A new version of the format adds a name here.
"""

import asyncio
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from entrepot.vault.records import Kind
from tests.codec.making import counting
from tests.vault.making import PRIVATE, Steps, back_up, files_of, new_vault

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("v1",)
PUBLIC = X25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw()


async def made(name: str) -> dict[str, bytes]:
    """The objects of the vault of that name."""
    vault = await new_vault(clock=Steps(), random=counting(name))
    await vault.add_recipient("auditor", PUBLIC)
    name_of_snapshot = await back_up(vault)
    packs = [counting(f"pack {number}")(32).hex() for number in range(40)]
    doom = {"since_ms": 1_764_000_002_000, "packs": packs}
    await vault.write(Kind.DOOM, json.dumps(doom).encode())
    await vault.write(Kind.DRAFT, (await vault.snapshot(name_of_snapshot)).dump())
    return await files_of(vault.place)


def held(name: str) -> dict[str, bytes]:
    """What lies in the folder of that name."""
    root = GOLDEN / name
    paths = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def main() -> None:
    """Write what is not there."""
    for name in NAMES:
        if not (GOLDEN / name).exists():
            for path, data in asyncio.run(made(name)).items():
                target = GOLDEN / name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)


if __name__ == "__main__":
    main()
