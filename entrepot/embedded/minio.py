"""One MinIO server on loopback: a site of the local stack, or a server of a test.

Invariant: it listens on 127.0.0.1 only, or in a network namespace of its own. The last public
source has unpatched holes, so it must never be reachable from another machine; its root credentials
are random per data directory.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from entrepot.embedded import binaries
from entrepot.embedded.loopback import LoopbackServer, RootUser, refuses_strangers
from entrepot.embedded.paths import make_dir
from entrepot.embedded.process import HOST, Spec
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


MinioCredentials = RootUser
"""The root user of a site."""


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
        # "Ready" of its own comes a moment too early: until its users are loaded, it says 503.
        probe=lambda: refuses_strangers(endpoint),
        env=env,
        port=port,
        url=endpoint,
    )


class MinioServer(LoopbackServer):
    """A MinIO for tests; ``notify`` is where it sends bucket notifications."""

    def __init__(
        self,
        data_dir: Path,
        credentials: MinioCredentials,
        *,
        port: int = 0,
        host: str = HOST,
        notify: Notify | None = None,
    ) -> None:
        super().__init__(data_dir, credentials, port=port, host=host)
        self._notify = notify

    def _spec(self) -> Spec:
        return minio_spec(
            self.data_dir / "drive",
            name="minio",
            binary=binaries.minio(),
            port=self.port,
            credentials=self._user,
            stack=make_dir(self.data_dir),
            log=self.data_dir / "minio.log",
            host=self._host,
            notify=self._notify,
        )
