"""Which sites a command is about, and one of them opened for upkeep."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from entrepot.config import Config, SiteSettings
    from entrepot.objects.ground import Ground

site_option = click.option(
    "--site", "site_name", metavar="SITE", help="At this site; the first by rank by default."
)
sites_option = click.option(
    "--site", "site_names", multiple=True, metavar="SITE", help="Only this site; may be repeated."
)


def chosen(config: "Config", names: Sequence[str]) -> "list[SiteSettings]":
    """The sites of these names by rank, all where there are none; ``InvalidInput`` for others."""
    from entrepot.errors import InvalidInput

    sites = config.sites()
    if unknown := sorted(set(names) - {site.name for site in sites}):
        raise InvalidInput(f"there is no site {unknown[0]}", hint="entrepot site list")
    return [site for site in sites if not names or site.name in names]


def first(config: "Config", name: str | None) -> "SiteSettings":
    """The site of this name, else the first by rank."""
    return chosen(config, (name,) if name else ())[0]


@asynccontextmanager
async def open_ground(config: "Config", site: "SiteSettings") -> "AsyncGenerator[Ground, None]":
    """A site for upkeep, started; nothing runs beside the caller."""
    from entrepot.objects.open import open_ground

    async with open_ground(config, site) as ground:
        await ground.start()
        yield ground
