"""What the coordinator's REST interface says and hears, version 1: the models, and the table of what may be asked by whom.

The table is the one place: `rest.py` serves it, the OpenAPI document is made of it. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic

from anycast.content.state import State
from anycast.coordinator.access import Role
from anycast.coordinator.failures import Failures
from anycast.coordinator.fleet_view import GatewayView, SiteState, SiteView
from anycast.coordinator.leases import Leases
from anycast.coordinator.observations import GOOD_S, Word
from anycast.coordinator.store import Line
from anycast.coordinator.why import Why
from anycast.link_wire import Report
from anycast.model import NAME
from anycast.policy import recovery
from anycast.policy.content_diff import Difference
from anycast.policy.drain import Seen
from anycast.policy.plan import Submission
from anycast.policy.rollout import Rollout, Step

WHOLE_NAME = f"^(?:{NAME.pattern})$"
Name = Annotated[str, pydantic.StringConstraints(pattern=WHOLE_NAME)]
Address = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f.:]{2,45}$")]
NO_OTHER_KEY: dict[str, pydantic.JsonValue] = {"additionalProperties": False}
"""Of a dict whose keys have a pattern: without it the description allows any other one, too."""
REFUSALS = {
    "400": "not understood",
    "401": "no credential that counts",
    "403": "not for this one",
    "404": "no such thing",
    "408": "not whole in time",
    "409": "it has changed meanwhile, or is there already",
    "413": "too long",
    "503": "the store fails",
}
LONGEST_BODY = 64 * 1024
"""Bytes of a request."""
LONGEST_WORDS = 500
"""Characters of what an operator says to people."""
LONGEST_SUBMISSION = 64 << 20
"""Bytes of one: the documents of every gateway, 4 KiB each."""
LARGEST_NUMBER = 2**53
"""In a query: what every JSON reader keeps exact."""
MOST_LINES = 1000
"""Of history, in one answer."""
MOST_DIFFERENCES = 100
"""Of one line of history."""


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class GatewayStatus(_Model):
    gateway: str
    connected: bool
    fresh: bool
    """Its newest report is younger than three heartbeats."""
    age_s: float
    agent: str
    report: Report | None


class SiteStatus(_Model):
    site: str
    state: SiteState
    why: str
    seen: Seen = Seen.UNKNOWN
    """Its route, by observers outside."""
    tunnels: int | None
    gateways: tuple[GatewayStatus, ...]


class ObserverStatus(_Model):
    observer: str
    age_s: float
    fresh: bool
    """What it said counts."""
    routers: dict[str, bool]
    """By address: its session stands."""


class Observation(_Model):
    """What an observer sees now, all of it."""

    v: Literal[1]
    sites: Annotated[dict[Name, Seen], pydantic.Field(max_length=100_000, json_schema_extra=NO_OTHER_KEY)]
    routers: Annotated[
        dict[Address, pydantic.StrictBool], pydantic.Field(max_length=64, json_schema_extra=NO_OTHER_KEY)
    ] = pydantic.Field(default_factory=dict)
    """Whether the session with each stands. People see the addresses: there is nothing else in them."""


class RolloutStatus(_Model):
    """The rollout under way, or the last one."""

    id: str
    by: str
    generation: int
    hash: str
    step: str
    site: str
    """The one that is being changed, or is next."""
    done: int
    sites: tuple[str, ...]
    """In the order of activation."""
    changed: tuple[str, ...]
    paused: bool
    reason: str
    waits_for: str
    """Why the ledger has no slot for it now."""
    for_s: float = 0.0
    """How long it is at this step."""
    bake_s: float = 0.0
    """How long each changed site is watched."""


class Status(_Model):
    v: Literal[1] = 1
    fleet: str
    coordinator: str
    """Its instance; another process has another."""
    epoch: int
    revision: int
    """Of the newest decision."""
    at: float
    """Unix time."""
    sites: tuple[SiteStatus, ...]
    unheard: tuple[str, ...] = ()
    """Sites of contents in use of which no gateway was heard since this process began; they are in none of `sites`."""
    observers: tuple[ObserverStatus, ...] = ()
    ledger: str
    """``dark 2 of 4 allowed: fra drain by alice, sin token dns``."""
    rollout: RolloutStatus | None
    read_only: str
    """Why it decides nothing, as one sentence; empty: it does."""
    alarms: tuple[str, ...]
    """What somebody must look at: the coordinator itself (`read_only` first), a stopped rollout, a suspected check."""


class HistoryLine(_Model):
    seq: int
    at: float
    who: str
    action: str
    reason: str
    body: dict[str, Any]
    hash: str
    diff: tuple[Difference, ...] | None = None
    """Of a rollout's beginning, where asked for: what differs from the content before. None: there was no single one."""
    differences: int = 0
    """How many there are; `diff` has at most 100."""


class History(_Model):
    v: Literal[1] = 1
    lines: tuple[HistoryLine, ...]
    first_broken: int | None = None
    """The first line that was tampered with, where that was asked for."""
    last: int = 0
    last_hash: str = ""


class ContentLine(_Model):
    """One content that an operator handed in."""

    hash: str
    by: str
    at: float
    """Unix time."""
    generations: tuple[int, ...]
    """Which it was given; more than one where a rollout returned to it."""
    gateways: tuple[str, ...]
    """Which run by it."""


class Contents(_Model):
    v: Literal[1] = 1
    contents: tuple[ContentLine, ...]
    """Oldest first."""


class KeptContent(ContentLine):
    v: Literal[1] = 1
    key: str
    """Whose signature it has."""
    text: str
    documents: dict[str, str]


class Documents(_Model):
    v: Literal[1] = 1
    documents: dict[str, str]
    """Of every gateway that runs by a content, the text that was signed."""


class Command(_Model):
    word: Literal["pause", "resume", "abort", "override"]
    reason: Annotated[str, pydantic.StringConstraints(max_length=LONGEST_WORDS, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")] = ""
    """For history; ``override``, which takes a step that could be too much for another site, wants one."""


class NewCredential(_Model):
    name: Name
    role: Role
    sites: tuple[Name, ...] | None = None
    """None: every site."""


class Recover(_Model):
    reason: Annotated[str, pydantic.StringConstraints(min_length=1, max_length=500)]
    without: Annotated[tuple[Name, ...], pydantic.Field(max_length=1000)] = ()
    """Gateways whose word is not to count."""


class RecoveredContent(_Model):
    hash: str
    generations: tuple[int, ...]
    signed_by: str
    """An operator of the list."""
    handed_over_by: tuple[str, ...]


class Recovered(_Model):
    """What the store has taken of gateways."""

    v: Literal[1] = 1
    generation: int
    """The next one that is given out is higher."""
    contents: tuple[RecoveredContent, ...]
    heard: tuple[str, ...]
    """Gateways whose word counted."""


class Credential(_Model):
    name: str
    role: Role
    sites: tuple[str, ...] | None
    made_at: float
    made_by: str


class Credentials(_Model):
    v: Literal[1] = 1
    credentials: tuple[Credential, ...]


class Secret(_Model):
    """Told once, and kept by nobody but its owner."""

    v: Literal[1] = 1
    name: str
    token: str


class Done(_Model):
    v: Literal[1] = 1


class Refusal(_Model):
    """Every answer that is not what was asked for."""

    v: Literal[1] = 1
    error: str
    """One sentence."""
    problems: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One line of the interface."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    """Parts in braces are names."""
    name: str
    """Of the method that answers."""
    role: Role | None
    """The least that may ask; None: anybody who is let in at all."""
    answer: type[pydantic.BaseModel] | None
    """None: a stream of server-sent events, or a document that describes itself."""
    body: type[pydantic.BaseModel] | None = None
    signed: bool = False
    """The body's own bytes count; who answers reads them."""
    query: tuple[tuple[str, str], ...] = ()
    """Name and meaning of each optional whole number."""
    words: tuple[tuple[str, str], ...] = ()
    """Name and meaning of each optional text, of `LONGEST_WORDS` at most."""
    per_site: bool = False
    """Whoever has the role for some sites may ask; which ones it is about is looked at where that is known."""
    summary: str


WHY_QUERY = (("at", "Unix time in milliseconds; now without"),)

ENDPOINTS = (
    Endpoint(method="GET", path="/v1/openapi.json", name="openapi", role=None, answer=None, summary="This description"),
    Endpoint(method="GET", path="/v1/status", name="status", role=Role.VIEWER, answer=Status, summary="The fleet as heard"),
    Endpoint(
        method="GET", path="/v1/watch", name="watch", role=Role.VIEWER, answer=None,
        summary="Server-sent events: a `status` at once, and whenever something changes",
    ),
    Endpoint(
        method="GET", path="/v1/history", name="history", role=Role.VIEWER, answer=History,
        query=(
            ("after", "lines behind this one"), ("limit", f"at most so many, {MOST_LINES} by default"),
            ("verify", "1: also check the chain of hashes"), ("diff", "1: with what each rollout changed"),
        ),
        summary="Who did what, when and why; oldest first",
    ),
    Endpoint(
        method="GET", path="/v1/why/{site}", name="why", role=Role.VIEWER, answer=Why, query=WHY_QUERY,
        summary="What led to a site's state: its gateways' events and the decisions about it, in one order of time",
    ),
    Endpoint(
        method="GET", path="/v1/why/{site}/{gateway}", name="why_gateway", role=Role.VIEWER, answer=Why, query=WHY_QUERY,
        summary="The same of one gateway alone",
    ),
    Endpoint(
        method="GET", path="/v1/state", name="state", role=Role.VIEWER, answer=State,
        summary="What `anycast plan` is made against, in its canonical form",
    ),
    Endpoint(
        method="GET", path="/v1/documents", name="documents", role=Role.VIEWER, answer=Documents,
        summary="What every gateway runs by, for a content that changes an intent only",
    ),
    Endpoint(
        method="GET", path="/v1/leases", name="leases", role=Role.VIEWER, answer=Leases,
        query=(("days", "so many days before today, 90 by default, 400 at most"),),
        summary="The most inner addresses of each pool that were in use, by day",
    ),
    Endpoint(
        method="GET", path="/v1/failures", name="failures", role=Role.VIEWER, answer=Failures,
        summary="When a fact took a site's routes, by what its gateways told",
    ),
    Endpoint(
        method="GET", path="/v1/contents", name="contents", role=Role.VIEWER, answer=Contents,
        summary="Every content that was handed in, and who runs by it",
    ),
    Endpoint(
        method="GET", path="/v1/contents/{content}", name="content", role=Role.VIEWER, answer=KeptContent,
        summary="One content, by a generation that it was given or the first 12 digits of its hash, or more",
    ),
    Endpoint(
        method="POST", path="/v1/rollouts", name="begin_rollout", role=Role.OPERATOR, per_site=True, answer=RolloutStatus,
        body=Submission, signed=True,
        query=(
            ("bake", "seconds that a changed site is watched before the next one"),
            ("blind", "1: go on where nothing shows how clients fare"),
            ("despite_worst_case", "1: also where a step could be too much for another site; wants a reason"),
            ("despite_unannounced", "1: also where a drain sends clients to an address without a way; wants a reason"),
        ),
        words=(("reason", "why, for whoever reads the history tomorrow"),),
        summary="Begin the rollout of a signed submission, as `anycast apply` makes it (docs/content.md)",
    ),
    Endpoint(
        method="POST", path="/v1/rollouts/command", name="command_rollout", role=Role.OPERATOR, per_site=True,
        answer=RolloutStatus, body=Command, summary="Pause, resume, abort or override the rollout under way",
    ),
    Endpoint(
        method="POST", path="/v1/recovery", name="recover", role=Role.ADMIN, answer=Recovered, body=Recover,
        summary="Of a store that is behind: take the contents that gateways have, each by its operator's signature",
    ),
    Endpoint(
        method="POST", path="/v1/observers/{name}", name="observed", role=Role.OBSERVER, answer=Done, body=Observation,
        summary="What the observer of that name, which the credential has to be, sees of every site's route now",
    ),
    Endpoint(method="GET", path="/v1/access", name="access", role=Role.ADMIN, answer=Credentials, summary="All credentials"),
    Endpoint(
        method="POST", path="/v1/access", name="add_access", role=Role.ADMIN, answer=Secret, body=NewCredential,
        summary="Make a credential; its secret is told this once",
    ),
    Endpoint(
        method="DELETE", path="/v1/access/{name}", name="remove_access", role=Role.ADMIN, answer=Done,
        summary="Take a credential back, at once",
    ),
)  # fmt: skip


def site_status(site: SiteView, seen: Seen, ledger: str) -> SiteStatus:
    """`ledger`: its words about the site, which say why one that announces is counted all the same (degraded)."""
    return SiteStatus(
        site=site.site,
        seen=seen,
        state=site.state,
        why=site.why or ledger,
        tunnels=site.tunnels,
        gateways=tuple(_gateway_status(each) for each in site.gateways),
    )


def observer_status(name: str, word: Word, now: float) -> ObserverStatus:
    age_s = max(0.0, now - word.at)
    return ObserverStatus(observer=name, age_s=round(age_s, 3), fresh=age_s <= GOOD_S, routers=dict(word.routers))


def _gateway_status(view: GatewayView) -> GatewayStatus:
    return GatewayStatus(
        gateway=view.gateway,
        connected=view.connected,
        fresh=view.fresh,
        age_s=round(view.age_s, 3),
        agent=view.agent,
        report=view.report,
    )


def rollout_status(rollout: Rollout, refused: str, now: float) -> RolloutStatus:
    """`now`: by the coordinator's clock, which its steps are told by."""
    return RolloutStatus(
        id=rollout.id,
        by=rollout.by,
        generation=rollout.target.generation,
        hash=rollout.target.hash,
        step=rollout.step.value,
        site=rollout.site,
        done=len(rollout.sites) if rollout.step is Step.DONE else rollout.at,
        sites=rollout.sites,
        changed=rollout.changed,
        paused=rollout.paused,
        reason=rollout.reason,
        waits_for=refused,
        for_s=round(max(0.0, now - rollout.since), 1),
        bake_s=rollout.bake_s,
    )


def recovered(found: recovery.Recovered, words: tuple[str, ...]) -> Recovered:
    return Recovered(
        generation=found.generation,
        contents=tuple(
            RecoveredContent(
                hash=hash_,
                generations=tuple(sorted(number for number, of in found.given.items() if of == hash_)),
                signed_by=each.signed_by,
                handed_over_by=tuple(sorted(each.documents)),
            )
            for hash_, each in sorted(found.contents.items())
        ),
        heard=words,
    )


def history_line(line: Line, found: Sequence[Difference] | None = None) -> HistoryLine:
    diff = None if found is None else tuple(found[:MOST_DIFFERENCES])
    told = {**dataclasses.asdict(line), "body": dict(line.body)}
    return HistoryLine(**told, diff=diff, differences=len(found or ()))
