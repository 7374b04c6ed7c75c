"""The digest of a listing, written from ``docs/format.md`` alone: it shares no code with ours."""

import hashlib
import struct
from typing import Any


def lp(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def version(v: dict[str, Any]) -> bytes:
    flags = bytes([v["marker"] + 2 * v["current"]])
    numbers = struct.pack(">QQ", v["mtime_ms"], v["size"])
    texts = [v["content"].encode(), v["metadata"], v["tags"], v["lock"]]
    return flags + lp(v["id"].encode()) + numbers + b"".join(map(lp, texts))


def record(key: bytes, versions: list[dict[str, Any]]) -> bytes:
    ordered = sorted(versions, key=lambda v: (-v["mtime_ms"], v["id"]))
    return sha(b"entrepot/1 key", lp(key), struct.pack(">I", len(ordered)), *map(version, ordered))


def below(keys: dict[bytes, bytes]) -> bytes:
    if len(keys) == 1:
        return next(iter(keys.values()))
    first, last = min(keys), max(keys)
    size = next((n for n, (a, b) in enumerate(zip(first, last)) if a != b), len(first))  # noqa: B905
    own = b"\1" + keys[first] if len(first) == size else b"\0"
    nexts = sorted({key[size] for key in keys if len(key) > size})
    children = [
        below({k: d for k, d in keys.items() if len(k) > size and k[size] == n}) for n in nexts
    ]
    count = struct.pack(">H", len(children))
    return sha(b"entrepot/1 node", lp(first[:size]), own, count, *children)


def root(keys: dict[bytes, bytes], *, profile: str, prefix: bytes, versions: int) -> bytes:
    top = below(keys) if keys else bytes(32)
    counts = struct.pack(">QQ", len(keys), versions)
    return sha(b"entrepot/1 root", lp(profile.encode()), lp(prefix), counts, top)
