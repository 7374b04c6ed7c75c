"""When a sweep must not go on: too many deletes, or a site that lists far less than it did.

Both stop before anything of the batch at hand is written, and say how to go on.
"""

from collections.abc import AsyncIterator

from entrepot.errors import IntegrityError, LimitExceeded
from entrepot.replication.policy import Policy
from entrepot.store.protocol import Page

FEW_DELETES = 20
"""So many are no mass deletion whatever the share: in a small bucket one is half of it."""

LEAST_SHARE = 0.4
"""Of what it held after its last completed sweep, a site must list as much; half a bucket may well
go in a day, but then by delete markers, which are listed too."""

LOOK_FROM = 100
"""Copies into one site from which on, at the latest, it is counted what that site lists."""


def check_deletes(policy: Policy, *, deletes: int, listed: int, rule: str, bucket: str) -> None:
    """Refuse more deletes than the rule allows: ``LimitExceeded``.

    Args:
        deletes: objects that would be hidden and versions that would be removed.
        listed: the versions that they are a share of, without the markers that hide them.
    """
    too_many = deletes > policy.max_delete_count
    too_large = deletes > FEW_DELETES and deletes > policy.max_delete_share * listed
    if too_many or too_large:
        raise LimitExceeded(
            "the sweep would delete more than its rule allows; nothing of that was done",
            hint=f"look at it: entrepot replicate run {rule} --bucket {bucket} --dry-run --save; "
            "then approve it: entrepot replicate apply PLAN",
            deletes=deletes,
            listed=listed,
            most_share=policy.max_delete_share,
            most=policy.max_delete_count,
        )


async def check_listing(
    pages: AsyncIterator[Page], *, site: str, before: int, rule: str, bucket: str
) -> None:
    """Refuse a site that lists far less than ``before``, what it held: ``IntegrityError``.

    Reads as much of the listing as it takes to know.
    """
    listed = 0
    async for page in pages:
        listed += len(page)
        if listed >= LEAST_SHARE * before:
            return
    raise IntegrityError(
        "a site lists far less than when it was last swept; nothing is copied to it",
        hint="is it the right disk, are its permissions whole? If it is to be filled again: "
        f"entrepot replicate run {rule} --bucket {bucket} --force-partial",
        site=site,
        listed=listed,
        before=before,
    )
