"""Usage rows as tables that a person reads: pandas in, plain rows out.

Sites are reported side by side, so that a tenant whose replica holds less is seen at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from entrepot.catalog.usage import UsageRow
from entrepot.units import approximate_size

NUMBERS = ["current_bytes", "total_bytes", "objects", "versions", "delete_markers"]
TABLE_MAX = 100
"""Rows of one table in Prefect's UI; the full account is in Postgres."""


def frame(accounts: Mapping[str, Sequence[UsageRow]]) -> pd.DataFrame:
    """One line a row of every site's account, with the site in front."""
    rows = [{"site": site, **asdict(row)} for site, rows in accounts.items() for row in rows]
    columns = ["site", "tenant_id", "bucket", "prefix", *NUMBERS]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(NUMBERS, "int64"))


def by_tenant(now: pd.DataFrame, before: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    """Tenant × site: sums, share of the site, and growth since the account before."""
    if now.empty:
        return []
    sums = now.groupby(["tenant_id", "site"])[NUMBERS].sum()
    site_totals = sums.groupby("site")["total_bytes"].transform("sum")
    sums["share"] = (sums["total_bytes"] / site_totals.where(site_totals > 0)).fillna(0.0)
    if before is None or before.empty:
        sums["growth_bytes"] = sums["total_bytes"]
    else:
        earlier = before.groupby(["tenant_id", "site"])["total_bytes"].sum()
        sums["growth_bytes"] = sums["total_bytes"] - earlier.reindex(sums.index).fillna(0)
    return [_shown(row) for row in sums.reset_index().to_dict("records")]


def by_prefix(now: pd.DataFrame, *, most: int = TABLE_MAX) -> list[dict[str, Any]]:
    """The largest prefixes of all tenants and sites, by bytes of all versions."""
    largest = now.sort_values("total_bytes", ascending=False, kind="stable").head(most)
    return [_shown(row) for row in largest.to_dict("records")]


def _shown(row: Mapping[Any, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, value in row.items():
        if name == "growth_bytes":
            sign = "-" if value < 0 else "+"
            shown["growth"] = sign + approximate_size(abs(int(value)))
        elif str(name).endswith("_bytes"):
            shown[str(name).removesuffix("_bytes")] = approximate_size(int(value))
        elif name == "share":
            shown["share"] = f"{value:.1%}"
        else:
            shown[str(name)] = value
    return shown
