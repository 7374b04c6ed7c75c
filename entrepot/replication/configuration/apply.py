"""Settings read at all sites, and a plan of them carried out.

Each action is guarded: it is done only where the setting still is what it was planned against, and
counts only when the endpoint says that it has what it was given. Nothing here is conditional at the
endpoint, so somebody who changes the same setting in that moment is overwritten; the next look
shows it.
"""

from collections.abc import Sequence

from entrepot.errors import IntegrityError, PreconditionFailed, Unsupported
from entrepot.replication.configuration.plan import Action, Settings
from entrepot.replication.sites import Site
from entrepot.replication.workers import side_by_side
from entrepot.store.settings import Setting


async def read(sites: Sequence[Site], bucket: str) -> list[tuple[str, Settings]]:
    """The settings of a bucket at each site, in their order.

    Raises:
        EntrepotError: a site cannot be asked; its settings are not "none".
    """
    found = await side_by_side(_read(site, bucket) for site in sites)
    return [(site.name, settings) for site, settings in zip(sites, found, strict=True)]


async def _read(site: Site, bucket: str) -> Settings:
    found: dict[str, str | None] = {}
    for setting in Setting:
        if setting is Setting.NOTIFICATION:  # it names targets of its own endpoint
            continue
        try:
            found[str(setting)] = await site.store.setting(bucket, setting)
        except Unsupported:
            found[str(setting)] = None
    return found


async def apply(sites: Sequence[Site], bucket: str, actions: Sequence[Action]) -> list[Action]:
    """Carry out what changes; returns what was done.

    Raises:
        PreconditionFailed: a setting is no longer what it was planned against.
        IntegrityError: an endpoint took a setting and has another one.
    """
    by_name = {site.name: site for site in sites}
    done = []
    for action in actions:
        if not action.changes:
            continue
        setting = Setting(action.setting)
        store, where = by_name[action.site].store, {"site": action.site, "bucket": bucket}
        if await store.setting(bucket, setting) != action.before:
            raise PreconditionFailed(
                "the setting was changed since it was planned",
                hint="look at the differences again",
                setting=action.setting,
                **where,
            )
        await store.configure(bucket, setting, action.after)
        if (kept := await store.setting(bucket, setting)) != action.after:
            raise IntegrityError(
                "the endpoint has another setting than it was given",
                setting=action.setting,
                kept=kept[:500],
                **where,
            )
        done.append(action)
    return done
