"""CRC-32C (Castagnoli, RFC 3720), as S3 endpoints check it; some 50 GB/s."""

from awscrt import checksums  # type: ignore[import-untyped]


def crc32c(piece: bytes, before: int = 0) -> int:
    """The CRC of ``piece``, or of all bytes up to its end, ``before`` being that of those ahead."""
    return int(checksums.crc32c(piece, before))
