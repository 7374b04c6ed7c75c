"""What a lock allows, for the stores that decide it themselves: pure, and as S3 has it.

Source: "How S3 Object Lock works" of the S3 user guide. MinIO decides the same in
``enforceRetentionBypassForDelete`` and ``enforceRetentionBypassForPut``.
"""

from datetime import datetime

from entrepot.errors import AccessDenied, InvalidInput
from entrepot.store.protocol import Lock, LockMode

UNLOCKED = "object lock comes with a bucket: make another with create(locked=True), and copy"
LOCKED = "lift its hold, wait for its time, or, in governance mode, ask to bypass it"


def check_removal(lock: Lock, now: datetime, *, bypass: bool) -> None:
    """Refuse to remove a version that is locked: ``AccessDenied``."""
    if lock.hold:
        raise AccessDenied("version is held", hint=LOCKED)
    _check_retained(lock, now, bypass=bypass)


def check_change(
    lock: Lock, mode: LockMode | None, until: datetime | None, now: datetime, *, bypass: bool
) -> None:
    """Refuse a retention that is over already (``InvalidInput``), or weaker than ``lock``."""
    if until and until <= now:
        raise InvalidInput("a retention ends in the future", until=str(until))
    if mode == lock.mode and until and lock.until and until >= lock.until:
        return
    _check_retained(lock, now, bypass=bypass)


def _check_retained(lock: Lock, now: datetime, *, bypass: bool) -> None:
    if lock.until is None or lock.until < now:
        return
    if lock.mode is LockMode.COMPLIANCE or not bypass:
        until = str(lock.until)
        raise AccessDenied("version is retained", hint=LOCKED, mode=lock.mode, until=until)
