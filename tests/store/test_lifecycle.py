"""What a lifecycle would take: a document of S3 as rules, and rules over a history."""

from dataclasses import dataclass
from xml.etree import ElementTree

import pytest

from entrepot.store.lifecycle import DAY_MS, Expiry, expired
from entrepot.store.s3.lifecycle import expiries

NOW_MS = 1000 * DAY_MS

DOCUMENT = """
<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Rule><ID>1</ID><Status>Enabled</Status><Filter><Prefix>logs/</Prefix></Filter>
    <Expiration><Days>30</Days></Expiration></Rule>
  <Rule><ID>2</ID><Status>Disabled</Status><Filter></Filter>
    <Expiration><Days>1</Days></Expiration></Rule>
  <Rule><ID>3</ID><Status>Enabled</Status>
    <Filter><And><Prefix>a</Prefix><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter>
    <NoncurrentVersionExpiration><NoncurrentDays>7</NoncurrentDays>
      <NewerNoncurrentVersions>2</NewerNoncurrentVersions></NoncurrentVersionExpiration></Rule>
  <Rule><ID>4</ID><Status>Enabled</Status><Filter><Tag><Key>k</Key><Value>v</Value></Tag></Filter>
    <Expiration><Days>1</Days></Expiration></Rule>
  <Rule><ID>5</ID><Status>Enabled</Status><Prefix>old</Prefix>
    <Expiration><Date>2026-01-01T00:00:00Z</Date></Expiration></Rule>
  <Rule><ID>6</ID><Status>Enabled</Status><Filter><Prefix/></Filter>
    <Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration></Rule>
</LifecycleConfiguration>
"""


def test_a_document_as_rules() -> None:
    assert expiries(ElementTree.fromstring(DOCUMENT)) == (
        Expiry(prefix="logs/", days=30),
        Expiry(prefix="a", larger_bytes=5, noncurrent_days=7, newer_noncurrent=2),
        Expiry(prefix="old", date_ms=1_767_225_600_000),
        Expiry(lone_marker=True),
    )


@dataclass(frozen=True)
class Kept:
    """A version of so many days."""

    days: int
    size_bytes: int = 1
    is_delete_marker: bool = False

    @property
    def mtime_ms(self) -> int:
        return NOW_MS - self.days * DAY_MS


def marker(days: int) -> Kept:
    return Kept(days, is_delete_marker=True)


@pytest.mark.parametrize(
    ("history", "rule", "places"),
    [
        ([Kept(30)], Expiry(days=30), {0}),
        ([Kept(29)], Expiry(days=30), set()),
        ([Kept(30)], Expiry(days=30, prefix="other"), set()),
        ([Kept(30)], Expiry(days=30, larger_bytes=1), set()),
        ([Kept(30, 9)], Expiry(days=30, smaller_bytes=9), set()),
        ([marker(30), Kept(40)], Expiry(days=30), set()),
        ([Kept(30), Kept(40)], Expiry(days=30, all_versions=True), {0, 1}),
        ([Kept(1)], Expiry(date_ms=NOW_MS), {0}),
        # Noncurrent since its successor was written, not since it was.
        ([Kept(5), Kept(90), Kept(95)], Expiry(noncurrent_days=30), {2}),
        ([Kept(5), Kept(6), Kept(7), Kept(8)], Expiry(noncurrent_days=1, newer_noncurrent=2), {3}),
        ([Kept(5), Kept(6), Kept(7), Kept(8)], Expiry(newer_noncurrent=1), {2, 3}),
        ([marker(5)], Expiry(lone_marker=True), {0}),
        ([marker(5), Kept(6)], Expiry(lone_marker=True), set()),
        ([marker(40), Kept(60)], Expiry(noncurrent_days=30, lone_marker=True), {0, 1}),
        ([], Expiry(days=1), set()),
    ],
)
def test_what_is_taken(history: list[Kept], rule: Expiry, places: set[int]) -> None:
    assert expired("k", history, [rule], now_ms=NOW_MS) == places
