"""The options that say what a rule is, and the fields of ``RuleSpec`` that they come to."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

TRAVELS: Final = ("delete-markers", "version-deletes", "metadata", "tags", "locks")
"""Those of ``catalog.rule``, written out, so that ``--help`` imports nothing."""

_PLAIN: Final = (
    "prefix",
    "drift",
    "peer_reads",
    "max_delete_share",
    "max_delete_count",
    "bytes_per_s",
    "requests_per_s",
    "time_zone",
)
_LISTS: Final = ("buckets", "sites", "travels", "timetable", "maintenance")
_DURATIONS: Final = {"rpo": "rpo_s", "tombstone_horizon": "tombstone_horizon_s"}

_OPTIONS: Final = (
    click.option("--bucket", "buckets", multiple=True, help="May be repeated."),
    click.option("--site", "sites", multiple=True, help="Two or more; every site by default."),
    click.option("--prefix", help="Only keys that start with this."),
    click.option(
        "--tag", "tags", multiple=True, metavar="NAME=VALUE", help="Only versions with this tag."
    ),
    click.option("--one-way-from", metavar="SITE", help="Write here only; the others receive."),
    click.option("--active-active", is_flag=True, help="Write anywhere (default)."),
    click.option(
        "--drift",
        type=click.Choice(["report", "overwrite"]),
        help="What becomes of a write at a site that only receives.",
    ),
    click.option(
        "--travels",
        multiple=True,
        type=click.Choice(TRAVELS),
        help="What goes along, instead of the usual; may be repeated.",
    ),
    click.option(
        "--without",
        multiple=True,
        type=click.Choice(TRAVELS),
        help="What does not go along; may be repeated.",
    ),
    click.option(
        "--conflict",
        "conflicts",
        multiple=True,
        metavar="[PREFIX=]POLICY",
        help="Who wins a conflict, such as logs/=keep-both.",
    ),
    click.option(
        "--peer-reads/--no-peer-reads",
        default=None,
        help="Whether a read that misses is served from another site.",
    ),
    click.option("--rpo", metavar="DURATION", help="Within which a write is everywhere."),
    click.option("--max-delete-share", type=float, help="Above it a sweep stops and asks."),
    click.option("--max-delete-count", type=int, help="Above it a sweep stops and asks."),
    click.option("--tombstone-horizon", metavar="DURATION", help="How long a site may be away."),
    click.option("--bytes-per-s", metavar="SIZE", help="Of all workers together, such as 10MB."),
    click.option("--requests-per-s", type=int, help="Of all workers together."),
    click.option(
        "--timetable",
        multiple=True,
        metavar="LINE",
        help="Another limit at a time of the week: 'mon-fri 08:00-18:00 10MB/s 200req/s'.",
    ),
    click.option(
        "--maintenance",
        multiple=True,
        metavar="WINDOW",
        help="When nothing is replicated: 'sun 02:00-04:00'.",
    ),
    click.option("--time-zone", metavar="ZONE", help="Of these times; UTC by default."),
)


def rule_options(function: F) -> F:
    """Give a command every option that says what a rule is."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def said(given: Mapping[str, Any], *, travels: tuple[str, ...]) -> dict[str, Any]:
    """The fields that were given; ``travels`` is what ``--without`` takes away from."""
    from entrepot.units import parse_duration_ms

    fields: dict[str, Any] = {
        name: given[name] for name in _PLAIN if given.get(name) is not None
    } | {name: given[name] for name in _LISTS if given.get(name)}
    for option, field in _DURATIONS.items():
        if given.get(option) is not None:
            fields[field] = parse_duration_ms(given[option]) // 1000
    if given.get("tags"):
        fields["tag_filter"] = dict(map(_pair, given["tags"]))
    if given.get("conflicts"):
        fields["conflict"] = dict(map(_conflict, given["conflicts"]))
    if given.get("without"):
        kept = fields.get("travels", travels)
        fields["travels"] = tuple(each for each in kept if each not in given["without"])
    return fields | _mode(given)


def _mode(given: Mapping[str, Any]) -> dict[str, Any]:
    source = given.get("one_way_from")
    if source and given.get("active_active"):
        raise click.UsageError("either --one-way-from or --active-active")
    if source:
        return {"mode": "one-way", "source": source}
    return {"mode": "active-active", "source": None} if given.get("active_active") else {}


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter("expected NAME=VALUE", param_hint="--tag")
    return name, value


def _conflict(text: str) -> tuple[str, str]:
    prefix, _, policy = text.rpartition("=")
    return prefix, policy
