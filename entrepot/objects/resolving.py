"""Taking another side of a conflict in a managed bucket: through the sites' catalogs.

As ``replication.resolve`` does on stores, with the same ids and the same ledger: the write that
lost is written anew where it is held, and brought to the other sites as it is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.conflicts import Conflict, resolve_conflict
from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import ObjectRow, WriteKind
from entrepot.catalog.objects.outbox import Waiting
from entrepot.catalog.objects.read import get_version, newest_versions
from entrepot.errors import NotFound
from entrepot.objects.conditions import Condition
from entrepot.objects.marks import from_json
from entrepot.objects.names import shown_key
from entrepot.objects.service import Objects
from entrepot.objects.shipping import Shipping
from entrepot.objects.writes import ACTOR_MAX_CHARS, Wish
from entrepot.replication.resolve import new_version_id, written_since


@dataclass(frozen=True, slots=True)
class _Held:
    """The key at one site."""

    objects: Objects
    bucket: Bucket
    key: str
    newest: ObjectRow | None

    async def version(self, version_id: str) -> ObjectRow | None:
        catalog, place = self.objects.ground.catalog, {"bucket_id": self.bucket.id}
        return await get_version(catalog, key=self.key, version_id=version_id, **place)


async def resolve_managed(
    control: Catalog, sites: Mapping[str, Objects], *, conflict: Conflict, taken: int, by: str
) -> str:
    """Have contender number ``taken`` served at every site; its new version id.

    Raises as ``replication.resolve.resolve``. Killed in the middle and called again it comes to the
    same end.
    """
    version_id = new_version_id(conflict, taken)
    held = {name: await _held(objects, conflict) for name, objects in sites.items()}
    for each in held.values():
        served = each.newest.version_id if each.newest else ""
        if served not in (conflict.serves, version_id):
            raise written_since(conflict, found=served)
    source, row = await _written(held, conflict, taken, version_id=version_id, by=by)

    async def open_site(name: str) -> Objects:
        return sites[name]

    bucket = held[source].bucket
    kind = WriteKind.DELETE if row.is_delete_marker else WriteKind.PUT
    names = row.key, row.version_id, kind, bucket.name, bucket.tenant_id
    for target in sites.keys() - {source}:
        shipping = Shipping(open_site, source=source, target=target, rule=conflict.rule)
        await shipping.carry(Waiting(0, bucket.id, *names, row))
        await shipping.secure()
    await resolve_conflict(control, conflict=conflict, taken=taken, serves=version_id, by=by)
    return version_id


async def _held(objects: Objects, conflict: Conflict) -> _Held:
    ground, key = objects.ground, shown_key(conflict.key)
    bucket = await ground.bucket(conflict.bucket)
    newest = await newest_versions(ground.catalog, [(bucket.id, key)])
    return _Held(objects, bucket, key, newest.get((bucket.id, key)))


async def _written(
    held: Mapping[str, _Held], conflict: Conflict, taken: int, *, version_id: str, by: str
) -> tuple[str, ObjectRow]:
    """The new version and where it was written, now or by an earlier try."""
    for name, each in held.items():
        if row := await each.version(version_id):
            return name, row
    identity = str(conflict.contenders[taken]["identity"])
    for name, each in held.items():
        if row := await each.version(identity):
            wish = _wish(row, each.newest, actor=f"resolved by {by}", write_id=UUID(version_id))
            where = each.bucket.name, each.key
            if row.is_delete_marker:
                made = await each.objects.delete(*where, wish=wish)
                assert made is not None
            else:
                made = await each.objects.copy(*where, source=(*where, identity), wish=wish)
            return name, made
    raise NotFound("no site has that version any more", key=conflict.key, conflict=conflict.id)


def _wish(row: ObjectRow, newest: ObjectRow | None, *, actor: str, write_id: UUID) -> Wish:
    """Only over what was looked at."""
    condition = Condition(if_none_match=("*",))
    if newest and not newest.is_delete_marker:
        condition = Condition(if_match=(newest.etag,))
    return Wish(
        attributes=from_json(row.attributes),
        condition=condition,
        actor=actor[:ACTOR_MAX_CHARS],
        write_id=write_id,
    )
