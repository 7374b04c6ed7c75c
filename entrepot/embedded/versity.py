"""One Versity S3 Gateway on loopback: a server of tests that is not MinIO.

It keeps objects as files and their versions in a directory beside them, with ids and times of its
own choosing; metadata lies in extended attributes, which the file system must have.
"""

import os
from pathlib import Path

from entrepot.embedded import binaries
from entrepot.embedded.loopback import LoopbackServer, refuses_strangers
from entrepot.embedded.paths import make_dir
from entrepot.embedded.process import HOST, Spec
from entrepot.errors import SetupError


class VersityServer(LoopbackServer):
    """A versitygw over a directory, which keeps versions."""

    def _spec(self) -> Spec:
        objects = make_dir(self.data_dir / "objects")
        _need_attributes(objects)
        return Spec(
            name="versitygw",
            command=(
                str(binaries.versitygw()),
                *("--port", f"{HOST}:{self.port}", "--quiet", "--keep-alive", "posix"),
                *("--versioning-dir", str(make_dir(self.data_dir / "versions"))),
                str(objects),
            ),
            data_dir=self.data_dir,
            log=self.data_dir / "versitygw.log",
            probe=lambda: refuses_strangers(self.endpoint),
            env=self._env(),
            port=self.port,
            url=self.endpoint,
        )

    def _env(self) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith("VGW_")}
        return ours | {
            "ROOT_ACCESS_KEY_ID": self.access_key,
            "ROOT_SECRET_ACCESS_KEY": self.secret_key.get_secret_value(),
        }


def _need_attributes(path: Path) -> None:
    try:
        os.setxattr(path, "user.entrepot", b"1")
    except (OSError, AttributeError) as error:
        raise SetupError(
            "this file system keeps no extended attributes",
            hint="use one that does (ext4, xfs, btrfs), such as TMPDIR=/var/tmp",
            path=str(path),
        ) from error
