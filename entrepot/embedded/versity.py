"""One Versity S3 Gateway on loopback: a server of tests that is not MinIO.

It keeps objects as files and their versions in a directory beside them, with ids and times of its
own choosing; metadata lies in extended attributes, which the file system must have.
"""

import os
from pathlib import Path

import httpx
from pydantic import SecretStr

from entrepot.embedded import binaries
from entrepot.embedded.minio import MinioCredentials
from entrepot.embedded.paths import make_dir
from entrepot.embedded.process import HOST, Child, Spec, free_port
from entrepot.errors import SetupError


class VersityServer:
    """``start()``, ``endpoint``, ``access_key``, ``secret_key``, ``stop()``, as ``MinioServer``."""

    def __init__(self, data_dir: Path, credentials: MinioCredentials, *, port: int = 0) -> None:
        self._credentials = credentials
        self.data_dir = data_dir
        self.port = port or free_port()
        self._child: Child | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def access_key(self) -> str:
        return self._credentials.access_key

    @property
    def secret_key(self) -> SecretStr:
        return self._credentials.secret_key

    def start(self) -> "VersityServer":
        """Start it and wait until it answers. Raises ``SetupError``."""
        objects = make_dir(self.data_dir / "objects")
        _need_attributes(objects)
        self._child = Child(
            Spec(
                name="versitygw",
                command=(
                    str(binaries.versitygw()),
                    *("--port", f"{HOST}:{self.port}", "--quiet", "--keep-alive", "posix"),
                    *("--versioning-dir", str(make_dir(self.data_dir / "versions"))),
                    str(objects),
                ),
                data_dir=self.data_dir,
                log=self.data_dir / "versitygw.log",
                probe=self._ready,
                env=self._env(),
                port=self.port,
                url=self.endpoint,
            )
        )
        self._child.spawn()
        self._child.wait_ready()
        return self

    def stop(self) -> None:
        if self._child:
            self._child.stop()

    def _env(self) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith("VGW_")}
        return ours | {
            "ROOT_ACCESS_KEY_ID": self.access_key,
            "ROOT_SECRET_ACCESS_KEY": self.secret_key.get_secret_value(),
        }

    def _ready(self) -> bool:
        try:
            answer = httpx.get(self.endpoint, timeout=2.0, trust_env=False)
        except httpx.TransportError:
            return False
        return answer.status_code == httpx.codes.FORBIDDEN


def _need_attributes(path: Path) -> None:
    try:
        os.setxattr(path, "user.entrepot", b"1")
    except (OSError, AttributeError) as error:
        raise SetupError(
            "this file system keeps no extended attributes",
            hint="use one that does (ext4, xfs, btrfs), such as TMPDIR=/var/tmp",
            path=str(path),
        ) from error
