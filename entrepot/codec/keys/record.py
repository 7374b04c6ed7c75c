"""What the files of a ring say: a wrapped key, a tombstone, the ring itself; JSON, version 1.

Invariants: a record names its tenant and number, and so does the context it is wrapped with, and so
does its check value: a file moved to another's place does not open. What was wrapped is unwrapped
once before anybody relies on it, because a key that cannot be unwrapped loses what it encrypted.

Words: *record* a wrapped tenant key with what is known of it; *check value* follows from a key
and says nothing of it; *tombstone* says that a key is shredded, for ever.
"""

import base64
import binascii
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from entrepot.codec.keys.root import Root
from entrepot.codec.primitives import KEY_BYTES, derive, prefixed
from entrepot.errors import IntegrityError, InvalidInput, PermanentError, Unsupported

FORMAT: Final = 1
NUMBER_MAX: Final = 2**32 - 1
"""An object's header has 32 bits for it; 0 there means that it is not encrypted."""

_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class TenantKey:
    """A tenant's key, unwrapped: 32 bytes that no text ever shows."""

    tenant: str
    number: int
    secret: bytes = field(repr=False)

    @property
    def check(self) -> bytes:
        """Follows from the key, its tenant and its number."""
        info = b"entrepot/1 key check" + prefixed(self.tenant) + self.number.to_bytes(4, "big")
        return derive(self.secret, salt=b"", info=info)


@dataclass(frozen=True, slots=True)
class Record:
    """One wrapped key; ``root`` is the name of what wrapped it."""

    tenant: str
    number: int
    created: datetime
    root: str
    wrapped: bytes = field(repr=False)
    check: bytes = field(repr=False)

    def dump(self) -> bytes:
        """The text of its file."""
        return dump(
            "tenant key",
            tenant=self.tenant,
            number=self.number,
            created=self.created.isoformat(),
            root=self.root,
            wrapped=base64.b64encode(self.wrapped).decode(),
            check=base64.b64encode(self.check).decode(),
        )


def check_name(tenant: str, number: int = 1) -> None:
    """``InvalidInput`` unless both can name a key; keeps a tenant's id from being a path."""
    if not _TENANT.fullmatch(tenant):
        raise InvalidInput(
            "tenant id cannot name keys",
            hint="1 to 63 of a-z, 0-9, '.', '_' and '-', a letter or digit first",
            tenant=tenant,
        )
    if not 1 <= number <= NUMBER_MAX:
        raise InvalidInput(f"key numbers are 1 to {NUMBER_MAX}", tenant=tenant, number=number)


def context_of(tenant: str, number: int) -> str:
    """What a tenant key is bound to when it is wrapped; part of the format."""
    return f"entrepot/1 tenant key {number} of {tenant}"


async def wrap(root: Root, key: TenantKey, *, created: datetime) -> Record:
    """``key`` wrapped by ``root``, tried out; raises what the root raises."""
    context = context_of(key.tenant, key.number)
    record = Record(
        tenant=key.tenant,
        number=key.number,
        created=created,
        root=root.name,
        wrapped=await root.wrap(key.secret, context=context),
        check=key.check,
    )
    await unwrap(root, record)
    return record


async def unwrap(root: Root, record: Record) -> TenantKey:
    """The key of ``record``; ``IntegrityError`` where it is not the one that was wrapped."""
    context = context_of(record.tenant, record.number)
    secret = await root.unwrap(record.wrapped, context=context)
    key = TenantKey(record.tenant, record.number, secret)
    if len(secret) != KEY_BYTES or not hmac.compare_digest(key.check, record.check):
        raise IntegrityError(
            "root gives back another key than was wrapped",
            hint="entrepot keys recover KIT",
            root=root.name,
            tenant=record.tenant,
            number=record.number,
        )
    return key


def dump(kind: str, **values: Any) -> bytes:
    """The text of a file of the ring."""
    return json.dumps({"format": FORMAT, "kind": kind, **values}, indent=1).encode() + b"\n"


def parse(data: bytes, *, kind: str, path: Path) -> Mapping[str, Any]:
    """The values of a file; ``Unsupported`` for another format, else ``IntegrityError``."""
    try:
        values = json.loads(data)
    except ValueError as error:
        raise damaged(path) from error
    if not isinstance(values, dict) or values.get("kind") != kind:
        raise damaged(path)
    if values.get("format") != FORMAT:
        raise Unsupported(
            f"file of the key ring has format {values.get('format')!r}, this reads {FORMAT}",
            hint="use the version of entrepot that wrote it, or a newer one",
            path=str(path),
        )
    return values


def parse_record(data: bytes, *, tenant: str, number: int, path: Path) -> Record:
    """The record that ``data`` must be, that of ``tenant`` and ``number``."""
    values = parse(data, kind="tenant key", path=path)
    if (values.get("tenant"), values.get("number")) != (tenant, number):
        raise IntegrityError(
            "file holds the key of another tenant or number",
            hint="move it to where it belongs, then: entrepot keys recover KIT",
            path=str(path),
        )
    try:
        return Record(
            tenant=tenant,
            number=number,
            created=parse_time(values["created"]),
            root=str(values["root"]),
            wrapped=base64.b64decode(values["wrapped"], validate=True),
            check=base64.b64decode(values["check"], validate=True),
        )
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise damaged(path) from error


def parse_time(text: str) -> datetime:
    """An aware time of ISO 8601; ``ValueError`` for others."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment


def damaged(path: Path) -> IntegrityError:
    """The error of a file that is not what it should be."""
    return IntegrityError(
        "file of the key ring is damaged",
        hint=f"mv {path} {path}.damaged, then: entrepot keys recover KIT",
        path=str(path),
    )


def shredded(tenant: str, number: int | None) -> PermanentError:
    """The error of a key that is gone for ever; of the tenant where ``number`` is ``None``."""
    which = {} if number is None else {"number": number}
    return PermanentError(
        "keys of this tenant were shredded" if number is None else "key was shredded",
        hint="what it encrypted cannot be read again, which was the purpose",
        tenant=tenant,
        **which,
    )
