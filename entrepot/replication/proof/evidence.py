"""From a rule to what is compared, and from a verdict to a certificate that is kept.

Invariant: a certificate is kept before anybody is given it, so none exists that the control catalog
does not know.
"""

from collections.abc import Sequence
from typing import Any

from entrepot import __version__
from entrepot.catalog.certificates import save_certificate
from entrepot.catalog.connect import Catalog
from entrepot.catalog.rules import Rule
from entrepot.errors import InvalidInput
from entrepot.replication.proof.certificate import Signer, sign
from entrepot.replication.proof.record import Aspect
from entrepot.replication.proof.statement import Verdict, Wanted, aspects_of


def wanted_of(rule: Rule, *, buckets: Sequence[str] = (), prefix: str = "", **how: Any) -> Wanted:
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
        # With a tag filter deletes do not travel, and yet every version that fits does.
        aspects=aspects_of(rule.travels) | ({Aspect.HISTORY} if rule.tag_filter else set()),
        tag_filter=rule.tag_filter,
        **how,
    )


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
