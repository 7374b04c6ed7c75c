"""What the S3 servers of tests share: one process on loopback, its user, its start and its end."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
from pydantic import SecretStr

from entrepot.embedded.process import HOST, Child, Spec, free_port


@dataclass(frozen=True)
class RootUser:
    """Whom a server lets do everything."""

    access_key: str
    secret_key: SecretStr


class LoopbackServer(ABC):
    """``start()``, ``endpoint``, ``access_key``, ``secret_key``, ``stop()``.

    ``data_dir`` keeps the objects, ``port`` 0 takes a free one. ``host`` may be an address in a
    network namespace in which it is started.
    """

    def __init__(self, data_dir: Path, user: RootUser, *, port: int = 0, host: str = HOST) -> None:
        self.data_dir = data_dir
        self.access_key = user.access_key
        self.secret_key = user.secret_key
        self.port = port or free_port()
        self._user = user
        self._host = host
        self._child: Child | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self._host}:{self.port}"

    @abstractmethod
    def _spec(self) -> Spec:
        """How it is started."""

    def start(self) -> Self:
        """Start it and wait until it answers. Raises ``SetupError``."""
        self._child = Child(self._spec())
        self._child.spawn()
        self._child.wait_ready()
        return self

    def stop(self) -> None:
        if self._child:
            self._child.stop()


def refuses_strangers(endpoint: str) -> bool:
    """Whether a server answers an anonymous request, which it refuses once it is really up."""
    try:
        answer = httpx.get(endpoint, timeout=2.0, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.FORBIDDEN
