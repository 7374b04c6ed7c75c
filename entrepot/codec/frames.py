"""A stream under AES-256-GCM in frames of 64 KiB: STREAM (Hoang, Reyhanitabar, Rogaway, Vizár,
"Online authenticated-encryption and its nonce-reuse misuse-resistance", CRYPTO 2015).

Invariant: the nonce is the frame's number and whether it is the last, under a key of this stream
alone. A frame that is dropped, repeated, swapped or brought from elsewhere does not open, and so
does an end that is cut off or added. 64 KiB: what a small range must read at least, and large
enough that the tag (0.02 %) and the call are nothing.
"""

from collections.abc import Iterator
from itertools import islice, repeat
from typing import Final

from entrepot.codec.primitives import TAG_BYTES, Gcm, Piece
from entrepot.errors import IntegrityError, LimitExceeded

FRAME_BYTES: Final = 65_536
STORED_BYTES: Final = FRAME_BYTES + TAG_BYTES
BATCH_FRAMES: Final = 16
"""Frames, 1 MiB, that are worked on together and given in one piece."""

COUNTER_MAX: Final = 2**32 - 1
"""The largest frame number: 256 TiB a stream, far above what a part can hold."""


class Cut:
    """Cuts a stream, whatever pieces it comes in, at the given lengths; holds less than one."""

    def __init__(self, lengths: Iterator[int]) -> None:
        self._lengths = lengths
        self._want = next(lengths, 0)
        self._held = bytearray()

    def feed(self, piece: Piece) -> Iterator[Piece]:
        """What became whole with ``piece``; to be exhausted before the next one is fed.

        Views of ``piece`` where it can be, so it must not change as long as they are used.
        """
        view = memoryview(piece)
        while 0 < self._want <= len(self._held) + len(view):
            missing = self._want - len(self._held)
            whole: Piece = view[:missing]
            if self._held:
                self._held += whole
                whole, self._held = self._held, bytearray()
            view = view[missing:]
            self._want = next(self._lengths, 0)
            yield whole
        self._held += view

    @property
    def rest(self) -> bytearray:
        """What did not become whole."""
        return self._held


def frame_count(size_bytes: int) -> int:
    """Frames of a stream of that many bytes; an empty one has one too."""
    return max(1, -(-size_bytes // FRAME_BYTES))


def sealed_size(size_bytes: int) -> int:
    """Stored bytes of a stream of that many."""
    return size_bytes + TAG_BYTES * frame_count(size_bytes)


def opened_size(stored_bytes: int) -> int:
    """The inverse of ``sealed_size``; ``IntegrityError`` where no stream is that long."""
    size_bytes = stored_bytes - TAG_BYTES * max(1, -(-stored_bytes // STORED_BYTES))
    if size_bytes < 0 or sealed_size(size_bytes) != stored_bytes:
        raise IntegrityError("no stream of frames has that length", size_bytes=stored_bytes)
    return size_bytes


def _nonce(index: int, *, last: bool) -> bytes:
    if index > COUNTER_MAX:
        raise LimitExceeded("a stream has more than 2^32 frames")
    return bytes(7) + index.to_bytes(4, "big") + bytes([last])


class FrameSealer:
    """Encrypts one stream. At least one frame behind, because the last one is marked."""

    def __init__(self, key: bytes, *, aad: bytes) -> None:
        self._gcm = Gcm(key)
        self._aad = aad
        self._cut = Cut(repeat(FRAME_BYTES))
        self._waiting: list[Piece] = []
        self._index = 0
        self._room = bytearray()

    def feed(self, piece: Piece) -> Iterator[bytes]:
        """All frames but the last so far, 16 at a time; one frame of ``piece`` may be held."""
        for frame in self._cut.feed(piece):
            if len(self._waiting) == BATCH_FRAMES:
                yield self._sealed(last=False)
            self._waiting.append(frame)
        if self._waiting:
            latest = bytes(self._waiting.pop())  # a copy: a view would keep all of ``piece``
            if self._waiting:
                yield self._sealed(last=False)
            self._waiting = [latest]

    def drain(self) -> Iterator[bytes]:
        """The rest, the last frame marked."""
        if self._cut.rest or not self._waiting:
            self._waiting.append(self._cut.rest)
        yield self._sealed(last=True)

    def _sealed(self, *, last: bool) -> bytes:
        size_bytes = sum(map(len, self._waiting)) + TAG_BYTES * len(self._waiting)
        # Written where memory is in use already: fresh pages would take longer than AES does.
        self._room = room = _room(self._room, size_bytes)
        start = 0
        for left, frame in zip(reversed(range(len(self._waiting))), self._waiting, strict=True):
            stop = start + len(frame) + TAG_BYTES
            nonce = _nonce(self._index, last=last and not left)
            self._gcm.seal(frame, memoryview(room)[start:stop], nonce=nonce, aad=self._aad)
            self._index += 1
            start = stop
        self._waiting = []
        return bytes(memoryview(room)[:size_bytes])


class FrameOpener:
    """Decrypts frames ``first`` to ``last`` (inclusive) of a stream of ``size_bytes``."""

    def __init__(self, key: bytes, *, aad: bytes, size_bytes: int, first: int, last: int) -> None:
        self._gcm = Gcm(key)
        self._aad = aad
        self._final = frame_count(size_bytes) - 1
        self._index = first
        lengths = [STORED_BYTES] * (min(last, self._final - 1) - first + 1)
        if last == self._final:
            lengths.append(sealed_size(size_bytes) - STORED_BYTES * self._final)
        self._cut = Cut(iter(lengths))
        self._room = bytearray()

    def feed(self, piece: Piece) -> Iterator[bytes]:
        """What became whole, 16 frames at a time, each verified; else ``IntegrityError``."""
        frames = self._cut.feed(piece)
        while batch := list(islice(frames, BATCH_FRAMES)):
            yield self._opened(batch)

    def _opened(self, frames: list[Piece]) -> bytes:
        size_bytes = sum(map(len, frames)) - TAG_BYTES * len(frames)
        self._room = room = _room(self._room, size_bytes)
        start = 0
        for frame in frames:
            stop = start + len(frame) - TAG_BYTES
            nonce = _nonce(self._index, last=self._index == self._final)
            try:
                self._gcm.open(frame, memoryview(room)[start:stop], nonce=nonce, aad=self._aad)
            except IntegrityError as error:
                raise IntegrityError("a frame does not verify", frame=self._index) from error
            self._index += 1
            start = stop
        return bytes(memoryview(room)[:size_bytes])


def _room(room: bytearray, size_bytes: int) -> bytearray:
    return room if len(room) >= size_bytes else bytearray(size_bytes)
