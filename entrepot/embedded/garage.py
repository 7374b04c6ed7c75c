"""One Garage on loopback: a server of tests that is not MinIO and keeps no versions.

Its user's key is one of a form that it demands: ``garage_user`` makes it.
"""

import os
from pathlib import Path

import httpx
from pydantic import SecretStr

from entrepot.clock import new_bytes
from entrepot.embedded import binaries
from entrepot.embedded.loopback import LoopbackServer, RootUser, refuses_strangers
from entrepot.embedded.paths import make_dir, write_text
from entrepot.embedded.process import HOST, Spec, free_port

_CONFIG = """metadata_dir = "{root}/meta"
data_dir = "{root}/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "{host}:{rpc_port}"
rpc_public_addr = "{host}:{rpc_port}"
[s3_api]
s3_region = "us-east-1"
api_bind_addr = "{host}:{port}"
[admin]
api_bind_addr = "{host}:{admin_port}"
"""


def garage_user() -> RootUser:
    """New credentials."""
    return RootUser(f"GK{new_bytes(12).hex()}", SecretStr(new_bytes(32).hex()))


class GarageServer(LoopbackServer):
    """A Garage of one node."""

    def __init__(self, data_dir: Path, user: RootUser, *, port: int = 0) -> None:
        super().__init__(data_dir, user, port=port)
        self._token = new_bytes(32).hex()
        self._admin_port = free_port()

    def _spec(self) -> Spec:
        make_dir(self.data_dir)
        config = self.data_dir / "garage.toml"
        ports = {"port": self.port, "rpc_port": free_port(), "admin_port": self._admin_port}
        write_text(config, _CONFIG.format(root=self.data_dir, host=HOST, **ports))
        return Spec(
            name="garage",
            command=(
                *(str(binaries.garage()), "-c", str(config)),
                *("server", "--single-node", "--default-access-key"),
            ),
            data_dir=self.data_dir,
            log=self.data_dir / "garage.log",
            probe=self._is_ready,
            env=self._env(),
            port=self.port,
            url=self.endpoint,
        )

    def _env(self) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith("GARAGE_")}
        return ours | {
            "GARAGE_DEFAULT_ACCESS_KEY": self.access_key,
            "GARAGE_DEFAULT_SECRET_KEY": self.secret_key.get_secret_value(),
            "GARAGE_RPC_SECRET": self._token,
            "GARAGE_ADMIN_TOKEN": self._token,
        }

    def _is_ready(self) -> bool:
        """Whether it answers, and lets its user make buckets, which it does not by itself."""
        if not refuses_strangers(self.endpoint):
            return False
        answer = httpx.post(
            f"http://{HOST}:{self._admin_port}/v2/UpdateKey",
            params={"id": self.access_key},
            headers={"authorization": f"Bearer {self._token}"},
            json={"allow": {"createBucket": True}},
            timeout=5.0,
            trust_env=False,
        )
        return answer.status_code == httpx.codes.OK
