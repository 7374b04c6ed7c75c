"""What a lock allows, as properties: nothing that was promised ends early."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from entrepot.errors import AccessDenied, InvalidInput
from entrepot.store.locks import check_change, check_removal
from entrepot.store.protocol import Lock, LockMode

START = datetime(2026, 1, 1, tzinfo=UTC)
times = st.integers(-3, 6).map(lambda seconds: START + timedelta(seconds=seconds))
retentions = st.just((None, None)) | st.tuples(st.sampled_from(LockMode), times)
locks = st.builds(lambda pair, hold: Lock(pair[0], pair[1], hold), retentions, st.booleans())


def can_go(lock: Lock, now: datetime, *, bypass: bool) -> bool:
    try:
        check_removal(lock, now, bypass=bypass)
    except AccessDenied:
        return False
    return True


@given(locks, times, st.booleans())
def test_only_what_is_neither_held_nor_retained_goes(
    lock: Lock, now: datetime, bypass: bool
) -> None:
    is_over = lock.until is None or lock.until < now
    is_weak = lock.mode is LockMode.GOVERNANCE and bypass
    assert can_go(lock, now, bypass=bypass) == (not lock.hold and (is_over or is_weak))


@given(locks, retentions, times, st.booleans())
def test_a_change_that_is_allowed_weakens_nothing(
    lock: Lock,
    other: tuple[LockMode | None, datetime | None],
    now: datetime,
    bypass: bool,
) -> None:
    """Whoever could not remove the version now, or later, cannot do it thanks to the change."""
    mode, until = other
    try:
        check_change(lock, mode, until, now, bypass=bypass)
    except InvalidInput:
        assert until is not None and until <= now
        return
    except AccessDenied:
        assert not can_go(Lock(lock.mode, lock.until), now, bypass=bypass)
        return
    changed = Lock(mode, until, lock.hold)
    for seconds in range(8):
        later = now + timedelta(seconds=seconds)
        for power in {False, bypass}:
            gained = can_go(changed, later, bypass=power) and not can_go(lock, later, bypass=power)
            assert not gained or (bypass and lock.mode is LockMode.GOVERNANCE)


@given(locks, times, st.booleans())
def test_setting_a_retention_again_is_allowed(lock: Lock, now: datetime, bypass: bool) -> None:
    if lock.until is None or lock.until > now:
        check_change(lock, lock.mode, lock.until, now, bypass=bypass)
