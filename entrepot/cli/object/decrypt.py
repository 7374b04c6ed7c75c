"""``entrepot object decrypt``: an object that was downloaded raw, with the tenant's key alone."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from entrepot.codec.offline import TenantKeys

_KEY_FILE_MAX_BYTES = 4096
_HEX = re.compile(rb"\s*([0-9a-fA-F]{64})\s*")


@click.command("decrypt")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The tenant key: 32 bytes, or 64 hexadecimal digits.",
)
@click.option(
    "--kit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A recovery kit that has the key. $ENTREPOT_KIT_PASSPHRASE, or it asks.",
)
@click.option("--output", default="-", metavar="FILE|-", help="Standard output by default.")
@click.option("--force", is_flag=True, help="Replace the output file where it is there.")
def decrypt_command(
    *, file: Path, key_file: Path | None, kit: Path | None, output: str, force: bool
) -> None:
    """Decrypt FILE, an object as it lies in a bucket.

    Needs no settings, no server and no network. What is only compressed needs no key.
    """
    from entrepot.cli.object.streams import file_errors, writing
    from entrepot.codec.offline import decrypt_file
    from entrepot.errors import IntegrityError, InvalidInput

    if key_file and kit:
        raise InvalidInput("give --key-file or --kit, not both")
    keys = _of_file(key_file) if key_file else _of_kit(kit)
    with file_errors(file), file.open("rb") as source, writing(output, replace=force) as target:
        try:
            decrypt_file(source, target, tenant_key=keys)
        except IntegrityError as error:
            error.hint = error.hint or "download it again as it lies in the bucket, whole"
            raise


def _of_file(path: Path) -> "TenantKeys":
    from entrepot.cli.object.streams import file_errors
    from entrepot.errors import InvalidInput

    with file_errors(path), path.open("rb") as file:
        data = file.read(_KEY_FILE_MAX_BYTES)
    if found := _HEX.fullmatch(data):
        data = bytes.fromhex(found[1].decode())
    if len(data) != 32:
        raise InvalidInput(
            f"a tenant key has 32 bytes, or 64 hexadecimal digits; this file has {len(data)} bytes",
            hint="is it a recovery kit? then give it with --kit",
            path=str(path),
        )
    return lambda _tenant, _number: data


def _of_kit(path: Path | None) -> "TenantKeys":
    """The keys of a kit, which is not opened for an object that needs none."""

    def secret_of(tenant: str, number: int) -> bytes:
        from entrepot.cli.keys.kit import ask_passphrase, read_kit_file
        from entrepot.codec.keys.kit import kit_keys
        from entrepot.errors import InvalidInput

        if path is None:
            raise InvalidInput(
                "the object is encrypted",
                hint="--kit FILE, or --key-file FILE with this key",
                tenant=tenant,
                number=number,
            )
        text = read_kit_file(path)
        return kit_keys(text, passphrase=ask_passphrase(is_new=False))(tenant, number)

    return secret_of
