"""What a credential that is for some sites may begin, and what it may not, as it would be the others'. Pure."""

from __future__ import annotations

from anycast.content.content import Content
from anycast.coordinator.access import Caller, Role
from anycast.coordinator.refusal import Refusal
from anycast.policy.rollout import Rollout


def only_its_sites(who: Caller, rollout: Rollout, before: Content | None, content: Content) -> None:
    """Raises Refusal where a site is changed or taken out that the credential is not for, or everybody's budget is."""
    changed = set(rollout.sites) - set(rollout.same)
    if before is not None:
        changed |= before.sites.keys() - content.sites.keys()
        if before.budget != content.budget and not who.may(Role.OPERATOR):
            raise Refusal((f"{who.name}'s credential is for some sites, and this changes the budget of all",))
    if not who.may(Role.OPERATOR, changed):
        others = ", ".join(sorted(changed - (who.sites or frozenset())))
        raise Refusal((f"{who.name}'s credential is not for {others}, which this changes",))


def may_override(who: Caller) -> None:
    """The guard stands before other sites than the one that is changed. Raises Refusal."""
    if not who.may(Role.OPERATOR):
        what = "and what could be too much for others is not its to say"
        raise Refusal((f"{who.name}'s credential is for some sites, {what}",))
