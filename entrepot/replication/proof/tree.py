"""A Merkle radix tree over keys in order: one digest for a listing, and one for each prefix in it.

Invariant: the digest of a set of keys depends on the keys and their records alone, not on how the
listing was cut into pages, or on what else was or was not kept. It is made in one pass.

A set of one key has the digest of its record. A larger set is a *node* at the longest prefix that
all of its keys share: its own record, if the prefix is a key itself, and a child for each next
byte, 256 at most. So what lies below a prefix is one digest wherever it stands (``docs/format.md``
has every byte).

Memory: an open node for each byte of the current key at which keys part (1,024 at most, of some
10 KiB at most), and a *sketch*: the children of at most ``SKETCH_MAX`` nodes, those with the most
keys below them, from which ``drill`` finds where two trees differ.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from entrepot.codec.primitives import prefixed
from entrepot.errors import IntegrityError
from entrepot.replication.proof.record import Profile

SKETCH_MAX: Final = 1024
EMPTY: Final = bytes(32)
"""Stands for the digest of no keys."""
_NODE = b"entrepot/1 node"
_COUNT = struct.Struct(">H").pack


class Child(NamedTuple):
    """What lies below one next byte: its digest, and the longest prefix of all of it."""

    prefix: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Branch:
    """What lies below a prefix: the record of the key of that name, and children by next byte."""

    own: bytes | None
    children: Mapping[int, Child]
    keys: int


@dataclass(frozen=True, slots=True)
class Sketch:
    """The upper part of a tree: branches by prefix, that of the whole listing always."""

    prefix: bytes
    branches: Mapping[bytes, Branch]


@dataclass(frozen=True, slots=True)
class Root:
    """A whole listing: its digest, its counts and its sketch."""

    digest: bytes
    keys: int
    versions: int
    sketch: Sketch


@dataclass(slots=True)
class _Node:
    depth: int
    own: bytes | None = None
    children: dict[int, Child] = field(default_factory=dict)
    keys: int = 0


class Tree:
    """Takes keys in ascending order of their bytes, all of which start with ``prefix``."""

    def __init__(self, profile: Profile, *, prefix: bytes = b"") -> None:
        self._profile = profile
        self._prefix = prefix
        self._open: list[_Node] = []
        self._last = b""
        self._digest = EMPTY  # of the last key, which no node has yet
        self._sketch: dict[bytes, Branch] = {}
        self._least = 2  # keys that a node of the sketch has below it
        self.keys = 0
        self.versions = 0

    def add(self, key: bytes, digest: bytes, *, versions: int) -> None:
        """The next key, the digest of its record, and how many versions that has.

        Raises:
            IntegrityError: it does not come after the last one, or has another prefix.
        """
        if not key.startswith(self._prefix) or (self.keys and key <= self._last):
            raise IntegrityError(
                "the endpoint's listing is not in key order", key=key.decode("utf-8", "replace")
            )
        if self.keys:
            self._close_to(_shared(self._last, key))
        self._last, self._digest = key, digest
        self.keys += 1
        self.versions += versions

    def root(self) -> Root:
        """What was added, as one; nothing can be added afterwards."""
        top = self._top() if self.keys else None
        digest = hashlib.sha256(b"entrepot/1 root")
        digest.update(prefixed(self._profile.text) + prefixed(self._prefix))
        digest.update(struct.pack(">QQ", self.keys, self.versions))
        digest.update(top.digest if top else EMPTY)
        if self._prefix not in self._sketch:
            self._sketch[self._prefix] = self._whole(top)
        sketch = Sketch(self._prefix, self._sketch)
        return Root(digest.digest(), self.keys, self.versions, sketch)

    def _top(self) -> Child:
        child, keys = Child(self._last, self._digest), 1
        while self._open:
            child, keys = self._close(self._open.pop(), child, keys)
        return child

    def _whole(self, top: Child | None) -> Branch:
        """The branch of the whole listing where no node stands at its prefix."""
        if top is None:
            return Branch(None, {}, 0)
        if top.prefix == self._prefix:  # the one key there is
            return Branch(top.digest, {}, self.keys)
        return Branch(None, {top.prefix[len(self._prefix)]: top}, self.keys)

    def _close_to(self, depth: int) -> None:
        """Close what lies deeper than ``depth``, where the next key parts from the last one."""
        child, keys = Child(self._last, self._digest), 1
        while self._open and self._open[-1].depth > depth:
            child, keys = self._close(self._open.pop(), child, keys)
        if not self._open or self._open[-1].depth < depth:
            self._open.append(_Node(depth))
        _attach(self._open[-1], child, keys)

    def _close(self, node: _Node, child: Child, keys: int) -> tuple[Child, int]:
        _attach(node, child, keys)
        prefix = self._last[: node.depth]
        pieces = [_NODE, prefixed(prefix), b"\0" if node.own is None else b"\1" + node.own]
        pieces.append(_COUNT(len(node.children)))
        pieces += [each.digest for each in node.children.values()]
        digest = hashlib.sha256(b"".join(pieces)).digest()
        if node.keys >= self._least or prefix == self._prefix:
            self._keep(prefix, Branch(node.own, node.children, node.keys))
        return Child(prefix, digest), node.keys

    def _keep(self, prefix: bytes, branch: Branch) -> None:
        self._sketch[prefix] = branch
        while len(self._sketch) > SKETCH_MAX:
            self._least *= 2
            self._sketch = {
                name: each
                for name, each in self._sketch.items()
                if each.keys >= self._least or name == self._prefix
            }


def _attach(node: _Node, child: Child, keys: int) -> None:
    if len(child.prefix) == node.depth:
        node.own = child.digest
    else:
        node.children[child.prefix[node.depth]] = child
    node.keys += keys


def _shared(one: bytes, other: bytes) -> int:
    """How many first bytes are the same."""
    size = min(len(one), len(other))
    differing = int.from_bytes(one[:size], "big") ^ int.from_bytes(other[:size], "big")
    return size - (differing.bit_length() + 7) // 8
