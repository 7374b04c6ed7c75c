"""What one data directory runs: how many sites, on which ports, with Prefect and gateway or not.

Pure. The plan is kept in ``entrepot.json``; ``revise`` turns the kept one and what was asked for
into the next one. Invariant: a site never goes away, and a port stays unless another is asked for.
"""

import string
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from entrepot.errors import InvalidInput, SetupError

DEFAULT_SITES = 2
DEFAULT_PORT_BASE = 19000
_OFFSETS = {"postgres": 50, "prefect": 60, "gateway": 80}
REGION = "us-east-1"
"""What requests are signed for at every site of a laptop, so that any client's default works."""

_LETTERS = string.ascii_lowercase


class Plan(BaseModel):
    """``ports`` has one entry a site and one for postgres, prefect and gateway each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal[1] = 1
    sites: int
    port_base: int
    ports: dict[str, int]
    prefect: bool = True
    gateway: bool = False
    notifications: bool = True
    config_sha256: str = ""

    @property
    def site_names(self) -> tuple[str, ...]:
        return tuple(site_name(rank) for rank in range(self.sites))

    @property
    def tells(self) -> bool:
        """Whether the stores tell the gateway what is written to adopted buckets."""
        return self.gateway and self.notifications

    @property
    def used_ports(self) -> dict[str, int]:
        """Without those of servers that are not started."""
        off = {name for name in ("prefect", "gateway") if not getattr(self, name)}
        return {name: port for name, port in self.ports.items() if name not in off}


def site_name(rank: int) -> str:
    """``site-a`` for rank 0."""
    return f"site-{_LETTERS[rank]}"


def catalog_name(site: str) -> str:
    """The name of a site's catalog database."""
    return f"entrepot_site_{site.replace('-', '_')}"


def parse(text: str, *, path: str) -> Plan:
    """Read a kept plan. Raises ``SetupError`` for another layout or a damaged file."""
    try:
        return Plan.model_validate_json(text)
    except ValidationError as error:
        raise SetupError(
            "made by another version of entrepot, or damaged (this one reads layout 1)",
            hint="use that version, or another directory with --data DIR",
            path=path,
        ) from error


def revise(
    kept: Plan | None,
    *,
    sites: int | None,
    port_base: int | None,
    prefect: bool,
    gateway: bool,
    notifications: bool = True,
    free_port: Callable[[], int],
    is_free: Callable[[int], bool],
) -> Plan:
    """The next plan. ``port_base`` None keeps the ports, 0 takes free ones (and keeps them)."""
    count = sites if sites is not None else kept.sites if kept else DEFAULT_SITES
    if not 1 <= count <= len(_LETTERS):
        raise InvalidInput(f"{count} sites: 1 to {len(_LETTERS)} are possible", hint="--sites N")
    if kept and count < kept.sites:
        raise SetupError(
            f"this directory holds {kept.sites} sites, not {count}, and none is taken away",
            hint=f"--sites {kept.sites}, or another directory with --data DIR",
        )
    base = port_base if port_base is not None else kept.port_base if kept else DEFAULT_PORT_BASE
    if base != 0 and not 1024 <= base <= 65535 - max(_OFFSETS.values()):
        raise InvalidInput(f"port base {base}: 0, or 1024 to 65455", hint="--port-base N")
    ports = {site_name(rank): base + rank for rank in range(count)}
    ports |= {name: base + offset for name, offset in _OFFSETS.items()}
    if base == 0:
        old = kept.ports if kept and kept.port_base == 0 else {}
        # Asked for in words, 0 also means: others than those that are taken now.
        old = {name: port for name, port in old.items() if port_base is None or is_free(port)}
        ports = {name: old.get(name) or free_port() for name in ports}
    return Plan(
        sites=count,
        port_base=base,
        ports=ports,
        prefect=prefect,
        gateway=gateway,
        notifications=notifications,
        config_sha256=kept.config_sha256 if kept else "",
    )
