"""Whether sites can keep what a rule promises. Pure: a rule and what probes stored in, gaps out.

Invariant: what a rule asks for is granted only where a probe saw every one of its sites do it; a
site that was not probed can do nothing.
"""

from collections.abc import Iterable
from typing import Final

from entrepot.catalog.rule import RuleSpec
from entrepot.catalog.sites import Site
from entrepot.errors import Unsupported
from entrepot.store.protocol import Capability
from entrepot.terms import Choice, Travel

_NEEDS: Final = {Travel.TAGS: Capability.TAGS, Travel.LOCKS: Capability.LOCK}


def gaps(rule: RuleSpec, sites: Iterable[Site]) -> list[str]:
    """What keeps these sites from keeping the rule, a line each; empty where nothing does."""
    found = unkept(rule)
    by_name = {site.name: site for site in sites}
    for name in rule.sites:
        site = by_name.get(name)
        if site is None or site.probed_at is None:
            found.append(f"{name} was not probed (entrepot site probe {name})")
            continue
        for capability, why in _needed(rule):
            if not site.can(capability):
                found.append(f"{name} has no {capability}, {why}: {site.saw(capability)}")
    return found


def check_promises(rule: RuleSpec, sites: Iterable[Site]) -> None:
    """Refuse a rule that a site cannot keep: ``Unsupported`` with every reason."""
    check_swept(rule)
    found = gaps(rule, sites)
    if found:
        raise Unsupported(
            f"a site cannot keep this rule: {'; '.join(found)}",
            hint="leave it out with --without, or choose other sites: entrepot site list",
        )


def unkept(rule: RuleSpec) -> list[str]:
    """What of a rule no site could keep, a line each."""
    found = []
    if Travel.METADATA not in rule.travels:
        found.append(
            "metadata is written with its version and cannot be changed without a new one, so it "
            "always travels (travels)"
        )
    if rule.tag_filter and Travel.TAGS not in rule.travels:
        found.append("a copy without its tags would not fit the tag_filter, so tags travel with it")
    return found


def check_swept(rule: RuleSpec) -> None:
    """Refuse to work by a rule that was stored before it was known that nobody could keep it."""
    if found := unkept(rule):
        raise Unsupported(
            f"nobody can keep this rule: {'; '.join(found)}",
            hint="entrepot replicate rule edit RULE --travels metadata --travels tags",
        )


def streams(rule: RuleSpec) -> bool:
    """Whether a stream does what the rule says: the latest write wins.

    Other rules are kept by sweeps alone: a stream that runs ahead would decide for them.
    """
    return set(rule.conflict.values()) <= {Choice.LAST} and not unkept(rule)


def _needed(rule: RuleSpec) -> list[tuple[Capability, str]]:
    needed = [(Capability.VERSIONING, "so a losing write would be gone")]
    for travel, capability in _NEEDS.items():
        if travel in rule.travels:
            needed.append((capability, f"so {travel} cannot travel"))
    return needed
