"""Sites between which the network can be cut: each a real MinIO in a network namespace of its own.

    worker ──── far ────┐
                        ├─ namespace: MinIO, and a way to the site's catalog
    its users ── near ──┘

A site has two links. By ``far`` the worker reaches it, and that one is cut; by ``near`` its own
users and its gateway do, and that one never is.

Invariant: a cut drops packets and tells nobody. Frames go to a hardware address that nobody has,
in one direction or in both, which every kernel can do: netem and nftables are missing in small
ones. Neighbours are permanent, so that no ARP notices either.

Namespaces have no names: one goes with its last process, and its links with it. So all that a
killed run leaves behind is servers, and the next run ends them.
"""

import asyncio
import ctypes
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr
from pyroute2 import IPRoute

from entrepot.clock import new_token
from entrepot.embedded.minio import MinioCredentials, MinioServer, Notify
from entrepot.embedded.process import end_leftovers, free_port
from entrepot.store.protocol import Body, Store
from entrepot.store.s3 import S3Store
from entrepot.store.wrapper import StoreWrapper
from entrepot.testing.proxy import BreakableProxy
from tests.replication.stream.adopted import TOKEN

NEEDS_ROOT = "cuts networks between namespaces, which needs root: sudo make test"
PREFIX = "entrepot-net-"
SLOTS = 2048
"""Of 198.18.0.0/15, the range for tests of networks (RFC 2544): 64 addresses each."""
SILENCE_S = 2.0
"""How long the worker's stores wait for an answer."""

_NEWNET = 0x40000000
_PERMANENT = 0x80
_NOBODY = "02:00:00:00:00:ff"
_LIBC = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace, alive while this or a process in it is."""

    def __init__(self) -> None:
        with _kept(), ThreadPoolExecutor(1) as apart:  # a thread of its own: nobody else moves
            self._file = apart.submit(_unshared).result()

    def close(self) -> None:
        os.close(self._file)

    @property
    def path(self) -> str:
        """By which the kernel finds it."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Processes that this thread starts, and sockets that it makes, are in there."""
        with _kept():
            _moved(self._file)
            yield


def _unshared() -> int:
    if _LIBC.unshare(_NEWNET):
        raise OSError(ctypes.get_errno(), "no new network namespace: is CAP_SYS_ADMIN missing?")
    return _own()


def _own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _moved(namespace: int) -> None:
    if _LIBC.setns(namespace, _NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


@contextmanager
def _kept() -> Iterator[None]:
    home = _own()
    try:
        yield
    finally:
        _moved(home)
        os.close(home)


@dataclass(frozen=True)
class Link:
    """A pair of virtual cables: ``name`` here with address ``here``, ``peer`` in there."""

    namespace: Namespace
    name: str
    peer: str
    here: str
    there: str

    def plug(self) -> None:
        """Make it, up at both ends."""
        ends = {"kind": "veth", "address": _mac(self.here), "ifname": self.name}
        peer = {"ifname": self.peer, "net_ns_fd": self.namespace.path, "address": _mac(self.there)}
        with IPRoute() as network:
            network.link("add", peer=peer, **ends)
            _address(network, self.name, self.here)
        with self.namespace.entered(), IPRoute() as network:
            _address(network, self.peer, self.there)
        self.set(requests=True, answers=True)

    def set(self, *, requests: bool, answers: bool) -> None:
        """What passes: packets to there, and packets from there."""
        with IPRoute() as network:
            _neighbour(network, self.name, self.there, passes=requests)
        with self.namespace.entered(), IPRoute() as network:
            _neighbour(network, self.peer, self.here, passes=answers)


def _mac(address: str) -> str:
    return "02:00:" + ":".join(f"{int(each):02x}" for each in address.split("."))


def _index(network: Any, name: str) -> int:
    [found] = network.link_lookup(ifname=name)
    return int(found)


def _address(network: Any, name: str, address: str) -> None:
    index = _index(network, name)
    network.addr("add", index=index, address=address, prefixlen=30)
    network.link("set", index=index, state="up")


def _neighbour(network: Any, name: str, address: str, *, passes: bool) -> None:
    mac = _mac(address) if passes else _NOBODY
    index = _index(network, name)
    network.neigh("replace", dst=address, lladdr=mac, ifindex=index, state=_PERMANENT)


@dataclass(frozen=True)
class Island:
    """A site in its namespace; ``server`` has the address of its near link."""

    name: str
    near: Link
    far: Link
    server: MinioServer

    @property
    def namespace(self) -> Namespace:
        return self.far.namespace

    @property
    def endpoint(self) -> str:
        """As the worker reaches it."""
        return f"http://{self.far.there}:{self.server.port}"

    def store(self) -> S3Store:
        """The worker's."""
        return S3Store(
            endpoint=self.endpoint,
            access_key=self.server.access_key,
            secret_key=self.server.secret_key,
            connect_timeout_s=SILENCE_S,
            read_timeout_s=SILENCE_S,
        )

    async def cut(self, *, requests: bool = True, answers: bool = True) -> None:
        """Lose what goes between worker and site, in these directions."""
        await asyncio.to_thread(self.far.set, requests=not requests, answers=not answers)

    async def heal(self) -> None:
        await self.cut(requests=False, answers=False)


class Cutting(StoreWrapper):
    """Cuts the network in the middle of the first body that is read."""

    def __init__(self, store: Store, island: Island, *, after_bytes: int) -> None:
        super().__init__(store)
        self.island = island
        self.after_bytes = after_bytes
        self.has_cut = False

    @asynccontextmanager
    async def get(self, bucket: str, key: str, **what: Any) -> AsyncGenerator[Body, None]:
        async with self._store.get(bucket, key, **what) as body:
            yield CutBody(body, self)


class CutBody(Body):
    def __init__(self, body: Body, store: Cutting) -> None:
        self._body, self._store = body, store
        self.version, self.length = body.version, body.length

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._body:
            yield piece
            size += len(piece)
            if size >= self._store.after_bytes and not self._store.has_cut:
                self._store.has_cut = True
                await self._store.island.cut()


class Way(BreakableProxy):
    """From the far end of an island to a server here, such as the site's catalog."""

    def __init__(self, island: Island, host: str, port: int) -> None:
        super().__init__(host, port)
        self._island = island

    @property
    def host(self) -> str:
        return self._island.far.there

    def _hold(self) -> None:
        with self._island.namespace.entered():
            self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((self.host, self.port))


@dataclass(frozen=True)
class Archipelago:
    """All islands of a session; gateways listen on ``host``, which every one reaches."""

    islands: dict[str, Island]
    host: str
    port: int

    def __getitem__(self, name: str) -> Island:
        return self.islands[name]

    @cached_property
    def servers(self) -> dict[str, MinioServer]:
        """By site."""
        return {name: each.server for name, each in self.islands.items()}


@contextmanager
def archipelago(*names: str) -> Iterator[Archipelago]:
    """Running islands; skips where nobody may make them, fails where root may not."""
    require_root()
    end_stale()
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    slot, port = _free_slot(), free_port()
    hosts = [_place(slot, number) for number in range(0, 8 * len(names), 4)]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        islands: dict[str, Island] = {}
        for number, name in enumerate(names):
            url = f"http://{hosts[0]}:{port}/webhooks/notifications/{name}"
            islands[name] = _island(stack, name, hosts[2 * number :][:2], directory / name, url)
        with ThreadPoolExecutor() as side_by_side:
            list(side_by_side.map(_started, islands.values()))
        yield Archipelago(islands, hosts[0], port)


def require_root() -> None:
    """Skip the test for who may not cut networks."""
    if os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)


def _island(stack: ExitStack, name: str, hosts: list[str], directory: Path, url: str) -> Island:
    namespace = Namespace()
    stack.callback(namespace.close)
    near, far = (
        Link(namespace, f"net{socket.inet_aton(host).hex()}", peer, host, _next(host))
        for peer, host in zip(("near", "far"), hosts, strict=True)
    )
    with namespace.entered(), IPRoute() as network:
        network.link("set", index=_index(network, "lo"), state="up")
    near.plug()
    far.plug()
    with namespace.entered(), IPRoute() as network:
        network.route("add", dst="default", gateway=near.here)
    server = MinioServer(
        directory,
        MinioCredentials(new_token(8), SecretStr(new_token(24))),
        host=near.there,
        notify=Notify(url, TOKEN, directory / "queue"),
    )
    stack.callback(server.stop)
    return Island(name, near, far, server)


def _started(island: Island) -> None:
    with island.namespace.entered():
        island.server.start()


def _place(slot: int, offset: int) -> str:
    number = (198 << 24) + (18 << 16) + 64 * slot + offset + 1
    return socket.inet_ntoa(number.to_bytes(4, "big"))


def _next(address: str) -> str:
    number = int.from_bytes(socket.inet_aton(address), "big") + 1
    return socket.inet_ntoa(number.to_bytes(4, "big"))


def _free_slot() -> int:
    with IPRoute() as network:
        taken = {each.get("address") for each in network.get_addr()}
    slots = ((os.getpid() + each) % SLOTS for each in range(SLOTS))
    return next(slot for slot in slots if _place(slot, 0) not in taken)


def end_stale() -> None:
    """End the servers of runs that were killed; their links go with them."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = int(directory.name.removeprefix(PREFIX).partition("-")[0])
        if not psutil.pid_exists(pid):
            for each in directory.iterdir():
                end_leftovers(each)
            shutil.rmtree(directory, ignore_errors=True)
