"""What tests of keys share: cheap scrypt, a clock to move, a root to switch off, rings."""

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import SecretStr

from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.passphrase import ScryptCost
from entrepot.codec.keys.ring import KeyRing, TenantKey
from entrepot.errors import RetryableError, Unavailable

TTL_S = 300.0
CHEAP = ScryptCost(log2_n=14)
PASSPHRASE = SecretStr("correct horse battery staple")


class HandClock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self._passed_s = 0.0

    def pass_s(self, seconds: float) -> None:
        self._passed_s += seconds

    def now(self) -> datetime:
        return datetime(2026, 5, 4, 12, tzinfo=UTC) + timedelta(seconds=self._passed_s)

    def monotonic(self) -> float:
        return 1000 + self._passed_s


class SwitchRoot(LocalRoot):
    """A local root that counts its calls, and that a test can switch off or hold up."""

    def __init__(self, key: bytes = bytes(range(32))) -> None:
        super().__init__(key)
        self.failure: RetryableError | None = None
        self.unwraps = 0
        self.open = asyncio.Event()
        self.open.set()

    def switch_off(self) -> None:
        self.failure = Unavailable("connection refused")

    def switch_on(self) -> None:
        self.failure = None

    async def wrap(self, secret: bytes, *, context: str) -> bytes:
        if self.failure:
            raise self.failure
        return await super().wrap(secret, context=context)

    async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        self.unwraps += 1
        await self.open.wait()
        if self.failure:
            raise self.failure
        return await super().unwrap(wrapped, context=context)


def another(ring: KeyRing, root: LocalRoot, clock: HandClock) -> KeyRing:
    """The ring of the same directory as another process has it."""
    return KeyRing(ring.directory.path, root, ttl_s=TTL_S, create=False, clock=clock)


async def all_keys(ring: KeyRing) -> dict[tuple[str, int], bytes]:
    """Every key that the ring's files hold, unwrapped."""
    found: dict[tuple[str, int], bytes] = {}
    for tenant in ring.tenants():
        for info in ring.describe(tenant):
            if info.state.value == "active":
                found[tenant, info.number] = (await ring.get(tenant, info.number)).secret
    return found


def copy_of(directory: Path, target: Path) -> Path:
    """A copy as ``cp -a`` makes it."""
    shutil.copytree(directory, target, symlinks=True)
    target.chmod(0o700)
    return target


def file_of(ring: KeyRing, key: TenantKey) -> Path:
    return ring.directory.path / "tenants" / key.tenant / f"{key.number}.json"


def bytes_below(directory: Path) -> bytes:
    """All that lies in the files of a directory."""
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())
