"""Two sites brought apart in every way that a sweep heals, and what it must make of them.

``EXPECTED`` is written down by hand, not computed by our planner.
"""

import hashlib
from collections.abc import Mapping

from tests.running import Object, Running


def seen(
    body: bytes,
    *,
    content_type: str = "binary/octet-stream",
    metadata: Mapping[str, str] = {},
    tags: Mapping[str, str] = {},
) -> Object:
    """What a reader gets of ``body``."""
    return Object(
        sha256=hashlib.sha256(body).hexdigest(),
        content_type=content_type,
        metadata=tuple(sorted(metadata.items())),
        tags=tuple(sorted(tags.items())),
    )


ODD = "deep/ü +%&'()~,;=@/ä"
LARGE = b"0123456789abcdef" * 100_000  # above what is read whole

EXPECTED = {
    "only-a": seen(b"a"),
    ODD: seen(b"odd", content_type="text/x-odd", metadata={"who": "me"}, tags={"team": "x y"}),
    "only-b/large": seen(LARGE),
    "newer-at-a": seen(b"second, a"),
    "newer-at-b": seen(b"second, b"),
    "same-bytes": seen(b"same"),
}
"""``deleted-at-b`` is in neither: its marker is newer than a's object."""


def make_differ(stack: Running, bucket: str) -> None:
    """Write the differences into an empty bucket: eleven versions and one marker to be copied."""
    a, b = (stack.s3(site) for site in stack.sites)
    a.put_object(Bucket=bucket, Key="only-a", Body=b"a")
    a.put_object(
        Bucket=bucket,
        Key=ODD,
        Body=b"odd",
        ContentType="text/x-odd",
        Metadata={"who": "me"},
        Tagging="team=x%20y",
    )
    b.put_object(Bucket=bucket, Key="only-b/large", Body=LARGE)
    b.put_object(Bucket=bucket, Key="newer-at-a", Body=b"first, b")
    a.put_object(Bucket=bucket, Key="newer-at-a", Body=b"second, a")
    a.put_object(Bucket=bucket, Key="newer-at-b", Body=b"first, a")
    b.put_object(Bucket=bucket, Key="newer-at-b", Body=b"second, b")
    b.put_object(Bucket=bucket, Key="deleted-at-b", Body=b"gone")
    a.put_object(Bucket=bucket, Key="deleted-at-b", Body=b"gone as well")
    b.delete_object(Bucket=bucket, Key="deleted-at-b")
    for s3 in (a, b):  # two writes: the later one's version must end at both
        s3.put_object(Bucket=bucket, Key="same-bytes", Body=b"same")
