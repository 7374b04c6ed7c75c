"""A decoder written from ``docs/format.md`` alone, sharing no code with ``entrepot``."""

import base64
import struct
from collections.abc import Callable
from hashlib import md5, sha256
from io import BytesIO

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FOOTER = b"entrepot/1 footer"


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


def lp(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def prefixed(field: BytesIO) -> bytes:
    return field.read(int.from_bytes(field.read(2), "big"))


def open_seal(seal: bytes, tenant_key: bytes, aad: bytes) -> bytes:
    key = hkdf(tenant_key, seal[:16], b"entrepot/1 seal")
    return AESGCM(key).decrypt(bytes(12), seal[16:], aad)


def open_entry(text: str, tenant: str, tenant_key: bytes, bucket: str, key: str) -> bytes:
    """The data key that the metadata entry ``entrepot-seal`` holds for a place."""
    assert text[:2] == "1."
    entry = base64.urlsafe_b64decode(text[2:] + "==")
    place = b"".join(lp(name.encode()) for name in (tenant, bucket, key))
    return open_seal(entry[21:85], tenant_key, b"entrepot/1 place" + place + entry[1:21])


def open_frames(key: bytes, aad: bytes, stored: bytes) -> bytes:
    frames = [stored[at : at + 65552] for at in range(0, len(stored), 65552)]
    nonces = (bytes(7) + struct.pack(">IB", i, i == len(frames) - 1) for i in range(len(frames)))
    return b"".join(map(lambda n, x: AESGCM(key).decrypt(n, x, aad), nonces, frames))


def read_body(body: bytes, size: int, digest: bytes, frames: list[tuple[int, bytes]]) -> bytes:
    """The plaintext of what lies under the frames of a segment."""
    if frames:
        assert len(frames) == -(-size // 2**20) and len(body) == sum(n for n, _ in frames)
        packed = BytesIO(body)
        zstd = [(packed.read(n), checksum) for n, checksum in frames]
        assert all(frame[-4:] == checksum for frame, checksum in zstd)
        body = b"".join(zstandard.ZstdDecompressor().decompress(frame) for frame, _ in zstd)
    assert len(body) == size and md5(body).digest() == digest
    return body


def decode(stored: bytes, tenant_key: Callable[[str, int], bytes]) -> bytes:
    """The plaintext of a whole object."""
    flags, data_id, number = stored[12], stored[16:32], stored[48:52]
    seal = owner = data_key = b""
    if flags & 2:
        length, seal = struct.unpack(">H", stored[116:118])[0], stored[52:116]
        owner = stored[116 : 118 + length]
        key = tenant_key(owner[2:].decode(), int.from_bytes(number, "big"))
        data_key = open_seal(seal, key, b"entrepot/1 object" + owner + data_id + number)

    length = int.from_bytes(stored[-8:-4], "big")
    rest, footer = stored[:-length], stored[-length:]
    assert footer[:8] == struct.pack("<II", 0x184D2A5F, length - 8) and footer[-4:] == b"EPOF"
    table, digest = footer[8:-40], footer[-40:-8]
    if flags & 2:
        key, aad = hkdf(data_key, footer[8:24], FOOTER), sha256(FOOTER + data_id).digest()
        table = open_frames(key, aad, footer[24:-8])
    assert flags & 2 or sha256(FOOTER + data_id + table).digest() == digest

    field = BytesIO(table)
    assert prefixed(field) == seal
    object_size, _etag = int.from_bytes(field.read(8), "big"), prefixed(field)
    names = [(prefixed(field), prefixed(field))[0] for _ in range(field.read(1)[0])]
    assert names == sorted(set(names))
    plaintext, last = b"", 0
    for _ in range(int.from_bytes(field.read(2), "big")):
        part, size, length, digest, salt, count = struct.unpack(">HQQ16s16sI", field.read(54))
        frames = [struct.unpack(">I4s", field.read(8)) for _ in range(count)]
        fixed = struct.pack(">4sBBH", b"EPO1", flags, 20 * (flags & 1), part)
        head = fixed + data_id + salt + number + seal + owner
        head = struct.pack("<II", 0x184D2A5E, len(head)) + head
        segment, rest = rest[:length], rest[length:]
        assert last < part <= 10_000 and segment.startswith(head)
        body, last = segment[len(head) :], part
        if flags & 2:
            key = hkdf(data_key, salt, b"entrepot/1 segment")
            body = open_frames(key, sha256(head).digest(), body)
        assert bool(frames) == bool(flags & 1 and size)
        plaintext += read_body(body, size, digest, frames)
    assert field.read() == rest == b"" and len(plaintext) == object_size
    return plaintext
