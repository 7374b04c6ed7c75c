"""Locks on their way: read where a version comes from, set where it goes.

Retention merges by maximum and a hold stays a hold: nothing here ever weakens a lock. A retention
that has passed is not set again. Buckets without object lock are asked once a sweep.
"""

from datetime import timedelta

from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import NotFound, Unsupported
from entrepot.replication.sites import Site
from entrepot.replication.totals import Findings
from entrepot.replication.traits import strictest, unexpired
from entrepot.store.protocol import Capability, Lock, LockMode

MARGIN = timedelta(seconds=5)
"""An endpoint refuses a retention that ends in the past; a request takes a while."""

Where = tuple[str, str, str]
"""Bucket, key and version id."""


class Locks:
    """Reads and sets locks for one sweep of a bucket."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._without: set[str] = set()  # sites whose bucket has no object lock
        self._with: set[str] = set()
        self._missed: set[str] = set()

    async def get(self, site: Site, where: Where) -> Lock | None:
        """The lock of a version as it is still worth setting; ``None`` for none."""
        if site.name in self._without or Capability.LOCK not in site.capabilities:
            return None
        bucket, key, version_id = where
        try:
            lock = await site.store.lock(bucket, key, version_id=version_id)
        except Unsupported:
            self._without.add(site.name)
            return None
        self._with.add(site.name)
        lock = self.worth(lock)
        return lock if lock.mode or lock.hold else None

    def worth(self, lock: Lock) -> Lock:
        """The lock as it is still worth setting."""
        return unexpired(lock, self._clock.now() + MARGIN)

    async def takes(self, site: Site, bucket: str) -> bool:
        """Whether versions of the bucket can be locked at a site."""
        if site.name not in self._without | self._with:
            can = Capability.LOCK in site.capabilities and await _has_locks(site, bucket)
            (self._with if can else self._without).add(site.name)
        return site.name in self._with

    async def put(self, site: Site, where: Where, lock: Lock, findings: Findings) -> None:
        """Lock a version as well as it is locked already; never weaker than it is."""
        bucket, key, version_id = where
        if not await self.takes(site, bucket):
            self.miss(key, site, findings)
            return
        there = await site.store.lock(bucket, key, version_id=version_id)
        kept = self.worth(there)
        mode, until = strictest([kept, lock])
        if (mode, until) != (kept.mode, kept.until):
            await site.store.retain(
                bucket,
                key,
                mode=mode,
                until=until,
                version_id=version_id,
                # What may end it early may also make it stricter.
                bypass=kept.mode is LockMode.GOVERNANCE and mode is LockMode.COMPLIANCE,
            )
        if lock.hold and not there.hold:
            await site.store.hold(bucket, key, True, version_id=version_id)

    def miss(self, key: str, site: Site, findings: Findings) -> None:
        """Say once that a site cannot keep a lock."""
        if site.name not in self._missed:
            self._missed.add(site.name)
            why = f"the bucket at {site.name} has no object lock; copied without"
            findings.note(key=key, what="unlocked", why=why)


async def _has_locks(site: Site, bucket: str) -> bool:
    try:
        await site.store.lock(bucket, "entrepot-no-such-key")
    except Unsupported:
        return False
    except NotFound:
        pass
    return True
