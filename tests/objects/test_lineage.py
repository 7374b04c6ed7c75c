"""Who knew of whom, by the stamps of parents."""

from uuid import UUID

from entrepot.catalog.objects.facts import ObjectRow
from entrepot.objects.lineage import apart_from, contender
from entrepot.stamp import Stamp


def row(time_ms: int, site: str, parent: ObjectRow | None = None) -> ObjectRow:
    stamp = Stamp(time_ms, site, "w")
    return ObjectRow(1, "k", str(time_ms), stamp, UUID(int=time_ms), parent and parent.stamp)


def test_from_the_parent_alone() -> None:
    first = row(1, "a")
    before = row(2, "b", first)
    assert contender(row(3, "a", before), before) is None
    for parent in (first, None):
        other = row(3, "a", parent)
        assert contender(other, before) is other


def test_along_the_ancestors() -> None:
    """A later write of that site came first: what tells is the one that was written over."""
    before = row(2, "b")
    knew, knew_not = row(3, "a", before), row(3, "a", row(1, "a"))
    for older, apart in ((knew, None), (knew_not, knew_not)):
        last = row(5, "a", middle := row(4, "c", older))
        assert apart_from(last, before, [last, middle, older, before]) is apart
        assert apart_from(last, before, [last, middle, older]) is apart


def test_where_a_link_is_missing_what_is_held_was_known() -> None:
    before = row(2, "b")
    last = row(5, "a", row(4, "a"))
    assert apart_from(last, before, [last, before]) is None
    assert apart_from(last, before, [last]) is last


def test_who_contends_is_what_the_other_site_serves() -> None:
    before, early = row(2, "b"), row(3, "a")
    last = row(4, "a", early)
    assert contender(early, before, [last, early]) is last
    assert contender(early, before, [last, early, before]) is early
    merged = row(5, "c", before)
    assert contender(early, before, [merged, last, early]) is early
