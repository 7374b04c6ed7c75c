"""``entrepot keys export`` and ``recover``: all keys in one text under a passphrase."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from entrepot.cli.common import config_option, json_option, run
from entrepot.cli.keys.ring import opened_ring

if TYPE_CHECKING:
    from pydantic import SecretStr

    from entrepot.codec.keys.kit import Recovery
    from entrepot.config import Config

PASSPHRASE = "ENTREPOT_KIT_PASSPHRASE"  # noqa: S105 (its name, not a secret)


def ask_passphrase(*, is_new: bool) -> "SecretStr":
    """The passphrase of a kit, from the environment or a person; a new one is typed twice."""
    import os

    from pydantic import SecretStr

    from entrepot.errors import InvalidInput

    if text := os.environ.get(PASSPHRASE):
        return SecretStr(text)
    if not sys.stdin.isatty():
        raise InvalidInput("no passphrase was given", hint=f"at a terminal, or as ${PASSPHRASE}")
    prompt = "Passphrase of the kit"
    typed = click.prompt(prompt, hide_input=True, confirmation_prompt=is_new, err=True)
    return SecretStr(typed)


def read_kit_file(path: Path) -> str:
    """The text of a kit; ``IntegrityError`` where it is no text at all."""
    from entrepot.cli.object.streams import file_errors
    from entrepot.errors import IntegrityError

    with file_errors(path):
        data = path.read_bytes()
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise IntegrityError("this is no recovery kit", path=str(path)) from error


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@config_option
def export_command(*, file: Path, config_path: Path | None) -> None:
    """Write a recovery kit of all keys to FILE (mode 0600), which must not be there yet.

    The passphrase is asked for twice, or taken from $ENTREPOT_KIT_PASSPHRASE. Print the kit, and
    keep it where the passphrase is not.
    """
    from entrepot.cli.object.streams import file_errors
    from entrepot.codec.keys.files import publish
    from entrepot.codec.keys.kit import export_kit
    from entrepot.config import load
    from entrepot.errors import AlreadyExists

    config = load(config_path)
    taken = AlreadyExists("the file exists", hint="kits are never replaced", path=str(file))
    if file.exists():
        raise taken

    async def export() -> str:
        async with opened_ring(config) as ring:
            return await export_kit(ring, passphrase=ask_passphrase(is_new=True))

    text = run(export())
    try:
        with file_errors(file):
            publish(file, text.encode())
    except FileExistsError:
        raise taken from None
    click.echo(f"recovery kit {file}; try it: entrepot object decrypt --kit {file} OBJECT")


@click.command("recover")
@click.argument("file", type=click.Path(path_type=Path))
@config_option
@json_option
def recover_command(*, file: Path, config_path: Path | None, as_json: bool) -> None:
    """Make the key ring have every key of the kit FILE, wrapped by the root key of the settings.

    Equal keys are left alone, shredded ones stay shredded. A root key that is a file and has gone
    is made anew.
    """
    from entrepot.config import load

    config, text = load(config_path), read_kit_file(file)
    recovery = run(_recover(config, text, ask_passphrase(is_new=False)))
    done = {
        "added": len(recovery.added),
        "kept": len(recovery.kept),
        "repaired": len(recovery.repaired),
        "shredded": len(recovery.shredded),
    }
    if as_json:
        click.echo(json.dumps(done))
    else:
        click.echo("keys of the kit: " + ", ".join(f"{n} {what}" for what, n in done.items()))


async def _recover(config: "Config", text: str, passphrase: "SecretStr") -> "Recovery":
    from entrepot.clock import SYSTEM_CLOCK
    from entrepot.codec.keys.directory import RingDirectory
    from entrepot.codec.keys.kit import read_kit, recover
    from entrepot.codec.keys.open import open_root, ring_path

    path = ring_path(config)
    kit = read_kit(text, passphrase=passphrase)  # nothing is made for a kit that does not open
    _make_root_file(config)
    salt = RingDirectory.create(path, clock=SYSTEM_CLOCK, id=kit.ring).salt
    root = open_root(config, salt=salt)
    try:
        return await recover(path, text, passphrase=passphrase, root=root)
    finally:
        await root.close()


def _make_root_file(config: "Config") -> None:
    from entrepot.codec.keys.local import LocalRoot
    from entrepot.config import data_dir

    local = config.encryption.local
    if config.encryption.key_management != "local" or local.passphrase or local.credential:
        return
    path = local.path or data_dir() / "root.key"
    if not path.exists():
        LocalRoot.create_file(path)
        click.echo(f"made a new root key: {path}", err=True)
