"""Cutting a bucket into ranges of keys that can be swept side by side.

The cuts are the marks that an earlier sweep left, else the bucket's own first-level prefixes,
taken from one page of a delimited listing of each site. A flat bucket is one range the first time.
A cut is only a place between two keys: ranges cover every key whatever was or was not seen.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from entrepot.errors import InvalidInput
from entrepot.replication.sites import Site

DELIMITER = "/"


async def find_prefixes(sites: Sequence[Site], bucket: str, *, prefix: str) -> list[str]:
    """First-level prefixes below ``prefix``, at most one page of each site, sorted."""
    found: set[str] = set()
    for site in sites:
        async for page in site.store.list(bucket, prefix=prefix, delimiter=DELIMITER):
            found.update(v.key for v in page.versions if not v.version_id)
            break
    return sorted(found, key=str.encode)


def cut(places: Iterable[str], *, shards: int) -> list[tuple[str, str]]:
    """At most ``shards`` ranges (after, stop at], the first from and the last to "" (no bound).

    ``places`` are keys or prefixes in order, at distances that are meant to be even.
    """
    if shards < 1:
        raise InvalidInput("a bucket is swept in one range at least", shards=shards)
    inner = list(places)[1:]  # the first prefix would cut off nothing
    wanted = min(shards - 1, len(inner))
    cuts = [inner[len(inner) * number // (wanted + 1)] for number in range(1, wanted + 1)]
    bounds = ["", *dict.fromkeys(cuts), ""]
    return list(pairwise(bounds))
