"""What a restore needs: the catalog of plans, a site's objects, and a vault."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from entrepot.catalog.connect import Catalog
    from entrepot.config import Config, SiteSettings
    from entrepot.objects.service import Objects
    from entrepot.vault.repository import Vault
    from entrepot.vault.target import Target


@dataclass(frozen=True, slots=True)
class Opened:
    """All of it, open. There is no vault where a plan back is carried out."""

    control: "Catalog"
    objects: "Objects"
    vault: "Vault | None"

    def of_vault(self) -> "Vault":
        """The vault that was named."""
        assert self.vault is not None
        return self.vault

    async def target(self, bucket: str, prefixes: tuple[str, ...] = ()) -> "Target":
        """A bucket of the site."""
        from entrepot.objects.target import bucket_target

        return await bucket_target(self.objects, bucket, prefixes=prefixes)


@asynccontextmanager
async def opened(
    config: "Config", site: "SiteSettings", vault: str
) -> "AsyncGenerator[Opened, None]":
    """Open a site and, unless ``vault`` is "", a vault of the settings."""
    from entrepot.backup.open import open_vault
    from entrepot.catalog.connect import Catalog
    from entrepot.objects.open import open_objects

    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(Catalog.open(config.database_url()))
        objects = await stack.enter_async_context(open_objects(config, site))
        found = await stack.enter_async_context(open_vault(config, vault)) if vault else None
        yield Opened(control, objects, found)
