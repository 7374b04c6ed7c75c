"""The recovery kit: all keys of a ring in one text that can be printed and typed in again.

Invariants: a kit is read whole or not at all; any accident to it (a letter misread, a line missing,
a bit flipped, also in its plain words) is told from a wrong passphrase, before the passphrase is
tried. Recovery decides everything first and then only adds: it replaces no other key, brings no
shredded one back, and can be run again at any point.

``docs/keys.md`` has the format. Words: *row* a numbered line of the kit with its own check.
"""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from entrepot.clock import SYSTEM_CLOCK, Clock, new_bytes
from entrepot.codec.keys import record
from entrepot.codec.keys.directory import RingDirectory
from entrepot.codec.keys.passphrase import USUAL_COST, ScryptCost, check_new, stretch
from entrepot.codec.keys.record import FORMAT, Record, TenantKey, check_name, shredded
from entrepot.codec.keys.ring import KeyRing
from entrepot.codec.keys.root import Root
from entrepot.codec.keys.sealing import open_seal, seal
from entrepot.codec.primitives import SALT_BYTES
from entrepot.errors import (
    AccessDenied,
    AlreadyExists,
    Busy,
    IntegrityError,
    NotFound,
    Unsupported,
)

Name = tuple[str, int]
"""Tenant and number of a key."""

_ROW_BYTES: Final = 30
_MAGIC: Final = b"EPK1"
_OPENING_BYTES: Final = len(_MAGIC) + 2 + SALT_BYTES
_INFO: Final = b"entrepot/1 kit"
_BEGIN: Final = "-----BEGIN ENTREPOT RECOVERY KIT-----"
_END: Final = "-----END ENTREPOT RECOVERY KIT-----"
_TEXT: Final = re.compile(
    rf"(ENTREPOT RECOVERY KIT ([0-9]+)\b.*) {_BEGIN} (.*) {_END} check ([A-Z2-7]{{16}})", re.DOTALL
)
_ROW: Final = re.compile(r"([0-9]+): ([A-Z2-7 ]+) /([A-Z2-7]{4})(?: |$)")
_HEAD: Final = """\
ENTREPOT RECOVERY KIT {format}

This text holds the {keys} keys that the objects of {tenants} tenants are encrypted with. It is
sealed with a passphrase; with both, everything can be read, and without any kit and key ring,
nothing can. Keep it where the passphrase is not.

To make a key ring of it:      entrepot keys recover FILE
To read one object with it:    entrepot object decrypt --kit FILE OBJECT

Made {made} of ring {ring}.
Make a new one after keys were rotated or tenants added. Destroy this one after keys were
shredded: it still has them.
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A key in a kit, and when it was made."""

    key: TenantKey
    created: datetime


@dataclass(frozen=True, slots=True)
class Kit:
    """What a kit holds. ``shredded`` names keys that were gone by then, ``None`` whole tenants."""

    ring: str
    made: datetime
    keys: Mapping[Name, Kept] = field(repr=False)
    shredded: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a recovery did to each key.

    ``kept`` were there and open, ``repaired`` were there and did not open with this root,
    ``shredded`` are gone for ever, by the ring's tombstone or by the kit's.
    """

    added: tuple[Name, ...]
    kept: tuple[Name, ...]
    repaired: tuple[Name, ...]
    shredded: tuple[tuple[str, int | None], ...]


async def export_kit(
    ring: KeyRing,
    *,
    passphrase: SecretStr,
    cost: ScryptCost = USUAL_COST,
    clock: Clock = SYSTEM_CLOCK,
) -> str:
    """A kit of all keys of ``ring``. Fails whole where one of them cannot be unwrapped."""
    check_new(passphrase)
    keys, gone = await _inventory(ring)
    made = clock.now()
    head = _HEAD.format(
        format=FORMAT,
        keys=len(keys),
        tenants=len({kept.key.tenant for kept in keys}),
        made=made.isoformat(timespec="seconds"),
        ring=ring.directory.id,
    )
    inner = {
        "ring": ring.directory.id,
        "made": made.isoformat(),
        "keys": [
            {
                "tenant": kept.key.tenant,
                "number": kept.key.number,
                "created": kept.created.isoformat(),
                "secret": base64.b64encode(kept.key.secret).decode(),
            }
            for kept in keys
        ],
        "shredded": [{"tenant": tenant, "number": number} for tenant, number in gone],
    }
    salt = new_bytes(SALT_BYTES)
    key = await asyncio.to_thread(stretch, passphrase, salt=salt, cost=cost)
    opening = _MAGIC + bytes((cost.log2_n, cost.p)) + salt
    aad = opening + _normal(head).encode()
    sealed = seal(key, json.dumps(inner).encode(), info=_INFO, aad=aad)
    text = "\n".join([head, _BEGIN, *_rows(opening + sealed), _END])
    return f"{text}\ncheck {_check(_normal(text))}\n"


def read_kit(text: str, *, passphrase: SecretStr) -> Kit:
    """What ``text`` holds; blocks for as long as the kit's scrypt takes.

    Raises ``IntegrityError`` where it is damaged (naming the line where it can), ``AccessDenied``
    where the passphrase is wrong, ``Unsupported`` for a newer format.
    """
    head, data = _unpacked(text)
    opening, sealed = data[:_OPENING_BYTES], data[_OPENING_BYTES:]
    if not opening.startswith(_MAGIC) or not sealed:
        raise _damaged("its rows do not hold a kit")
    log2_n, p = opening[len(_MAGIC) :][:2]
    cost = ScryptCost(log2_n=log2_n, p=p)
    key = stretch(passphrase, salt=opening[-SALT_BYTES:], cost=cost)
    try:
        inner = open_seal(key, sealed, info=_INFO, aad=opening + head.encode())
    except IntegrityError as error:
        raise AccessDenied(
            "passphrase is not this kit's", hint="the kit itself is whole; try another"
        ) from error
    return _parsed(json.loads(inner))


def kit_keys(text: str, *, passphrase: SecretStr) -> Callable[[str, int], bytes]:
    """The secret of a tenant's key by number, from the kit alone, without ring and root.

    The function raises ``NotFound`` for a key that the kit does not have, ``PermanentError`` for
    one that was shredded before the kit was made.
    """
    kit = read_kit(text, passphrase=passphrase)

    def secret_of(tenant: str, number: int) -> bytes:
        check_name(tenant, number)
        kept = kit.keys.get((tenant, number))
        if kept is not None:
            return kept.key.secret
        if {(tenant, number), (tenant, None)} & set(kit.shredded):
            raise shredded(tenant, number)
        raise NotFound(
            "kit has no such key",
            hint=f"take a kit made after that key; this one is of {kit.made:%Y-%m-%d}",
            tenant=tenant,
            number=number,
        )

    return secret_of


async def recover(
    directory: Path,
    text: str,
    *,
    passphrase: SecretStr,
    root: Root,
    clock: Clock = SYSTEM_CLOCK,
) -> Recovery:
    """Make the ring of ``directory`` have every key of the kit, wrapped by ``root``.

    Raises what ``read_kit`` raises; ``AlreadyExists`` where the ring has another key under the name
    of one of the kit's, or still has one that the kit knows as shredded. Nothing is changed then.
    """
    kit = await asyncio.to_thread(read_kit, text, passphrase=passphrase)
    ring = await asyncio.to_thread(RingDirectory.create, directory, clock=clock, id=kit.ring)
    await asyncio.to_thread(_refuse_conflicts, ring, kit)
    done: dict[str, list[Name]] = {"added": [], "kept": [], "repaired": [], "shredded": []}
    fates = {name: await _fate(ring, kept, root) for name, kept in kit.keys.items()}
    for name, fate in fates.items():
        done[fate].append(name)
        if fate in ("added", "repaired"):
            kept = kit.keys[name]
            new = await record.wrap(root, kept.key, created=kept.created)
            await asyncio.to_thread(_put, ring, new, is_repair=fate == "repaired")
    for tenant, number in kit.shredded:
        await asyncio.to_thread(ring.shred, tenant, number, now=clock.now())
    return Recovery(
        added=tuple(done["added"]),
        kept=tuple(done["kept"]),
        repaired=tuple(done["repaired"]),
        shredded=(*done["shredded"], *kit.shredded),
    )


async def _inventory(ring: KeyRing) -> tuple[list[Kept], list[tuple[str, int | None]]]:
    keys: list[Kept] = []
    gone: list[tuple[str, int | None]] = []
    for tenant in await asyncio.to_thread(ring.tenants):
        if await asyncio.to_thread(ring.directory.is_shredded, tenant):
            gone.append((tenant, None))
        for number in sorted(set().union(*await asyncio.to_thread(ring.directory.numbers, tenant))):
            found = await asyncio.to_thread(ring.directory.read, tenant, number)
            if found is None:
                gone.append((tenant, number))
            else:
                keys.append(Kept(await ring.get(tenant, number), found.created))
    return keys, gone


def _refuse_conflicts(ring: RingDirectory, kit: Kit) -> None:
    """Before anything is changed: a ring that contradicts the kit is for a person to judge."""
    for tenant, number in kit.shredded:
        for each in ring.numbers(tenant)[0] if number is None else {number}:
            if each in ring.numbers(tenant)[0] and not ring.is_shredded(tenant, each):
                raise AlreadyExists(
                    "ring still has a key that was shredded before the kit was made",
                    hint=f"entrepot keys shred {tenant} --number {each}, then recover again",
                    tenant=tenant,
                    number=each,
                )
    for kept in kit.keys.values():
        found = _record_of(ring, kept)
        if found is not None and found.check != kept.key.check:
            raise AlreadyExists(
                "ring has another key under this number; nothing was changed",
                hint="is it the kit of this ring? else recover into an empty directory",
                tenant=kept.key.tenant,
                number=kept.key.number,
            )


def _record_of(ring: RingDirectory, kept: Kept) -> Record | None:
    """The ring's record of a kit's key; ``None`` where it has none, or a tombstone."""
    try:
        return ring.read(kept.key.tenant, kept.key.number)
    except NotFound:
        return None


async def _fate(ring: RingDirectory, kept: Kept, root: Root) -> str:
    """What recovery does with one key: a field of ``Recovery``."""
    tenant, number = kept.key.tenant, kept.key.number
    if await asyncio.to_thread(ring.is_shredded, tenant, number):
        return "shredded"
    found = await asyncio.to_thread(_record_of, ring, kept)
    if found is None:
        return "added"
    if found.root != root.name:
        return "repaired"
    try:
        await record.unwrap(root, found)
    except (IntegrityError, AccessDenied):  # of these two, wrapping it anew finds out
        return "repaired"
    return "kept"


def _put(ring: RingDirectory, new: Record, *, is_repair: bool) -> None:
    if is_repair:
        ring.replace(new)
    elif not ring.add(new):
        raise Busy(
            "another process made this key at the same time",
            hint="stop what uses the ring, then recover again",
            tenant=new.tenant,
            number=new.number,
        )


def _rows(data: bytes) -> Iterator[str]:
    for number, start in enumerate(range(0, len(data), _ROW_BYTES), start=1):
        piece = data[start : start + _ROW_BYTES]
        text = _base32(piece)
        groups = " ".join(text[at : at + 8] for at in range(0, len(text), 8))
        yield f"{number}: {groups} /{_row_check(number, piece)}"


def _row_check(number: int, piece: bytes) -> str:
    return _base32(hashlib.sha256(number.to_bytes(4, "big") + piece).digest())[:4]


def _check(text: str) -> str:
    return _base32(hashlib.sha256(text.encode()).digest()[:10])


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=")


def _normal(text: str) -> str:
    """``text`` with one blank for all that paper and mail do to blanks and line ends."""
    return re.sub(r"[ \t\r\n]+", " ", text).strip(" ")


def _unpacked(text: str) -> tuple[str, bytes]:
    """The plain words and the bytes of a kit that is whole."""
    normal = _normal(text)
    match = _TEXT.fullmatch(normal)
    if match is None:
        raise _damaged("it does not begin and end as a kit does")
    head, version, rows, check = match.groups()
    if version != str(FORMAT):
        raise Unsupported(
            f"kit has format {version}, this reads {FORMAT}",
            hint="use the version of entrepot that made it, or a newer one",
        )
    pieces: list[bytes] = []
    at = 0
    while at < len(rows):
        row = _ROW.match(rows, at)
        wanted = len(pieces) + 1
        if row is None or row[1] != str(wanted):
            raise _damaged(f"row {wanted} is missing or misread")
        piece = _decoded(row[2].replace(" ", ""))
        if piece is None or _row_check(wanted, piece) != row[3]:
            raise _damaged(f"row {wanted} is misread")
        pieces.append(piece)
        at = row.end()
    if _check(normal.removesuffix(f" check {check}")) != check:
        raise _damaged("its words or its last line are altered")
    return head, b"".join(pieces)


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        return None


def _damaged(what: str) -> IntegrityError:
    return IntegrityError(
        f"recovery kit is damaged: {what}", hint="compare it with the paper, or take another copy"
    )


def _parsed(inner: Mapping[str, Any]) -> Kit:
    """What was sealed, which is ours to the byte: the passphrase opened it."""
    keys = {}
    for each in inner["keys"]:
        key = TenantKey(each["tenant"], each["number"], base64.b64decode(each["secret"]))
        check_name(key.tenant, key.number)
        keys[key.tenant, key.number] = Kept(key, record.parse_time(each["created"]))
    gone = tuple((each["tenant"], each["number"]) for each in inner["shredded"])
    return Kit(inner["ring"], record.parse_time(inner["made"]), keys, gone)
