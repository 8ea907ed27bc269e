"""What follows from a new content, before anybody signs it: `anycast plan`. Pure: the same inputs give the same bytes.

Two outages of a whole anycast service began with a change whose *derived* result nobody saw (a link that made "all sites" of
"one offline site"; an empty list that meant everything). So a plan shows the result, site by site and neighbor by
neighbor, is judged by the budget against everything that is in force, and is refused with all that is wrong with it.

A plan is a file of one spelling. What is applied is what was shown: the file's hash covers the content, the documents, and
the facts that it was made from; if one of those facts has changed, it is to be made anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anycast.content.canonical import Name, Part, Sha256, decode, encode, hash_of, understood
from anycast.content.content import Budget, Content, Intent, Site, decode_content
from anycast.content.envelope import Envelope
from anycast.content.operators import Operators
from anycast.content.signature import Signature, sign
from anycast.content.state import FROM_CONTENT, DarkSite, State, in_force
from anycast.errors import DecodeError, PeerError
from anycast.policy.acceptance import NotSigned, signed_content
from anycast.policy.budget import lit, named, shortfalls
from anycast.policy.plan_view import Announcement, Capacity, LedgerView, Moves, announcements, capacity, moves

VERSION: Literal[1] = 1


class Running(Part):
    """What one gateway runs by, and what it took last."""

    active: Sha256 | None
    newest: Sha256 | None


class Facts(Part):
    """What a plan rests on. Not the numbers of tunnels: they change all the time, and decide nothing."""

    generation: int
    gateways: dict[Name, Running]
    """Those that have taken a content."""
    allowed: int
    """By the coordinator's ledger."""
    dark: dict[Name, str]
    """Sites in the ledger, with the kind of their slot."""
    unseen: tuple[Name, ...]
    """Sites of which every neighbor is asked and none hears anything that they announce."""


class Change(Part):
    """What differs at one site."""

    site: Name
    what: tuple[str, ...]
    """Of ``new``, ``removed``, ``intent``, ``moves``, ``words``, ``prepend``, ``announcements``, ``region``, ``capacity``,
    ``document``."""
    before: Intent | None
    after: Intent | None
    documents: tuple[Name, ...]
    """Gateways whose document differs."""


class Plan(Part):
    version: Literal[1]
    requires: tuple[str, ...] = ()
    fleet: Name
    content: str
    """What is to be signed."""
    documents: dict[Name, str]
    """Of every gateway, as the content names them."""
    facts: Facts
    problems: tuple[str, ...]
    """Why it is refused; none: it may be applied."""
    empty: bool
    """Every gateway runs by this content already, whatever that one followed."""
    changes: tuple[Change, ...]
    budget_before: Budget | None
    budget_after: Budget
    announcements: tuple[Announcement, ...]
    moves: Moves
    capacity: Capacity
    ledger_before: LedgerView
    ledger_after: LedgerView
    left_behind: tuple[Name, ...]
    """Gateways that are not heard and took another content last: they need what they missed, in order, before this one."""

    @property
    def text(self) -> str:
        return encode(self.model_dump(mode="json"))

    @property
    def hash(self) -> str:
        """What a reviewer names, and what `anycast apply --expect` takes."""
        return hash_of(self.text)


class Submission(Part):
    """What `anycast apply` hands to the coordinator, and what that one keeps."""

    version: Literal[1]
    requires: tuple[str, ...] = ()
    plan: Sha256
    facts: Facts
    content: str
    signature: Signature
    documents: dict[Name, str]

    @property
    def data(self) -> bytes:
        return encode(self.model_dump(mode="json")).encode()


def make(state: State, contents: Mapping[str, Content], wanted: Content, documents: Mapping[str, str]) -> Plan:
    """`contents`: those of the state, by hash (`decode_state`). `documents`: the text of each that `wanted` names."""
    running = in_force(state, dict(contents))
    heard = {each.newest for each in state.gateways.values() if each.heard and each.newest is not None}
    content = wanted.model_copy(update={"after": tuple(sorted(heard))})
    facts = facts_of(state, running)
    before = {} if running is None else running.sites
    kept = {name: each for name, each in state.ledger.dark.items() if each.kind != FROM_CONTENT and name in content.sites}
    by_content = {
        name: DarkSite(kind=FROM_CONTENT, why=_words(site)) for name, site in content.sites.items() if site.intent.dark
    }
    rows = announcements(before, content.sites, state)
    return Plan(
        version=VERSION,
        fleet=content.fleet,
        content=content.text,
        documents=dict(documents),
        facts=facts,
        problems=tuple(dict.fromkeys(_problems(state, contents, running, content, facts))),
        empty=_is_empty(state, contents, content),
        changes=tuple(_changes(before, content.sites)),
        budget_before=None if running is None else running.budget,
        budget_after=content.budget,
        announcements=rows,
        moves=moves(rows, before, content.sites, state.tunnels),
        capacity=capacity(content, state.tunnels),
        ledger_before=LedgerView(allowed=state.ledger.allowed, dark=state.ledger.dark),
        ledger_after=LedgerView(
            allowed=max(0, len(content.sites) - content.budget.min_sites), dark={**by_content, **kept}
        ),
        left_behind=tuple(
            sorted(
                name
                for name, each in state.gateways.items()
                if not each.heard and each.newest is not None and each.newest not in heard
            )
        ),
    )


def _words(site: Site) -> str:
    because = site.because
    return str(site.intent) if because is None or because.kind == "drain" else because.kind


def facts_of(state: State, running: Content | None) -> Facts:
    return Facts(
        generation=state.generation,
        gateways={
            name: Running(active=each.active, newest=each.newest)
            for name, each in state.gateways.items()
            if each.newest is not None
        },
        allowed=state.ledger.allowed,
        dark={name: each.kind for name, each in state.ledger.dark.items()},
        unseen=tuple(_unseen(state, running)),
    )


def differences(then: Facts, now: Facts) -> tuple[str, ...]:
    """Every fact that does not hold any more, as a sentence."""
    found = []
    if then.generation != now.generation:
        found.append(f"generation {now.generation} was given out; the plan knew {then.generation}")
    for name in sorted(then.gateways.keys() | now.gateways.keys()):
        was, is_ = then.gateways.get(name), now.gateways.get(name)
        if was != is_:
            found.append(f"gateway {name} {_runs(is_)}; the plan saw that it {_runs(was)}")
    if then.allowed != now.allowed:
        found.append(f"the ledger allows {now.allowed} dark; the plan saw {then.allowed}")
    for site in sorted(then.dark.keys() | now.dark.keys()):
        if then.dark.get(site) != now.dark.get(site):
            found.append(f"site {site} is {_slot(now.dark.get(site))}; the plan saw that it is {_slot(then.dark.get(site))}")
    for site in sorted(set(then.unseen) ^ set(now.unseen)):
        found.append(f"site {site} is {'not seen' if site in now.unseen else 'seen'}; that was otherwise for the plan")
    return tuple(found)


def obstacles(plan: Plan, state: State, contents: Mapping[str, Content]) -> tuple[str, ...]:
    """Why the plan must not be applied now; none: it may. It is judged anew, not believed."""
    content = decode_content(plan.content)
    facts = facts_of(state, in_force(state, dict(contents)))
    changed = differences(plan.facts, facts) + plan.problems
    return tuple(dict.fromkeys((*changed, *_problems(state, contents, in_force(state, dict(contents)), content, facts))))


def submit(plan: Plan, key: Ed25519PrivateKey) -> Submission:
    """Sign what the plan shows. Raises PeerError where the plan is refused: nothing beyond the budget is ever signed."""
    if plan.problems:
        raise PeerError("the plan", f"is refused, and was not signed: {plan.problems[0]}")
    return Submission(
        version=VERSION,
        plan=plan.hash,
        facts=plan.facts,
        content=plan.content,
        signature=sign(plan.content, key),
        documents=plan.documents,
    )


def judge(
    submission: Submission, operators: Operators, state: State, contents: Mapping[str, Content]
) -> tuple[str, ...]:
    """The coordinator's half: why a submission must not be numbered; none: it may."""
    envelope = Envelope(version=1, generation=1, content=submission.content, signature=submission.signature)
    try:
        content = signed_content(envelope, operators, state.fleet)
        _documents_are_signed(content, submission.documents)
    except NotSigned as exc:
        return (f"{exc.refusal}: {exc.what}",)
    except DecodeError as exc:
        return (exc.what,)
    running = in_force(state, dict(contents))
    facts = facts_of(state, running)
    problems = _problems(state, contents, running, content, facts)
    return tuple(dict.fromkeys((*differences(submission.facts, facts), *problems)))


def decode_plan(data: bytes) -> Plan:
    """Raises DecodeError, also where the documents are not the ones that the content names."""
    plan = decode(data.removesuffix(b"\n"), "plan", Plan)
    understood("plan", plan.requires)
    _documents_are_signed(decode_content(plan.content), plan.documents)
    return plan


def decode_submission(data: bytes) -> Submission:
    """Raises DecodeError. `judge` looks into it."""
    submission = decode(data, "submission", Submission)
    understood("submission", submission.requires)
    return submission


def _problems(
    state: State, contents: Mapping[str, Content], running: Content | None, content: Content, facts: Facts
) -> Iterator[str]:
    if state.fleet != content.fleet:
        yield f"the fleet file is of fleet {content.fleet}, and the coordinator of {state.fleet}"
        return
    if state.generation and not content.after:
        yield "no gateway that has a content is heard: nobody could take another"
    dark = {name for name, kind in facts.dark.items() if kind != FROM_CONTENT} | set(facts.unseen)
    yield from shortfalls(running, content, dark)
    # An agent compares with what it took last, which in the middle of a rollout is not what runs.
    for hash_ in content.after:
        if hash_ not in contents:
            yield f"content {hash_[:12]}, which it is to follow, is not there any more"
        else:
            yield from shortfalls(contents[hash_], content, dark)


def _unseen(state: State, running: Content | None) -> Iterator[str]:
    for name, attracted in ({} if running is None else lit(running)).items():
        views = state.seen.get(name, {})
        if views and all(view is not None and attracted.isdisjoint(view) for view in views.values()):
            yield name


def _is_empty(state: State, contents: Mapping[str, Content], content: Content) -> bool:
    wanted = {gateway for site in content.sites.values() for gateway in site.gateways}
    running = {name for name, each in state.gateways.items() if each.active is not None}
    used = {each.active for each in state.gateways.values() if each.active is not None}
    newest = {each.newest for each in state.gateways.values() if each.newest is not None}
    return wanted == running and all(contents[each].core == content.core for each in used | newest)


def _changes(before: Mapping[str, Site], after: Mapping[str, Site]) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        what = ["new"] if old is None else ["removed"] if new is None else list(_differing(old, new))
        if what:
            was, now = ({} if each is None else each.gateways for each in (old, new))
            changed = (
                gateway
                for gateway in sorted(was.keys() | now.keys())
                if gateway not in was or gateway not in now or was[gateway].document != now[gateway].document
            )
            yield Change(
                site=name,
                what=tuple(what),
                before=None if old is None else old.intent,
                after=None if new is None else new.intent,
                documents=tuple(changed),
            )


def _differing(old: Site, new: Site) -> Iterator[str]:
    if old.intent is not new.intent:
        yield "intent"
    if old.moves != new.moves:
        yield "moves"
    if old.because != new.because:
        yield "words"
    if old.prepend != new.prepend:
        yield "prepend"
    was, does = ({n: (each.announces, each.unicast, each.holds) for n, each in site.gateways.items()} for site in (old, new))
    if (old.announces, old.attracts) != (new.announces, new.attracts) or was != does:
        yield "announcements"
    if old.region != new.region:
        yield "region"
    if old.capacity != new.capacity:
        yield "capacity"
    if {name: each.document for name, each in old.gateways.items()} != {
        name: each.document for name, each in new.gateways.items()
    }:
        yield "document"


def _documents_are_signed(content: Content, documents: Mapping[str, str]) -> None:
    named_ = {name: each.document for site in content.sites.values() for name, each in site.gateways.items()}
    if wrong := sorted(
        name for name in named_.keys() | documents.keys() if hash_of(documents.get(name, "")) != named_.get(name)
    ):
        raise DecodeError("documents", 0, f"of {named(wrong)}: not the ones that the content names")


def _runs(each: Running | None) -> str:
    if each is None:
        return "has no content"
    active = "none" if each.active is None else each.active[:12]
    return f"runs by {active}" + ("" if each.newest in (each.active, None) else f" with {str(each.newest)[:12]} staged")


def _slot(kind: str | None) -> str:
    return "not in the ledger" if kind is None else f"dark ({kind})"
