"""No key ever sees a nonce twice: counted over a million frames, and over what is done again."""

import pytest

from entrepot.clock import new_bytes
from entrepot.codec import frames, seal
from entrepot.codec.encode import footer
from entrepot.codec.frames import BATCH_FRAMES, FRAME_BYTES, FrameSealer
from entrepot.codec.primitives import Gcm, Piece, Room, derive
from entrepot.errors import LimitExceeded
from tests.codec import making

SEEN: list[tuple[bytes, bytes]] = []


class Noting(Gcm):
    """Notes key and nonce of all that it encrypts."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.key = key

    def seal(self, data: Piece, target: Room, *, nonce: bytes, aad: bytes) -> None:
        SEEN.append((self.key, nonce))
        super().seal(data, target, nonce=nonce, aad=aad)


class OnlyNoting(Noting):
    """Encrypts nothing: a million frames of 64 KiB would take half a minute."""

    def seal(self, data: Piece, target: Room, *, nonce: bytes, aad: bytes) -> None:
        SEEN.append((self.key, nonce))


@pytest.fixture(autouse=True)
def noting(monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    monkeypatch.setattr(frames, "Gcm", Noting)
    monkeypatch.setattr(seal, "Gcm", Noting)


def test_a_million_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "Gcm", OnlyNoting)
    batch, segments, batches = memoryview(bytes(BATCH_FRAMES * FRAME_BYTES)), 25, 2500
    data_key = new_bytes(32)
    for _ in range(segments):
        sealer = FrameSealer(derive(data_key, salt=new_bytes(16), info=b"test"), aad=b"")
        for _ in range(batches):
            for _ in sealer.feed(batch):
                pass
        for _ in sealer.drain():
            pass
    assert len(SEEN) == segments * batches * BATCH_FRAMES == 1_000_000
    assert len(set(SEEN)) == len(SEEN)


@pytest.mark.parametrize("kind", ["encrypted", "both"])
def test_parts_that_are_uploaded_again_and_footers(kind: str) -> None:
    shape = making.shape(kind)
    sizes = [0, 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES]
    bodies = [making.noise(size) for size in sizes]
    for _ in range(200):  # the same parts of the same write, again and again
        rows = [
            making.segment(shape, body, part=part)[1] for part, body in enumerate(bodies, start=1)
        ]
        footer(shape, making.table(rows))
    assert len(SEEN) >= 200 * 9
    assert len(set(SEEN)) == len(SEEN)


def test_seals_and_other_writes() -> None:
    for _ in range(500):
        shape = making.shape("encrypted")
        making.stored_object(shape, b"x", b"y")
    assert len(set(SEEN)) == len(SEEN) == 500 * 4  # seal, two segments, footer


def test_the_counter_does_not_wrap() -> None:
    sealer = FrameSealer(bytes(32), aad=b"")
    sealer._index = 2**32 - 1
    assert b"".join([*sealer.feed(bytes(FRAME_BYTES)), *sealer.drain()])
    sealer = FrameSealer(bytes(32), aad=b"")
    sealer._index = 2**32 - 1
    list(sealer.feed(bytes(FRAME_BYTES + 1)))
    with pytest.raises(LimitExceeded):
        list(sealer.drain())
