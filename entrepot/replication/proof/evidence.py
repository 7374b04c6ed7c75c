"""From a rule to what is compared, and from a verdict to a certificate that is kept.

Invariant: a certificate is kept before anybody is given it, so none exists that the control catalog
does not know.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from entrepot import __version__
from entrepot.catalog.certificates import save_certificate
from entrepot.catalog.connect import Catalog
from entrepot.errors import InvalidInput
from entrepot.replication.proof.certificate import Signer, sign
from entrepot.replication.proof.record import Aspect
from entrepot.replication.proof.statement import Verdict, Wanted, aspects_of


class RuleLike(Protocol):
    """What must be known of a rule."""

    @property
    def name(self) -> str: ...
    @property
    def buckets(self) -> tuple[str, ...]: ...
    @property
    def prefix(self) -> str: ...


def wanted_of(
    rule: RuleLike, *, buckets: Sequence[str] = (), prefix: str = "", **how: Any
) -> Wanted:
    """What to compare of a rule: what it keeps equal, of these buckets and keys alone if named.

    Raises:
        InvalidInput: a bucket or prefix is outside of the rule.
    """
    if outside := sorted(set(buckets) - set(rule.buckets)):
        raise InvalidInput(
            "the rule does not cover this bucket",
            hint=f"one of: {', '.join(rule.buckets)}",
            rule=rule.name,
            bucket=outside[0],
        )
    if not (rule.prefix.startswith(prefix) or prefix.startswith(rule.prefix)):
        raise InvalidInput(
            "the rule does not cover this prefix", hint=f"it has {rule.prefix!r}", rule=rule.name
        )
    return Wanted(
        rule=rule.name,
        buckets=tuple(sorted(buckets or rule.buckets)),
        prefix=max(rule.prefix, prefix, key=len),
        aspects=_aspects(rule),
        **how,
    )


def _aspects(rule: RuleLike) -> frozenset[Aspect]:
    travels: Collection[str] | None = getattr(rule, "travels", None)
    return frozenset(Aspect) if travels is None else aspects_of(travels)


async def certify(control: Catalog, verdict: Verdict, by: Signer) -> bytes:
    """The signed certificate of a verdict, kept in the control catalog."""
    document = sign({**verdict.stated(), "product": f"entrepot {__version__}"}, by)
    await save_certificate(
        control,
        rule=verdict.wanted.rule,
        finished_at=verdict.finished,
        identical=verdict.is_identical,
        document=document.decode(),
    )
    return document
