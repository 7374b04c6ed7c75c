"""One MinIO server on loopback: a site of the local stack, or a server of a test.

Invariant: it listens on 127.0.0.1 only, or in a network namespace of its own. The last public
source has unpatched holes, so it must never be reachable from another machine; its root credentials
are random per data directory.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import SecretStr

from entrepot.embedded import binaries
from entrepot.embedded.paths import make_dir
from entrepot.embedded.process import HOST, Child, Spec, free_port
from entrepot.store.notification import KEPT, TARGETS


@dataclass(frozen=True)
class Notify:
    """Where a site sends bucket notifications: the gateway's address for them, and its token.

    ``queue`` is a directory that keeps what could not be sent.
    """

    url: str
    token: SecretStr
    queue: Path

    @property
    def env(self) -> dict[str, str]:
        """Two targets: one tells at once, the other again within 3 s and until it was heard."""
        found: dict[str, str] = {}
        for target in TARGETS:
            about = {"ENABLE": "on", "ENDPOINT": self.url}
            about["AUTH_TOKEN"] = self.token.get_secret_value()
            if target == KEPT:
                about["QUEUE_DIR"] = str(self.queue)
            found |= {f"MINIO_NOTIFY_WEBHOOK_{name}_{target}": about[name] for name in about}
        return found


@dataclass(frozen=True)
class MinioCredentials:
    """The root user of a site."""

    access_key: str
    secret_key: SecretStr


def minio_spec(
    drive: Path,
    *,
    name: str,
    binary: Path,
    port: int,
    credentials: MinioCredentials,
    stack: Path,
    log: Path,
    host: str = HOST,
    notify: Notify | None = None,
) -> Spec:
    """How a site is started. Its signing region stays us-east-1, which every S3 client assumes.

    Another ``host`` is an address in a namespace, where the server listens on all that there are.
    """
    endpoint = f"http://{host}:{port}"
    # MINIO_* of the caller's shell may describe another server.
    env = {key: value for key, value in os.environ.items() if not key.startswith("MINIO_")}
    env |= {
        "MINIO_ROOT_USER": credentials.access_key,
        "MINIO_ROOT_PASSWORD": credentials.secret_key.get_secret_value(),
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    if notify is not None:
        make_dir(notify.queue, mode=0o700)
        env |= notify.env
    certs = make_dir(drive.parent / f".{drive.name}-certs", mode=0o700)
    return Spec(
        name=name,
        command=(
            str(binary),
            "server",
            "--address",
            f"{HOST if host == HOST else ''}:{port}",
            "--certs-dir",
            str(certs),
            str(make_dir(drive, mode=0o700)),
        ),
        data_dir=stack,
        log=log,
        probe=lambda: _ready(endpoint),
        env=env,
        port=port,
        url=endpoint,
    )


def _ready(endpoint: str) -> bool:
    # "Ready" comes a moment too early: until its users are loaded, the server answers requests
    # with 503. An anonymous one is refused once it is really up.
    try:
        answer = httpx.get(endpoint, timeout=2.0, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.FORBIDDEN


class MinioServer:
    """A MinIO for tests: ``start()``, ``endpoint``, ``access_key``, ``secret_key``, ``stop()``.

    ``data_dir`` keeps the objects, ``port`` 0 takes a free one, ``host`` is an address in a network
    namespace in which it is started, ``notify`` is where it sends bucket notifications.
    """

    def __init__(
        self,
        data_dir: Path,
        credentials: MinioCredentials,
        *,
        port: int = 0,
        host: str = HOST,
        notify: Notify | None = None,
    ) -> None:
        self._credentials = credentials
        self._host = host
        self._notify = notify
        self.data_dir = data_dir
        self.port = port or free_port()
        self._child: Child | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self._host}:{self.port}"

    @property
    def access_key(self) -> str:
        return self._credentials.access_key

    @property
    def secret_key(self) -> SecretStr:
        return self._credentials.secret_key

    def start(self) -> "MinioServer":
        """Start it and wait until it answers. Raises ``SetupError``."""
        self._child = Child(
            minio_spec(
                self.data_dir / "drive",
                name="minio",
                binary=binaries.minio(),
                port=self.port,
                credentials=self._credentials,
                stack=make_dir(self.data_dir),
                log=self.data_dir / "minio.log",
                host=self._host,
                notify=self._notify,
            )
        )
        self._child.spawn()
        self._child.wait_ready()
        return self

    def stop(self) -> None:
        if self._child:
            self._child.stop()
