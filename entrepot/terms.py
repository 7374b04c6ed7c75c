"""The words of a rule that its model, planners and carriers share: one enum for each. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

HOOK: Final = "hook:"
"""How the name of a conflict policy begins that asks a function of the rest of the name."""


class Mode(StrEnum):
    """Who may write."""

    ACTIVE_ACTIVE = "active-active"
    ONE_WAY = "one-way"


class Travel(StrEnum):
    """What may go to the other sites besides new versions."""

    DELETE_MARKERS = "delete-markers"
    VERSION_DELETES = "version-deletes"
    METADATA = "metadata"
    TAGS = "tags"
    LOCKS = "locks"


class Choice(StrEnum):
    """Who wins a conflict; hooks aside."""

    LAST = "last-write-wins"
    FIRST = "first-write-wins"
    SITE = "site-priority"
    BOTH = "keep-both"


def fits(tags: Mapping[str, str], tag_filter: Mapping[str, str]) -> bool:
    """Whether ``tags`` has every pair of a rule's ``tag_filter``; anything fits an empty one."""
    return all(tags.get(name) == value for name, value in tag_filter.items())
