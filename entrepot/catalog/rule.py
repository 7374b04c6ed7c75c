"""What a rule says: the one model that the command line, REST, blocks and the catalog share.

Invariant: a ``RuleSpec`` that exists is consistent in itself, so nobody checks it again; whether
the sites can keep it is another question (``replication.promises``). Pure.

Words: *travels* what goes to the other sites besides new versions; *drift* a change that was made
at a site which only receives; *policy* who wins where neither of two writes saw the other.
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from entrepot.errors import InvalidInput
from entrepot.terms import HOOK, Choice, Mode, Travel
from entrepot.timetable import BYTES_LEAST, parse_limit, parse_window, parse_zone
from entrepot.units import Size

DAY_S: Final = 86_400
KEY_MAX_BYTES: Final = 1024
ENTRIES_MAX: Final = 50
"""Lines of a timetable, windows, and prefixes with a policy of their own."""


class Drift(StrEnum):
    """What becomes of a change at a site that only receives."""

    REPORT = "report"
    OVERWRITE = "overwrite"


PROBLEMS_MAX: Final = 20

_WORDS: Final = {  # where Pydantic's own words speak of Python
    "extra_forbidden": "unknown field",
    "missing": "is missing",
    "string_pattern_mismatch": "not a name that is allowed",
    "too_short": "{min_length} or more",
    "too_long": "{max_length} at most",
}
_POLICY = re.compile(rf"{'|'.join(Choice)}|{HOOK}[a-z][a-z0-9_]{{0,62}}")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # Postgres keeps neither
_OF_MARKERS: Final = frozenset({Travel.DELETE_MARKERS, Travel.VERSION_DELETES})


def _wrong(kind: str, words: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{reason}", {"reason": words, "kind": kind})


def _prefix(value: str) -> str:
    if _UNSTORABLE.search(value) or len(value.encode()) > KEY_MAX_BYTES:
        raise _wrong("prefix", f"a prefix is at most {KEY_MAX_BYTES} bytes of text")
    return value


def _policy(value: str) -> str:
    if not _POLICY.fullmatch(value):
        raise _wrong("policy", f"a policy is one of {', '.join(Choice)}, or {HOOK}NAME")
    return value


def _parsed(parse: Any) -> AfterValidator:
    def check(value: str) -> str:
        try:
            parse(value)
        except InvalidInput as error:
            raise _wrong("time", f"{error}; {error.hint}" if error.hint else str(error)) from None
        return value

    return AfterValidator(check)


BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
SiteName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
_RULE_NAME: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
RuleName = Annotated[str, Field(pattern=_RULE_NAME)]
Prefix = Annotated[str, AfterValidator(_prefix)]
PolicyName = Annotated[str, Field(max_length=80), AfterValidator(_policy)]
TagName = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_prefix)]
TagValue = Annotated[str, Field(max_length=256), AfterValidator(_prefix)]
Line = Annotated[str, Field(max_length=200)]


class RuleSpec(BaseModel):
    """What a rule says, apart from its name and whether it is at work."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    buckets: tuple[BucketName, ...] = Field(
        min_length=1, max_length=1000, description="Bucket names, the same at every site"
    )
    sites: tuple[SiteName, ...] = Field(
        min_length=2, max_length=100, description="Names of two or more sites"
    )
    prefix: Prefix = Field(default="", description="Only keys that start with this; empty for all")
    tag_filter: dict[TagName, TagValue] = Field(
        default={}, max_length=10, description="Only versions that bear all of these tags"
    )
    mode: Mode = Field(
        default=Mode.ACTIVE_ACTIVE,
        description="active-active: every site may be written; one-way: `source` only",
    )
    source: SiteName | None = Field(
        default=None, description="The site that is written, where the mode is one-way"
    )
    drift: Drift = Field(
        default=Drift.REPORT,
        description="A change at a site that only receives: report it, or overwrite it",
    )
    travels: tuple[Travel, ...] = Field(
        default=tuple(each for each in Travel if each is not Travel.VERSION_DELETES),
        max_length=len(Travel),
        description="What goes to the other sites besides new versions: delete-markers, "
        "version-deletes, metadata (always), tags, locks (retention and legal hold)",
    )
    conflict: dict[Prefix, PolicyName] = Field(
        default={"": Choice.LAST},
        max_length=ENTRIES_MAX,
        description="Who wins a conflict, by prefix, the longest one first: last-write-wins, "
        "first-write-wins, site-priority, keep-both or hook:NAME",
    )
    peer_reads: bool = Field(
        default=False,
        description="A read that misses at one site is served from another that has the version "
        "already",
    )
    rpo_s: int = Field(
        default=300,
        ge=1,
        le=31 * DAY_S,
        description="Seconds within which a write shall be at every site",
    )
    max_delete_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="A sweep stops and asks before it deletes more than this share of a site's "
        "keys",
    )
    max_delete_count: int = Field(
        default=10_000,
        ge=0,
        le=10**12,
        description="A sweep stops and asks before it deletes more than this many keys of a site",
    )
    tombstone_horizon_s: int = Field(
        default=30 * DAY_S,
        ge=3600,
        le=3650 * DAY_S,
        description="A site that was away for longer than this many seconds is quarantined",
    )
    bytes_per_s: Size | None = Field(
        default=None,
        description="Bytes a second that all workers together write; no limit where it is left out",
    )
    requests_per_s: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Requests a second of all workers together; no limit where it is left out",
    )
    timetable: tuple[Annotated[Line, _parsed(parse_limit)], ...] = Field(
        default=(),
        max_length=ENTRIES_MAX,
        description="Other limits at other times, the first that fits: "
        "`mon-fri 08:00-18:00 10MB/s 200req/s`, or `off` for none",
    )
    maintenance: tuple[Annotated[Line, _parsed(parse_window)], ...] = Field(
        default=(),
        max_length=ENTRIES_MAX,
        description="Windows in which nothing is replicated: `sun 02:00-04:00`",
    )
    time_zone: Annotated[Line, _parsed(parse_zone)] = Field(
        default="UTC", description="Zone of the timetable and the windows, such as Europe/Berlin"
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Fill in what follows from the rest."""
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        if filled.get("tag_filter") and filled.get("travels") is None:
            filled["travels"] = tuple(each for each in Travel if each not in _OF_MARKERS)
        conflict = filled.get("conflict")
        if isinstance(conflict, Mapping) and "" not in conflict:
            filled["conflict"] = {"": Choice.LAST, **conflict}
        left_out = {name for name in cls.model_fields if filled.get(name, "") is None}
        return {name: value for name, value in filled.items() if name not in left_out}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for what, names in (("buckets", self.buckets), ("sites", self.sites)):
            if len(set(names)) != len(names):
                raise _wrong(what, f"{what}: each once")
        if len(set(self.travels)) != len(self.travels):
            raise _wrong("travels", "travels: each once")
        if (self.mode is Mode.ONE_WAY) != (self.source is not None):
            raise _wrong("source", "source: the one site that is written, for mode one-way only")
        if self.source is not None and self.source not in self.sites:
            raise _wrong("source", "source: one of the rule's sites")
        if self.bytes_per_s is not None and self.bytes_per_s < BYTES_LEAST:
            raise _wrong("bytes_per_s", f"bytes_per_s: {BYTES_LEAST} or more")
        if self.tag_filter and _OF_MARKERS & set(self.travels):
            # As MinIO has it: a marker has no tags, and what is gone has none any more.
            raise _wrong(
                "travels",
                "travels: a delete has no tags, so with a tag filter neither delete-markers nor "
                "version-deletes can travel",
            )
        return self

    @property
    def spec(self) -> "RuleSpec":
        """What it says, alone: without the name and the state that a subclass has."""
        said = {name: getattr(self, name) for name in RuleSpec.model_fields}
        return RuleSpec.model_validate(said)

    def policy(self, key: str) -> str:
        """The conflict policy of a key: that of the longest prefix that fits."""
        fitting = [prefix for prefix in self.conflict if key.startswith(prefix)]
        return self.conflict[max(fitting, key=len)]


def check_rule_name(name: str) -> None:
    """Refuse a name that no path, label or table could carry."""
    if not re.fullmatch(_RULE_NAME, name):
        raise InvalidInput(
            "not a name that is allowed",
            hint="1 to 63 of a-z, 0-9, ., _ and -, such as web-shop",
            name=name,
        )


def rule_spec(given: Mapping[str, Any]) -> RuleSpec:
    """The rule that ``given`` says; ``InvalidInput`` names every field that is wrong."""
    try:
        return RuleSpec.model_validate(dict(given))
    except ValidationError as error:
        wrong = problems(error.errors(include_url=False, include_input=False))
        raise InvalidInput(
            f"not a rule: {'; '.join(wrong)}",
            hint="entrepot replicate rule add --help",
        ) from error


def problems(errors: Iterable[Mapping[str, Any]]) -> list[str]:
    """What Pydantic's ``errors`` are about, a line a field, without the values that were given."""
    lines: dict[str, str] = {}
    for found in errors:
        where = ".".join(str(part) for part in found["loc"])
        words = _WORDS.get(found["type"], found["msg"].removesuffix("."))
        what = words.format(**found.get("ctx", {}))
        # Of an item that is wrong and a list that is too short without it, the first is the cause.
        if not any(earlier.startswith(f"{where}.") for earlier in lines):
            lines[where] = f"{where}: {what}" if where else what
    return list(lines.values())[:PROBLEMS_MAX]


def widened(before: RuleSpec, after: RuleSpec) -> bool:
    """Whether ``after`` covers something that ``before`` did not, which a sweep must seed."""
    more_places = set(after.sites) - set(before.sites) or set(after.buckets) - set(before.buckets)
    more_keys = not after.prefix.startswith(before.prefix)
    more_tags = not set(before.tag_filter.items()) <= set(after.tag_filter.items())
    more_travels = set(after.travels) - set(before.travels)
    other_way = (before.mode, before.source) != (after.mode, after.source)
    return bool(more_places or more_keys or more_tags or more_travels or other_way)
