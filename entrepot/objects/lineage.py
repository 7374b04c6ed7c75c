"""Which writes knew of which, from the stamps of their parents. Pure.

A writer's parent is the newest version that its site had, so what is newer than the parent was not
there. A version whose parent is newer than another one descends from it where one of the versions
between does.
"""

from collections.abc import Sequence

from entrepot.catalog.objects.facts import ObjectRow


def contender(
    row: ObjectRow, before: ObjectRow, history: Sequence[ObjectRow] = ()
) -> ObjectRow | None:
    """The write over which ``before`` lost its place, where neither knew of the other; else None.

    ``row`` is what came from another site, whose ``history`` of the key, newest first, says what
    that site serves now: as a sweep would look at both at this moment. Where the site has got
    ``before`` meanwhile, it is the write that did not know of it.
    """
    apart = apart_from(row, before, history)
    if apart is None or any(each.stamp == before.stamp for each in history):
        return apart
    served = next((each for each in history if not each.is_quarantined), apart)
    return served if apart_from(served, before, history) else apart


def apart_from(row: ObjectRow, before: ObjectRow, history: Sequence[ObjectRow]) -> ObjectRow | None:
    """The write that did not know of ``before``: ``row``, or the ancestor that it follows.

    None where ``row`` descends from ``before``. Where a link is missing, what the site holds was
    known.
    """
    known = {each.stamp: each for each in history}
    while row.parent is not None and row.parent > before.stamp:
        if (parent := known.get(row.parent)) is None:
            return None if before.stamp in known else row
        row = parent
    return None if row.parent == before.stamp else row
