"""What a snapshot kept of a version, read back: found, and proven before its last bytes."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from blake3 import blake3

from entrepot.backup.parents import entries_of
from entrepot.errors import DeleteMarker, IntegrityError, InvalidInput, NotFound
from entrepot.vault.index import Index
from entrepot.vault.reader import read_chunks
from entrepot.vault.repository import Vault
from entrepot.vault.snapshots import Entry, Snapshot, Tree


async def find_entry(
    vault: Vault,
    index: Index,
    snapshot: Snapshot,
    *,
    bucket: str,
    key: str,
    site: str | None = None,
    version_id: str | None = None,
) -> Entry:
    """A version of a key, the one that was current by default. Reads the snapshot up to the key.

    ``NotFound``, ``DeleteMarker``; ``InvalidInput`` where several trees have a bucket of that name.
    """
    tree = _tree(snapshot, bucket, site)
    wanted = key.encode()
    async with aclosing(entries_of(vault, index, tree)) as entries:
        async for entry in entries:
            if entry.key.encode() > wanted:
                break
            is_served = not entry.extra.get("quarantined")
            if entry.key != key or (
                entry.version_id != version_id if version_id else not is_served
            ):
                continue
            if entry.is_delete_marker:
                raise DeleteMarker(
                    "the object was deleted then",
                    hint="entrepot backup show lists its versions; get one by --version-id",
                    bucket=bucket,
                    key=key,
                )
            return entry
    raise NotFound("the snapshot has not that", hint="entrepot backup show", bucket=bucket, key=key)


def _tree(snapshot: Snapshot, bucket: str, site: str | None) -> Tree:
    trees = [
        each
        for each in snapshot.trees
        if (each.kind, each.name) == ("bucket", bucket) and site in (None, each.site)
    ]
    if not trees:
        raise NotFound(
            "the snapshot has not that bucket", hint="entrepot backup list", bucket=bucket
        )
    if len(trees) > 1:
        sites = ", ".join(each.site for each in trees)
        raise InvalidInput("the snapshot has several buckets of that name", hint=f"--site: {sites}")
    return trees[0]


async def bytes_of(vault: Vault, index: Index, entry: Entry) -> AsyncGenerator[bytes, None]:
    """The bytes of an entry out of the vault."""
    chunks = read_chunks(vault, index, entry.chunks)
    async with aclosing(chunks), aclosing(proven(chunks, entry)) as pieces:
        async for piece in pieces:
            yield piece


async def proven(pieces: AsyncIterator[bytes], entry: Entry) -> AsyncGenerator[bytes, None]:
    """The pieces, the last one only where length and digest of all are as they were.

    So a write that is fed with them never ends where it should not. ``IntegrityError``.
    """
    size_bytes, held = 0, b""
    digest = blake3()
    async for piece in pieces:
        if held:
            yield held
        held = piece
        size_bytes += len(piece)
        if entry.digest:
            digest.update(piece)
    is_whole = size_bytes == entry.size_bytes
    if not is_whole or (entry.digest and digest.digest() != entry.digest):
        raise IntegrityError("the version has other bytes than it had", key=entry.key)
    if held:
        yield held
