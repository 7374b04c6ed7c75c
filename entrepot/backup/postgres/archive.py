"""The WAL of one cluster in a vault: each file a record under its own name.

Invariant: ``push`` returns only when the vault has the file, whole and equal. A file is written
once; the same again is fine, another under its name is an error, and so is WAL of another cluster.
That the store has the bytes is its answer to a write that carried their checksum.

Memory: a segment, and twice it while one is compared.
"""

import asyncio
import contextlib
import json
from typing import Any, Final

from entrepot.backup.postgres.scan import SegmentHeader, header_of
from entrepot.backup.postgres.wal import FileKind, WalFile, WalSet, parse_history
from entrepot.errors import AlreadyExists, IntegrityError, InvalidInput, NotFound, Unsupported
from entrepot.vault.records import Kind
from entrepot.vault.repository import Vault

FORMAT: Final = 1


class WalArchive:
    """WAL of the cluster that the vault knows as ``cluster``."""

    def __init__(self, vault: Vault, cluster: str) -> None:
        self.vault = vault
        self.cluster = cluster
        self._system: tuple[int, int] | None = None

    async def push(self, name: str, content: bytes) -> bool:
        """Have a file of WAL stored; whether it is new. ``AlreadyExists`` where it differs."""
        file = WalFile.parse(name)
        if file.kind in (FileKind.SEGMENT, FileKind.PARTIAL):
            await self._admit(file, header_of(content))
        record = self._record(file)
        try:
            await self.vault.write_as(Kind.WAL, record, content)
        except AlreadyExists:
            if await self.vault.read(Kind.WAL, record) == content:
                return False
            raise AlreadyExists(
                "the vault has another file under that name",
                hint="two servers archive as one cluster: give each a name of its own",
                cluster=self.cluster,
                name=name,
            ) from None
        return True

    async def fetch(self, name: str) -> bytes:
        """A file of WAL; ``NotFound``, ``IntegrityError``."""
        return await self.vault.read(Kind.WAL, self._record(WalFile.parse(name)))

    async def names(self) -> list[str]:
        """Names of all files there are, by timeline and place."""
        folder = f"{Kind.WAL.folder}/{self.cluster}"
        found = [each.name.rpartition("/")[2] async for each in self.vault.place.list(folder)]
        return [name for name in found if name != "system"]

    async def files(self) -> WalSet:
        """What there is; ``NotFound`` where nothing was archived yet."""
        _, segment_bytes = await self.system()
        names = await self.names()
        histories = [name for name in names if WalFile.parse(name).kind is FileKind.HISTORY]
        contents = await asyncio.gather(*map(self.fetch, histories))
        parsed = {
            WalFile.parse(name).timeline: parse_history(content)
            for name, content in zip(histories, contents, strict=True)
        }
        return WalSet.of(names, segment_bytes=segment_bytes, histories=parsed)

    async def system(self) -> tuple[int, int]:
        """System identifier of the cluster and bytes of a segment; ``NotFound``."""
        if self._system is None:
            try:
                content = await self.vault.read(Kind.WAL, f"{self.cluster}/system")
            except NotFound as error:
                raise NotFound(
                    "the vault has no WAL of this cluster",
                    hint="entrepot backup wal enable",
                    cluster=self.cluster,
                ) from error
            self._system = _parse_system(content)
        return self._system

    async def _admit(self, file: WalFile, header: SegmentHeader) -> None:
        """Refuse what is not of this cluster, or not what its name says."""
        if file.number(header.segment_bytes) * header.segment_bytes != header.lsn:
            raise IntegrityError("a WAL segment is not the one of its name", name=file.name)
        if header.timeline > file.timeline:
            raise IntegrityError("a WAL segment is of a later timeline", name=file.name)
        ours = (header.system_identifier, header.segment_bytes)
        try:
            known = await self.system()
        except NotFound:
            known = await self._found(ours)
        if known != ours:
            raise InvalidInput(
                "this is the WAL of another cluster",
                hint="give each cluster a name of its own in backup.clusters",
                cluster=self.cluster,
                system_identifier=ours[0],
            )

    async def _found(self, system: tuple[int, int]) -> tuple[int, int]:
        """Say whose WAL this is, unless another was quicker."""
        said = {"format": FORMAT, "system_identifier": str(system[0]), "segment_bytes": system[1]}
        with contextlib.suppress(AlreadyExists):
            await self.vault.write_as(Kind.WAL, f"{self.cluster}/system", json.dumps(said).encode())
        return await self.system()

    def _record(self, file: WalFile) -> str:
        return f"{self.cluster}/{file.folder}/{file.name}"


def _parse_system(content: bytes) -> tuple[int, int]:
    try:
        said: Any = json.loads(content)
        if said["format"] > FORMAT:
            raise Unsupported(
                "the WAL of this cluster has a newer format",
                hint="read it with the version that wrote it, or a later one",
            )
        return int(said["system_identifier"]), int(said["segment_bytes"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("the record of a cluster is malformed") from error
