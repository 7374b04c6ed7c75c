"""``entrepot keys init``, ``list``, ``show``, ``rotate``, ``rewrap``: the ring of the settings."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import answer, config_option, json_option, run

if TYPE_CHECKING:
    from entrepot.codec.keys.ring import KeyRing
    from entrepot.config import Config


@asynccontextmanager
async def opened_ring(config: "Config") -> "AsyncGenerator[KeyRing, None]":
    """The ring of the settings, which has to be there."""
    import asyncio

    from entrepot.codec.keys.open import open_ring

    ring = await asyncio.to_thread(open_ring, config)
    try:
        yield ring
    finally:
        await ring.close()


@click.command("init")
@config_option
def init_command(*, config_path: Path | None) -> None:
    """Make a new, empty key ring, and the file of its root key where the settings want one.

    `entrepot up` does it for the local stack.
    """
    from entrepot.codec.keys.open import open_ring, ring_path
    from entrepot.config import load
    from entrepot.errors import AlreadyExists

    config = load(config_path)
    path = ring_path(config)
    if (path / "ring.json").exists():
        raise AlreadyExists(
            "there is a key ring already", hint="entrepot keys list", path=str(path)
        )

    async def make() -> str:
        ring = open_ring(config, create=True)
        await ring.close()
        return ring.health.root

    click.echo(f"key ring {path}, root key {run(make())}")


@click.command("list")
@config_option
@json_option
def list_command(*, config_path: Path | None, as_json: bool) -> None:
    """Show whose keys the ring has, and how many of each kind."""
    from entrepot.codec.keys.ring import KeyState
    from entrepot.config import load

    async def read() -> list[dict[str, Any]]:
        rows = []
        async with opened_ring(load(config_path)) as ring:
            for tenant in ring.tenants():
                infos = ring.describe(tenant)
                row: dict[str, Any] = {"tenant": tenant}
                for state in KeyState:
                    row[state.value] = sum(info.state is state for info in infos)
                newest = [info.number for info in infos if info.state is KeyState.ACTIVE]
                rows.append(row | {"current": max(newest, default=None)})
        return rows

    empty = "no key yet; the first encrypted object of a tenant makes one"
    answer(run(read()), as_json=as_json, empty=empty)


@click.command("show")
@click.argument("tenant")
@config_option
@json_option
def show_command(*, tenant: str, config_path: Path | None, as_json: bool) -> None:
    """Show every key of TENANT: its state, its age, and the root key that wraps it."""
    from entrepot.config import load

    async def read() -> list[dict[str, Any]]:
        async with opened_ring(load(config_path)) as ring:
            known = ring.describe(tenant)
            if not known:
                raise _no_key(tenant)
            return [
                {
                    "number": info.number,
                    "state": info.state.value,
                    "created": info.created and f"{info.created:%Y-%m-%d %H:%M:%S}",
                    "root": info.root,
                    "shredded": info.shredded and f"{info.shredded:%Y-%m-%d %H:%M:%S}",
                }
                for info in known
            ]

    answer(run(read()), as_json=as_json, empty="")


@click.command("rotate")
@click.argument("tenant")
@config_option
@json_option
def rotate_command(*, tenant: str, config_path: Path | None, as_json: bool) -> None:
    """Add a key for the new objects of TENANT. Older keys stay, for what they encrypted."""
    from entrepot.config import load

    async def rotate() -> int:
        async with opened_ring(load(config_path)) as ring:
            if not ring.describe(tenant):  # a misspelt tenant would get a key otherwise
                raise _no_key(tenant)
            return (await ring.rotate(tenant)).number

    number = run(rotate())
    if as_json:
        click.echo(json.dumps({"tenant": tenant, "number": number}))
    else:
        click.echo(f"new objects of {tenant} get key {number}")
        click.echo("next: a new recovery kit, entrepot keys export FILE")


@click.command("rewrap")
@click.option(
    "--to",
    "new_config_path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings whose section encryption names the new root key.",
)
@config_option
@json_option
def rewrap_command(*, new_config_path: Path, config_path: Path | None, as_json: bool) -> None:
    """Wrap every key by another root key. No object is touched; killed, run it again.

    Afterwards put the section encryption of FILE into the settings, restart what uses them, and
    run it once more with the old settings as --config, for tenants that came in between.
    """
    import asyncio

    from entrepot.codec.keys.open import open_root
    from entrepot.config import load

    old, new = load(config_path), load(new_config_path)

    async def rewrap() -> dict[str, Any]:
        async with opened_ring(old) as ring:
            root = await asyncio.to_thread(open_root, new, salt=ring.directory.salt)
            try:
                return {"root": root.name, "rewrapped": await ring.rewrap(root)}
            finally:
                await root.close()

    done = run(rewrap())
    if as_json:
        click.echo(json.dumps(done))
    else:
        click.echo(f"{done['rewrapped']} keys are now wrapped by {done['root']}")
        click.echo(f"next: the section encryption of {new_config_path} into the settings, restart")


def _no_key(tenant: str) -> Exception:
    from entrepot.errors import NotFound

    return NotFound("the ring has no key of this tenant", hint="entrepot keys list", tenant=tenant)
