"""The Postgres clusters of the settings, opened as their commands need them."""

import os
import pwd
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from entrepot.backup.postgres.archive import WalArchive
    from entrepot.backup.postgres.programs import Cluster
    from entrepot.config import Config

cluster_option = click.option(
    "--cluster",
    "cluster_name",
    metavar="NAME",
    help="Of the clusters in backup.clusters; the only one by default.",
)
owner_option = click.option(
    "--owner",
    metavar="USER",
    help="Whom Postgres runs as. Default: ourselves, or as root the user postgres.",
)


def owner_of(user: str | None) -> tuple[int, int] | None:
    """The uid and gid that files for Postgres get; ``None``: ours."""
    from entrepot.errors import InvalidInput

    if user is None and os.geteuid() != 0:
        return None
    for name in (user,) if user else ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise InvalidInput("there is no such user", hint="--owner USER", user=user or "postgres")


def socket_of(config: "Config", name: str | None) -> Path:
    """Where the helper of a cluster listens."""
    from entrepot.config import data_dir

    cluster = config.cluster(name)
    return cluster.socket or data_dir() / "wal" / cluster.name


@asynccontextmanager
async def open_archive(config: "Config", name: str | None) -> "AsyncGenerator[WalArchive, None]":
    """The WAL of a cluster in its vault."""
    from entrepot.backup.open import open_vault
    from entrepot.backup.postgres.archive import WalArchive

    cluster = config.cluster(name)
    async with open_vault(config, cluster.vault) as vault:
        yield WalArchive(vault, cluster.name)


def server_of(config: "Config", name: str | None, *, major: int | None = None) -> "Cluster":
    """The server of a cluster, with the newest programs there are, or those of ``major``."""
    from entrepot.backup.postgres.programs import Cluster

    cluster = config.cluster(name)
    return Cluster(cluster.name, cluster.conninfo.get_secret_value(), programs(major))


def programs(major: int | None = None) -> Path:
    """The directory of Postgres' programs."""
    from entrepot.embedded.pginstall import choose_install

    return choose_install(None, major=major).bin_dir
