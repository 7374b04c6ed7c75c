"""A downloaded object, decrypted with the tenant's key alone: no store, no catalog, no metadata.

Invariant: as for any reader, nothing is written that was not verified. What cannot be verified
here is that the object is the one that belongs in its place, or that it was encrypted at all: the
header says so, and only the metadata and the catalog could contradict.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from entrepot.codec.decode import RangeDecoder
from entrepot.codec.footer import TRAILER_BYTES, Table, read_footer, stated_size
from entrepot.codec.header import HEADER_MAX_BYTES, parse_header
from entrepot.codec.pump import BATCH_BYTES
from entrepot.codec.seal import DataKey, Flags, open_for_object
from entrepot.errors import IntegrityError

TenantKeys = Callable[[str, int], bytes]
"""The key of a tenant id and a key number."""


def decrypt_file(source: Path | BinaryIO, target: BinaryIO, *, tenant_key: TenantKeys) -> Table:
    """Write the plaintext of the encoded object ``source`` to ``target``; answers with its table.

    ``source`` is a path, or a file that can be read at any position. An object that is only
    compressed comes out too, without a key. Memory: the footer and 4 MiB.

    Raises ``IntegrityError`` where the object is damaged or the key is another's; what was written
    to ``target`` by then was verified and may be cut off. ``Unsupported`` of another version.
    """
    with _opened(source) as file:
        stored_bytes = file.seek(0, os.SEEK_END)
        opening = parse_header(_at(file, 0, min(HEADER_MAX_BYTES, stored_bytes)))
        data_key: DataKey | None = None
        if Flags.ENCRYPTED in opening.flags:
            data_key = open_for_object(
                opening.sealed,
                tenant=opening.tenant,
                key_number=opening.key_number,
                data_id=opening.data_id,
                tenant_key=tenant_key(opening.tenant, opening.key_number),
            )
        trailer = _at(file, stored_bytes - TRAILER_BYTES, TRAILER_BYTES)
        size_bytes = stated_size(trailer, stored_bytes=stored_bytes)
        table, shape = read_footer(
            _at(file, stored_bytes - size_bytes, size_bytes),
            stored_bytes=stored_bytes,
            data_key=data_key,
            data_id=opening.data_id,
            compressed=Flags.COMPRESSED in opening.flags,
        )
        decoder = RangeDecoder(shape, table, 0, table.size_bytes)
        file.seek(0)
        left = decoder.stored_stop
        while piece := file.read(min(BATCH_BYTES, left)):
            left -= len(piece)
            target.writelines(decoder.feed(piece))
        target.writelines(decoder.drain())
        return table


def _at(file: BinaryIO, start: int, size_bytes: int) -> bytes:
    file.seek(start)
    data = file.read(size_bytes)
    if len(data) != size_bytes:
        raise IntegrityError("the file changed while it was read", start=start)
    return data


@contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        yield source
