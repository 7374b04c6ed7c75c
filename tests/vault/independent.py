"""A reader of vaults written from ``docs/format.md`` alone, sharing no code with ``entrepot``.

A vault is given as its objects by name. All that it says of itself is compared on the way.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Files = Mapping[str, bytes]
RingKey = Callable[[str, int], bytes]


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


def b3(data: bytes, key: bytes | None = None) -> bytes:
    return blake3(data, key=key).digest()


def lp(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def zstd(frame: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(frame)


def open_slot(vault: bytes, slot: bytes, ring_key: RingKey, private: bytes | None) -> bytes | None:
    """The vault key, or nothing where the slot is for somebody else."""
    assert slot[:4] == b"EPVS"
    head, sealed, check = slot[:-64], slot[-64:-16], slot[-16:]
    if slot[4] == 1:
        size = int.from_bytes(slot[5:7], "big")
        name, rest = slot[7 : 7 + size].decode(), head[7 + size :]
        assert len(rest) == 20
        secret, salt = ring_key(name, int.from_bytes(rest[:4], "big")), rest[4:]
    else:
        assert slot[4] == 2 and len(head) == 69
        public, shown = head[5:37], head[37:69]
        if private is None:
            return None
        own = X25519PrivateKey.from_private_bytes(private)
        if own.public_key().public_bytes_raw() != public:
            return None
        secret = own.exchange(X25519PublicKey.from_public_bytes(shown))
        salt = shown + public
    info = b"entrepot/1 vault slot"
    key = AESGCM(hkdf(secret, salt, info)).decrypt(bytes(12), sealed, info + b3(vault) + head)
    assert b3(slot[:-16], hkdf(key, vault[4:20], b"entrepot/1 vault slot check"))[:16] == check
    return key


def open_record(vault: bytes, key: bytes, kind: int, name: str, record: bytes) -> bytes:
    assert record[:5] == b"EPVR" + bytes([kind])
    info = b"entrepot/1 vault record"
    aes = AESGCM(hkdf(key, record[5:21], info))
    aad = b3(info + b3(vault) + bytes([kind]) + lp(name.encode()))
    frames = [record[at : at + 65552] for at in range(21, len(record), 65552)]
    nonces = (bytes(7) + struct.pack(">IB", i, i == len(frames) - 1) for i in range(len(frames)))
    return zstd(b"".join(aes.decrypt(n, x, aad) for n, x in zip(nonces, frames, strict=True)))


def read_rows(rows: bytes) -> Iterator[tuple[bytes, int, int, bool]]:
    for chunk, stored, size in struct.iter_unpack(">32sII", rows):
        yield chunk, stored, size & 0x7FFFFFFF, bool(size >> 31)


class Vault:
    """``key`` is the vault key; ``ring_key`` gives the keys of other domains."""

    def __init__(self, files: Files, ring_key: RingKey, private: bytes | None = None) -> None:
        self.files, self.ring_key = files, ring_key
        self.file = files["vault"]
        mark, self.id, *_ = struct.unpack(">4s16sQIIII", self.file)
        assert mark == b"EPV1"
        opened = [
            open_slot(self.file, slot, ring_key, private)
            for name, slot in files.items()
            if name.startswith("slots/")
        ]
        keys = {key for key in opened if key}
        (self.key,) = keys
        self.chunks: dict[bytes, bytes] = {}
        self.packs: dict[bytes, bytes] = {}
        for name, data in files.items():
            if name.startswith("packs/"):
                pack = b3(data)
                assert name == f"packs/{pack.hex()[:2]}/{pack.hex()}"
                self.packs[pack] = self._read_pack(data)
        self._compare_indexes()

    def records(self, kind: int) -> dict[str, bytes]:
        folder = {1: "indexes/", 2: "snapshots/", 3: "dooms/", 5: "drafts/"}[kind]
        return {
            (name := path[len(folder) :]): open_record(self.file, self.key, kind, name, data)
            for path, data in self.files.items()
            if path.startswith(folder)
        }

    def _read_pack(self, data: bytes) -> bytes:
        """What an index says behind the id and the length of this pack."""
        header_size, directory_size, mark = struct.unpack(">HI4s", data[-10:])
        header, sealed = data[:header_size], data[-10 - directory_size : -10]
        size = int.from_bytes(header[4:6], "big")
        domain, number = header[6 : 6 + size].decode(), header[6 + size : 10 + size]
        salt = header[10 + size :]
        assert header[:4] == b"EPVP" and mark == b"EPVD" and len(salt) == 16
        secret = self.ring_key(domain, int.from_bytes(number, "big")) if domain else self.key
        assert domain or number == bytes(4)
        names = hkdf(secret, self.id, b"entrepot/1 chunk id")
        aes = AESGCM(hkdf(secret, self.id + salt, b"entrepot/1 pack"))
        rows = aes.decrypt(bytes(8) + b"\xff" * 4, sealed, b3(header))
        at = header_size
        for number_, (chunk, stored, plain, packed) in enumerate(read_rows(rows)):
            blob = data[at : at + stored]
            found = aes.decrypt(bytes(8) + struct.pack(">I", number_), blob, b3(header))
            found = zstd(found) if packed else found
            assert len(found) == plain and b3(found, names) == chunk
            self.chunks[chunk] = found
            at += stored
        assert at == len(data) - 10 - directory_size
        return lp(header) + struct.pack(">I", len(rows) // 40) + rows

    def _compare_indexes(self) -> None:
        named = set()
        for content in self.records(1).values():
            at = 4
            for _ in range(int.from_bytes(content[:4], "big")):
                pack, size = struct.unpack(">32sI", content[at : at + 36])
                said = self.packs[pack]
                assert content[at + 36 : at + 36 + len(said)] == said
                assert len(self.files[f"packs/{pack.hex()[:2]}/{pack.hex()}"]) == size
                at += 36 + len(said)
                named.add(pack)
            assert at == len(content)
        assert named == set(self.packs)

    def trees(self) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
        """Each tree of each snapshot, and the bytes of its entries by key."""
        for content in self.records(2).values():
            snapshot = json.loads(content)
            assert snapshot["format"] == 1
            for tree in snapshot["trees"]:
                yield tree, dict(self._entries(tree))

    def _entries(self, tree: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
        for page in tree["pages"]:
            for line in self.chunks[bytes.fromhex(page)].split(b"\n")[:-1]:
                entry = json.loads(line)
                parts = [self.chunks[bytes.fromhex(each)] for each in entry.get("c", [])]
                assert sum(map(len, parts)) == entry.get("s", 0)
                assert len(parts) < 2 or "b" not in entry or b3(b"".join(parts)).hex() == entry["b"]
                yield entry["k"], b"".join(parts)
