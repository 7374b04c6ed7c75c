"""Taking another side of a conflict: the write that lost is written anew, everywhere.

Guarded by the ledger: only while every site serves what the ledger says, or nothing at all would
be known of what is hidden now. What was served stays as a noncurrent version, so a resolution is
undone by another one.
"""

from collections.abc import Sequence

from entrepot.catalog.conflicts import Conflict, resolve_conflict
from entrepot.catalog.connect import Catalog
from entrepot.clock import SYSTEM_CLOCK, Clock, derived_id
from entrepot.errors import IntegrityError, InvalidInput, NotFound, PreconditionFailed
from entrepot.replication.apply import Context
from entrepot.replication.conflicts import OF_TAGS
from entrepot.replication.look import histories_of
from entrepot.replication.origins import with_origins
from entrepot.replication.plan import Action, Copy, Decision, Mark, Target
from entrepot.replication.sites import Site
from entrepot.replication.sweep import carry_out
from entrepot.replication.totals import Findings, Totals
from entrepot.replication.view import Entry, View, see


async def resolve(
    catalog: Catalog,
    sites: Sequence[Site],
    *,
    conflict: Conflict,
    taken: int,
    by: str,
    clock: Clock = SYSTEM_CLOCK,
) -> str:
    """Have contender number ``taken`` served at every site; its new version id.

    Raises:
        InvalidInput: there is no such contender, it is the one that is served, or it is about tags.
        PreconditionFailed: the key was written since, or was resolved by somebody else.
        NotFound: no site has that version any more.
        IntegrityError: it could not be written everywhere; try again.
    """
    version_id = new_version_id(conflict, taken)
    histories = await histories_of(sites, conflict.bucket, conflict.key)
    keeps = [site.keeps_origin for site in sites]
    if not all(keeps):
        histories = await with_origins(sites, conflict.bucket, histories)
    view = see(conflict.key, histories, keeps=keeps)
    identity = str(conflict.contenders[taken]["identity"])
    _check_served(view, conflict, version_id)
    entry = view.known.get(identity)
    if entry is None:
        raise NotFound("no site has that version any more", key=conflict.key, conflict=conflict.id)
    newest_ms = max(each.mtime_ms for each in view.known.values() if each.identity != version_id)
    now_ms = round(clock.now().timestamp() * 1000)
    mtime_ms = next(
        (each.mtime_ms for each in view.known.values() if each.identity == version_id),
        max(now_ms, newest_ms + 1),
    )
    action = _action(view, entry, version_id=version_id, mtime_ms=mtime_ms)
    context = Context(
        sites=sites,
        bucket=conflict.bucket,
        workers=len(sites),
        totals=Totals(),
        findings=Findings(),
    )
    await carry_out(
        [Decision(first=(action,))], prefix=conflict.key, after="", listed=0, context=context
    )
    if context.findings.rows:
        why = context.findings.rows[0]["why"]
        raise IntegrityError(f"it was not written everywhere: {why}", conflict=conflict.id)
    await resolve_conflict(catalog, conflict=conflict, taken=taken, serves=version_id, by=by)
    return version_id


def new_version_id(conflict: Conflict, taken: int) -> str:
    """The id under which a contender is written anew; ``InvalidInput`` where it is served."""
    if conflict.policy == OF_TAGS:
        raise InvalidInput(
            "this conflict is about tags, which are no version of their own",
            hint="set the tags that shall hold at one site; the next comparison brings them over",
            conflict=conflict.id,
        )
    if not 0 <= taken < len(conflict.contenders) or taken == conflict.served:
        raise InvalidInput("there is nothing to change", conflict=conflict.id, taken=taken)
    identity = str(conflict.contenders[taken]["identity"])
    return str(derived_id("resolve", str(conflict.id), conflict.serves, identity))


def written_since(conflict: Conflict, *, found: str) -> PreconditionFailed:
    """Why a conflict is left as it is: a site serves neither what the ledger says nor what an
    earlier try of this put there.
    """
    return PreconditionFailed(
        "the key was written since the conflict was settled",
        hint="what it holds now is the newer decision; write the bytes anew instead",
        key=conflict.key,
        expected=conflict.serves,
        found=found,
    )


def _check_served(view: View, conflict: Conflict, version_id: str) -> None:
    """Every keeper serves what the ledger says, or what an earlier try of this put there."""
    for site, keeps in enumerate(view.keeps):
        head = view.head(site)
        served = head.identity if head else ""
        if keeps and served not in (conflict.serves, version_id):
            raise written_since(conflict, found=served)


def _action(view: View, entry: Entry, *, version_id: str, mtime_ms: int) -> Action:
    heads = [view.head(site) for site in range(len(view.keeps))]
    targets = tuple(Target(site, head.etag if head else "") for site, head in enumerate(heads))
    if entry.is_delete_marker:
        return Mark(view.key, targets, version_id, mtime_ms)
    return Copy(
        key=view.key,
        source=entry.site,
        source_version=entry.version_id,
        targets=targets,
        version_id=version_id,
        mtime_ms=mtime_ms,
        size_bytes=entry.size_bytes,
        etag=entry.etag,
    )
