"""``entrepot vault``: make vaults, see what one is, and let others open it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import answer, config_option, json_option, run

if TYPE_CHECKING:
    from entrepot.vault.place import VaultPlace


@click.group("vault")
def vault_group() -> None:
    """Make backup repositories, and say who can open them."""


@vault_group.command("create")
@click.argument("name")
@config_option
@json_option
def create_command(*, name: str, config_path: Path | None, as_json: bool) -> None:
    """Make the vault NAME of backup.vaults; its bucket too, where there is none."""
    from entrepot.backup.open import open_place, open_ring_of
    from entrepot.config import load
    from entrepot.vault.repository import Vault

    async def create() -> list[dict[str, Any]]:
        config = load(config_path)
        async with open_place(config, name) as place, open_ring_of(config) as ring:
            await _ready_bucket(place)
            made = await Vault.create(place, ring)
            return [await _described(name, made)]

    answer(run(create()), as_json=as_json, empty="")


async def _ready_bucket(place: "VaultPlace") -> None:
    from entrepot.errors import AlreadyExists

    try:
        await place.store.create(place.bucket, versioned=False)  # type: ignore[attr-defined]
    except AlreadyExists:
        return


@vault_group.command("show")
@click.argument("name")
@config_option
@json_option
def show_command(*, name: str, config_path: Path | None, as_json: bool) -> None:
    """Show what the vault NAME is, who can open it, and what it holds."""
    from entrepot.backup.open import open_vault
    from entrepot.config import load

    async def show() -> list[dict[str, Any]]:
        async with open_vault(load(config_path), name) as opened:
            return [await _described(name, opened)]

    answer(run(show()), as_json=as_json, empty="")


async def _described(name: str, vault: Any) -> dict[str, Any]:
    from datetime import UTC, datetime

    from entrepot.vault.records import Kind

    listed = await vault.listed()
    return {
        "vault": name,
        "id": vault.file.vault_id.hex(),
        "bucket": vault.place.bucket,
        "prefix": vault.place.prefix,
        "created": datetime.fromtimestamp(vault.file.created_ms / 1000, UTC).isoformat(),
        "slots": [found.name.partition("/")[2] async for found in vault.place.list("slots")],
        "snapshots": len(await vault.names(Kind.SNAPSHOT)),
        "packs": len(listed),
        "pack_bytes": sum(listed.values()),
    }


@vault_group.command("new-recipient")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def new_recipient_command(*, file: Path) -> None:
    """Make a recipient's private key, FILE (0600), and print its public key.

    Keep FILE away from the vault: with it the vault's own chunks are readable.
    """
    import os

    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    private = X25519PrivateKey.generate()
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as target:
        target.write(private.private_bytes_raw().hex() + "\n")
    click.echo(private.public_key().public_bytes_raw().hex())


@vault_group.command("add-recipient")
@click.argument("name")
@click.argument("recipient")
@click.argument("public_key")
@config_option
def add_recipient_command(
    *, name: str, recipient: str, public_key: str, config_path: Path | None
) -> None:
    """Let the holder of the private key to PUBLIC_KEY open the vault NAME, as RECIPIENT."""
    from entrepot.backup.open import open_vault
    from entrepot.config import load
    from entrepot.errors import InvalidInput

    try:
        public = bytes.fromhex(public_key)
    except ValueError:
        public = b""
    if len(public) != 32:
        raise InvalidInput(
            "a public key has 64 hexadecimal digits",
            hint="entrepot vault new-recipient FILE prints one",
        )

    async def add() -> None:
        async with open_vault(load(config_path), name) as opened:
            await opened.add_recipient(recipient, public)

    run(add())
    click.echo(f"{recipient} can open {name}")
