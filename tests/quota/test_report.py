"""Tables that a person reads."""

import json

from hypothesis import given
from hypothesis import strategies as st

from entrepot.catalog.usage import UsageRow
from entrepot.quota.report import TABLE_MAX, by_prefix, by_tenant, frame

KIB = 1024


def row(tenant: str, prefix: str, total: int, *, bucket: str = "b") -> UsageRow:
    return UsageRow(tenant, bucket, prefix, total // 2, total, 3, 5, 1)


def test_sites_stand_side_by_side() -> None:
    now = frame(
        {
            "a": [row("t1", "x/", 3 * KIB), row("t1", "y/", KIB), row("t2", "", 4 * KIB)],
            "b": [row("t1", "x/", KIB)],
        }
    )
    table = by_tenant(now)
    assert [(line["tenant_id"], line["site"]) for line in table] == [
        ("t1", "a"),
        ("t1", "b"),
        ("t2", "a"),
    ]
    assert [line["share"] for line in table] == ["50.0%", "100.0%", "50.0%"]
    assert (table[0]["objects"], table[0]["versions"], table[0]["delete_markers"]) == (6, 10, 2)
    assert table[0]["total"] == table[0]["growth"].removeprefix("+")
    json.dumps(table)


def test_growth_is_since_the_account_before() -> None:
    before = frame({"a": [row("t1", "x/", 5 * KIB), row("gone", "", KIB)]})
    now = frame({"a": [row("t1", "x/", 2 * KIB), row("new", "", KIB)]})
    growth = {line["tenant_id"]: line["growth"] for line in by_tenant(now, before)}
    assert growth == {"new": "+1.0 kB", "t1": "-3.1 kB"}


def test_nothing_counted_is_no_line() -> None:
    assert by_tenant(frame({})) == []
    assert by_tenant(frame({"a": []}), frame({"a": [row("t", "", 1)]})) == []
    assert by_prefix(frame({})) == []


def test_a_site_that_holds_nothing_has_no_share() -> None:
    assert by_tenant(frame({"a": [row("t", "", 0)]}))[0]["share"] == "0.0%"


def test_the_largest_prefixes_come_first_and_not_too_many() -> None:
    rows = [row("t", f"{number:04}/", number) for number in range(TABLE_MAX + 20)]
    table = by_prefix(frame({"a": rows}))
    assert len(table) == TABLE_MAX
    assert table[0]["prefix"] == f"{TABLE_MAX + 19:04}/"
    assert len(by_prefix(frame({"a": rows}), most=3)) == 3
    json.dumps(table)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["t1", "t2", "t3"]),
            st.sampled_from(["site-a", "site-b"]),
            st.integers(0, 2**55),
        ),
        max_size=20,
    )
)
def test_shares_of_a_site_add_up(lines: list[tuple[str, str, int]]) -> None:
    accounts: dict[str, list[UsageRow]] = {}
    for number, (tenant, site, size) in enumerate(lines):
        accounts.setdefault(site, []).append(row(tenant, f"{number}/", size))
    table = by_tenant(frame(accounts))
    for site, rows in accounts.items():
        shares = [float(x["share"].rstrip("%")) for x in table if x["site"] == site]
        expected = 100 if sum(r.total_bytes for r in rows) else 0
        assert abs(sum(shares) - expected) <= 0.2
