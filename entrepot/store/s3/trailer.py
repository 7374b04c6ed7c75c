"""A body in ``aws-chunked`` framing, with its CRC-32C after it: pure but for the body itself.

Source: "Signature calculations for trailing headers" of the S3 API reference, in its unsigned form
(``STREAMING-UNSIGNED-PAYLOAD-TRAILER``): the request is signed, its body proved by the CRC. Chunks
have one length, so that the whole length is known before; they are not copied together.
"""

from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

CONTENT: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
NAME: Final = "x-amz-checksum-crc32c"
CHUNK_BYTES: Final = 1 << 20
_TRAILER_BYTES: Final = len(f"0\r\n{NAME}:AAAAAA==\r\n\r\n")


def checksum(crc: int) -> str:
    """A CRC as headers and trailers carry it."""
    return b64encode(crc.to_bytes(4, "big")).decode()


def trailing(headers: dict[str, str], size_bytes: int) -> dict[str, str]:
    """The headers of a request whose body is framed."""
    encodings = [name for name in ("aws-chunked", headers.get("content-encoding")) if name]
    return headers | {
        "content-encoding": ",".join(encodings),
        "content-length": str(framed_size(size_bytes)),
        "x-amz-decoded-content-length": str(size_bytes),
        "x-amz-trailer": NAME,
    }


def framed_size(size_bytes: int) -> int:
    """The length of a body of ``size_bytes`` in frames."""
    whole, rest = divmod(size_bytes, CHUNK_BYTES)
    frames = whole * _frame_size(CHUNK_BYTES) + (_frame_size(rest) if rest else 0)
    return frames + _TRAILER_BYTES


def _frame_size(length: int) -> int:
    return len(f"{length:x}") + 2 + length + 2


async def framed(
    pieces: AsyncIterator[bytes], size_bytes: int, crc32c: Callable[[], int]
) -> AsyncGenerator[bytes | memoryview, None]:
    """The frames of a body that has ``size_bytes``, which the caller made sure of."""
    left, room = size_bytes, 0
    async for piece in pieces:
        view = memoryview(piece)
        while view:
            if not room:
                room = min(CHUNK_BYTES, left)
                yield b"%x\r\n" % room
            taken = view[:room]
            yield taken
            view, room, left = view[len(taken) :], room - len(taken), left - len(taken)
            if not room:
                yield b"\r\n"
    yield f"0\r\n{NAME}:{checksum(crc32c())}\r\n\r\n".encode()
