"""A ring's directory: which keys there are, which are shredded; every change of a file of it.

    DIRECTORY/ring.json                      the ring: its id, and the salt of its passphrase
    DIRECTORY/tenants/TENANT/NUMBER.json     a wrapped key
    DIRECTORY/tenants/TENANT/NUMBER.shredded a tombstone; ``all.shredded`` is the tenant's

Invariants:

- A number has one key, ever: a key's file is linked into place, never over another, and only a
  rewrap of the same key replaces it.
- A tombstone wins. It is on disk before its key is touched, whoever puts a key in place looks for
  one afterwards, and whoever reads a key looks for one after reading. Of a shred and a late
  writer, so, at least one sees the other.
- Without ``ring.json`` there is no ring: a directory that is not mounted does not get new keys.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from entrepot.clock import Clock, new_bytes, new_id
from entrepot.codec.keys import files, record
from entrepot.codec.keys.record import Record, check_name, dump
from entrepot.codec.primitives import SALT_BYTES
from entrepot.errors import NotFound, PermanentError, SetupError

LEFTOVER_AGE_S: Final = 3600
"""Age from which a temporary file is a killed writer's: no write takes an hour."""

_ALL: Final = "all.shredded"
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,9}")


class RingDirectory:
    """The files of one ring; every call blocks for a disk access or a few."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tenants = path / "tenants"
        try:
            files.check_directory(path)
            values = record.parse(files.read(self._marker), kind="key ring", path=self._marker)
        except FileNotFoundError as error:
            raise SetupError(
                "there is no key ring",
                hint="mount it or put it back; a new one: entrepot keys init",
                path=str(path),
            ) from error
        try:
            self.id = str(values["id"])
            self.salt = base64.b64decode(values["salt"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise record.damaged(self._marker) from error

    @classmethod
    def create(cls, path: Path, *, clock: Clock, id: str | None = None) -> Self:
        """The ring of ``path``, made where the directory is missing or empty."""
        if any(not each.name.startswith(".") for each in _entries(path)):
            return cls(path)
        files.make_directory(path)
        text = dump(
            "key ring",
            id=id or str(new_id()),
            salt=base64.b64encode(new_bytes(SALT_BYTES)).decode(),
            created=clock.now().isoformat(),
        )
        with suppress(FileExistsError):  # another process made it, just now
            files.publish(path / "ring.json", text)
        return cls(path)

    @property
    def _marker(self) -> Path:
        return self.path / "ring.json"

    def tenants(self) -> list[str]:
        """Ids of the tenants that have or had a key, sorted."""
        return sorted(path.name for path in _entries(self._tenants) if path.is_dir())

    def numbers(self, tenant: str) -> tuple[set[int], set[int]]:
        """Numbers of the tenant's keys, and of its tombstones; a number can be in both."""
        found: dict[str, set[int]] = {".json": set(), ".shredded": set()}
        for path in _entries(self._directory(tenant)):
            # Numbers as we write them, so that no second name stands for the same one.
            if path.suffix in found and _NUMBER.fullmatch(path.stem):
                found[path.suffix].add(int(path.stem))
        return found[".json"], found[".shredded"]

    def is_shredded(self, tenant: str, number: int | None = None) -> bool:
        """Whether the key, or with ``None`` the tenant, has a tombstone."""
        names = [_ALL] if number is None else [_ALL, f"{number}.shredded"]
        directory = self._directory(tenant)
        return any(_is_there(directory / name) for name in names)

    def shredded_at(self, tenant: str, number: int) -> datetime | None:
        """When the key was shredded, as far as a tombstone still says it."""
        for name in (f"{number}.shredded", _ALL):
            path = self._directory(tenant) / name
            # That it is there counts, not that it can be read.
            with suppress(FileNotFoundError, PermanentError, KeyError, TypeError, ValueError):
                values = record.parse(files.read(path), kind="tombstone", path=path)
                return record.parse_time(values["shredded"])
        return None

    def read(self, tenant: str, number: int) -> Record | None:
        """The record of a key; ``None`` where it is shredded, ``NotFound`` where it is missing."""
        path = self._path(tenant, number)
        try:
            data = files.read(path)
        except FileNotFoundError:
            data = None
        if self.is_shredded(tenant, number):  # last, because a shred writes over what we read
            return None
        if data is None:
            raise NotFound(
                "ring has no such key",
                hint="put its file back, or: entrepot keys recover KIT",
                tenant=tenant,
                number=number,
                path=str(path),
            )
        return record.parse_record(data, tenant=tenant, number=number, path=path)

    def add(self, new: Record) -> bool:
        """Put a key in place for good; ``False`` where its number is taken."""
        path = self._path(new.tenant, new.number)
        files.make_directory(self._tenants)
        files.make_directory(path.parent)
        try:
            with suppress(FileNotFoundError):  # a shred swept it away
                files.publish(path, new.dump())
        except FileExistsError:
            return False
        if self._buried(new):
            raise record.shredded(new.tenant, new.number)
        return True

    def replace(self, new: Record) -> None:
        """Put a record in place of the one of the same key, unless that is shredded meanwhile."""
        with suppress(FileNotFoundError):  # a shred swept it away
            files.publish(self._path(new.tenant, new.number), new.dump(), replace=True)
        self._buried(new)

    def settle(self, tenant: str) -> None:
        """Have the names of a tenant's files survive a power cut, whoever wrote them."""
        with files.disk_errors(self._directory(tenant)):
            files.sync_directory(self._directory(tenant))

    def shred(self, tenant: str, number: int | None, *, now: datetime) -> None:
        """Put up the tombstone, then destroy what it is for. Can be run again at any point."""
        directory = self._directory(tenant)
        name = _ALL if number is None else f"{number}.shredded"
        text = dump("tombstone", tenant=tenant, number=number, shredded=now.isoformat())
        files.make_directory(self._tenants)
        files.make_directory(directory)
        with suppress(FileExistsError):  # keep the time of the first shred
            files.publish(directory / name, text)
        if number is None:
            for each in sorted(set().union(*self.numbers(tenant))):
                self.shred(tenant, each, now=now)
        else:
            files.destroy(self._path(tenant, number))
        for path in files.temporaries(directory, f"{number or '*'}.json"):
            files.destroy(path)

    def sweep(self, *, now: datetime) -> None:
        """Destroy what killed writers left."""
        for path in self._leftovers(now.timestamp() - LEFTOVER_AGE_S):
            files.destroy(path)

    def _leftovers(self, before: float) -> Iterator[Path]:
        for tenant in self.tenants():
            for path in files.temporaries(self._directory(tenant)):
                try:
                    if path.stat().st_mtime < before:
                        yield path
                except FileNotFoundError:
                    continue

    def _buried(self, late: Record) -> bool:
        """Destroy a key that was put in place after its tombstone; whether it was."""
        is_late = self.is_shredded(late.tenant, late.number)
        if is_late:
            files.destroy(self._path(late.tenant, late.number))
        return is_late

    def _directory(self, tenant: str) -> Path:
        check_name(tenant)
        return self._tenants / tenant

    def _path(self, tenant: str, number: int) -> Path:
        check_name(tenant, number)
        return self._directory(tenant) / f"{number}.json"


def _entries(directory: Path) -> list[Path]:
    try:
        with files.disk_errors(directory):
            return list(directory.iterdir())
    except FileNotFoundError:
        return []


def _is_there(path: Path) -> bool:
    try:
        with files.disk_errors(path):  # unlike ``exists``, which takes some errors for a no
            path.lstat()
    except FileNotFoundError:
        return False
    return True
