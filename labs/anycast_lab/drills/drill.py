"""A drill file: what is broken, what must hold. One drill a file under `labs/drills/`.

The file is for people: unknown keys are refused, all problems are told at once. Bounds are named, never written: the
numbers and their reasons stand in `labs/limits.yml`.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from anycast.errors import ConfigError, Problem
from anycast.fleet.values import Family
from anycast.reasons import Reason
from anycast_lab.drills.client_steps import ClientCheck, ClientStep
from anycast_lab.drills.coordinator_steps import CoordinatorCheck, CoordinatorStep, DarkAtMost, MovesOnly, OwnStays
from anycast_lab.drills.kernel_steps import KernelStep
from anycast_lab.drills.limits import Limit as Limit
from anycast_lab.drills.limits import Strict, validated
from anycast_lab.drills.limits import load_limits as load_limits
from anycast_lab.drills.mirror_steps import MirrorCheck, MirrorStep
from anycast_lab.drills.operator_steps import AwayFor as AwayFor
from anycast_lab.drills.operator_steps import BreakFleet as BreakFleet
from anycast_lab.drills.operator_steps import EveryKill as EveryKill
from anycast_lab.drills.operator_steps import FlapClear as FlapClear
from anycast_lab.drills.operator_steps import Hold as Hold
from anycast_lab.drills.operator_steps import HoldEnd as HoldEnd
from anycast_lab.drills.operator_steps import MendFleet as MendFleet
from anycast_lab.drills.operator_steps import SameWord as SameWord
from anycast_lab.drills.operator_steps import Screens as Screens
from anycast_lab.drills.pair_steps import Measured, PairCheck, PairStep, Where
from anycast_lab.drills.path_steps import PathCheck, PathStep
from anycast_lab.drills.tunnel_steps import TunnelStep
from anycast_lab.flood.packets import Kind

DRILLS = Path(__file__).resolve().parents[2] / "drills"


class Tier(enum.StrEnum):
    TEST = "test"
    LONG = "long"
    BENCH = "bench"
    """What ./bench measures; no test runs it."""


class ProcessName(enum.StrEnum):
    """What a drill may signal, by role; it is found by its pid file, by its parent or by its command line."""

    CHARON = "charon"
    AGENT = "site-agent"
    EXABGP = "exabgp"
    BRIDGE = "bridge"
    VRRP = "vrrp"
    SYNC = "sync"
    KEEPALIVED = "keepalived"


class Signal(Strict):
    """Send one signal to one process of the victim, or of the other gateway of its site."""

    do: Literal["signal"]
    process: ProcessName
    signal: Literal["KILL", "STOP", "CONT", "TERM"]
    at: Where = "victim"
    even_if_gone: bool = False
    """The process may have been killed by the product in between (a stopped ExaBGP is)."""


class Freeze(Strict):
    """Stop all processes of the victim and drop everything on its links."""

    do: Literal["freeze"]


class Thaw(Strict):
    do: Literal["thaw"]


class PowerOff(Strict):
    do: Literal["power_off"]
    at: Where = "victim"


class PowerOn(Strict):
    do: Literal["power_on"]
    at: Where = "victim"


class RemoveVips(Strict):
    """Take the anycast addresses away from the victim, as a slip of somebody's hand would."""

    do: Literal["remove_vips"]


class AddVips(Strict):
    do: Literal["add_vips"]


class StartAgent(Strict):
    """What the service manager would do after the agent ended."""

    do: Literal["start_agent"]


class StopClients(Strict):
    """End every client's charon: the gateway has no client afterwards."""

    do: Literal["stop_clients"]


class StartClients(Strict):
    do: Literal["start_clients"]


Target = Literal["vips", "gateways"]
"""What strangers send to: the service addresses, or a gateway's own. Flows to the former are never tracked."""


class Flood(Strict):
    """Every site's upstream router sends its gateway garbage from spoofed sources, a tenth faster than `rate` demands."""

    do: Literal["flood"]
    kinds: tuple[Kind, ...] = pydantic.Field(min_length=1)
    rate: str
    """Packets a second at each site, a name in labs/limits.yml."""
    at: Target = "vips"


class EndFlood(Strict):
    do: Literal["end_flood"]


class FillConntrack(Strict):
    """The victim tracks connections, as behind any firewall, and its table fills to the kernel's own limit."""

    do: Literal["fill_conntrack"]
    known_s: float = 6.0
    """How long it tracks before: what goes on then has its entry."""


class EmptyConntrack(Strict):
    do: Literal["empty_conntrack"]


class AskStranger(Strict):
    """The victim's upstream router, as a stranger, sends an ICMP echo request and an IKE_SA_INIT."""

    do: Literal["ask_as_stranger"]
    at: Target = "vips"


class StickVici(Strict):
    """The victim's control socket accepts, and says nothing to whoever connects from now on."""

    do: Literal["stick_vici"]


class FreeVici(Strict):
    do: Literal["free_vici"]


class DnsWrong(Strict):
    """The name servers on these machines give a wrong address for the service's name."""

    do: Literal["dns_wrong"]
    at: tuple[str, ...] = pydantic.Field(min_length=1)


class DnsRight(Strict):
    do: Literal["dns_right"]
    at: tuple[str, ...] = pydantic.Field(min_length=1)


class SessionDown(Strict):
    """This router's operator disables its BGP sessions with the victim."""

    do: Literal["session_down"]
    at: str


class SessionUp(Strict):
    do: Literal["session_up"]
    at: str


class CanaryWrong(Strict):
    """The canaries of these gateways are given a certificate of a stranger's root, which they find by themselves."""

    do: Literal["canary_wrong"]
    at: tuple[str, ...] = pydantic.Field(min_length=1)


class CanaryRight(Strict):
    """They get their own certificate back."""

    do: Literal["canary_right"]
    at: tuple[str, ...] = pydantic.Field(min_length=1)


class WaitAlarm(Strict):
    """Go on when the alarm stands at these gateways, in their events and in their status, or no longer does."""

    do: Literal["wait_alarm"]
    reason: Reason
    until: Literal["raised", "cleared"]
    at: tuple[str, ...] = ()
    """Gateways; the victim where none is named."""
    limit: str


class Wait(Strict):
    """Go on when the witnesses have seen it; fail the drill when they have not within the limit."""

    do: Literal["wait"]
    until: Literal["route_gone", "route_back", "clients_good"]
    limit: str


class Pass(Strict):
    """Let time pass, because what must *not* happen needs time not to happen in."""

    do: Literal["pass"]
    seconds: float


Step = Annotated[
    Signal
    | Freeze
    | Thaw
    | PowerOff
    | PowerOn
    | RemoveVips
    | AddVips
    | KernelStep
    | PairStep
    | MirrorStep
    | TunnelStep
    | CoordinatorStep
    | ClientStep
    | PathStep
    | StartAgent
    | StopClients
    | StartClients
    | Hold
    | HoldEnd
    | FlapClear
    | BreakFleet
    | MendFleet
    | Screens
    | DnsWrong
    | DnsRight
    | SessionDown
    | SessionUp
    | CanaryWrong
    | CanaryRight
    | Flood
    | EndFlood
    | FillConntrack
    | EmptyConntrack
    | AskStranger
    | StickVici
    | FreeVici
    | WaitAlarm
    | Wait
    | Pass,
    pydantic.Field(discriminator="do"),
]


class RouteGone(Strict):
    """Upstream and transit lose the victim's prefixes within the limit, counted from the fault."""

    check: Literal["route_gone"]
    limit: str


class RouteStays(Strict):
    """Upstream and transit never lose the victim's prefixes, and the upstream counts no WITHDRAW."""

    check: Literal["route_stays"]


class RouteBack(Strict):
    """After the heal, transit has the prefixes again within the limit."""

    check: Literal["route_back"]
    limit: str


class RouteUp(Strict):
    """At the end upstream and transit have the victim's prefixes, whether they were away in between or not."""

    check: Literal["route_up"]


class Because(Strict):
    """`site-agent why` names this reason for the first verdict or withdrawal after the fault."""

    check: Literal["because"]
    reason: str


class Alarm(Strict):
    """The alarm is raised within the limit of the fault at each of these gateways, and cleared within it of the heal."""

    check: Literal["alarm"]
    reason: Reason
    at: tuple[str, ...] = ()
    """Gateways; the victim where none is named."""
    limit: str


class NothingMoves(Strict):
    """From the fault to the end no route comes, goes or changes an attribute at any router of the lab."""

    check: Literal["nothing_moves"]


class ClientsMove(Strict):
    """Each client's packets are good again within the limit, through the other site."""

    check: Literal["clients_move"]
    limit: str
    clients: tuple[str, ...] = ()
    """Only these; all where none is named."""


class ClientsStay(Strict):
    """No client has a longer gap than the limit."""

    check: Literal["clients_stay"]
    limit: str
    clients: tuple[str, ...] = ()
    """Only these; all where none is named."""


class TunnelsRekeyed(Strict):
    """The agent says, with this reason, that at least so many tunnels were made anew within the limit after the fault."""

    check: Literal["tunnels_rekeyed"]
    reason: str
    at_least: int
    limit: str


class QuietUntilVerdict(Strict):
    """After the thaw no route is announced before the agent's first verdict taken after it."""

    check: Literal["quiet_until_verdict"]


class NoClients(Strict):
    """The route was announced while the gateway had no CHILD_SA at all."""

    check: Literal["announced_without_clients"]


class NothingWithdrawn(Strict):
    """No route of any gateway goes at any router, and no upstream counts a WITHDRAW."""

    check: Literal["nothing_withdrawn"]


class FloodRate(Strict):
    """Every gateway's kernel received this many packets a second for as long as the flood lasted: no weak flood passes."""

    check: Literal["flood_rate"]
    rate: str


class Verdict(Strict):
    """The victim's agent says within the limit after the fault that the site cannot serve, for this reason."""

    check: Literal["verdict"]
    reason: Reason
    limit: str


class StrangerRefused(Strict):
    """New flows are answered before the fault and after the heal, and get no answer at all between: three asks at least."""

    check: Literal["stranger_refused"]


class StrangerAskedForCookie(Strict):
    """charon answers an IKE_SA_INIT with a cookie and keeps nothing of it (RFC 7296, section 2.6)."""

    check: Literal["stranger_asked_for_cookie"]


Check = Annotated[
    RouteGone
    | RouteStays
    | RouteBack
    | RouteUp
    | Because
    | SameWord
    | AwayFor
    | EveryKill
    | Alarm
    | NothingMoves
    | NothingWithdrawn
    | MovesOnly
    | OwnStays
    | DarkAtMost
    | FloodRate
    | Verdict
    | StrangerRefused
    | StrangerAskedForCookie
    | ClientsMove
    | ClientsStay
    | TunnelsRekeyed
    | QuietUntilVerdict
    | NoClients
    | PairCheck
    | MirrorCheck
    | CoordinatorCheck
    | ClientCheck
    | PathCheck,
    pydantic.Field(discriminator="check"),
]


class Drill(Strict):
    version: Literal[1]
    drill: str
    message: str
    """What this drill proves, for the report."""
    topology: str
    tier: Tier
    kernel: Literal["any", "esp", "native"]
    """``native``: milliseconds are asserted, which User Mode Linux cannot give."""
    victim: str
    """The gateway that is broken: a step acts on it unless it says `at`. ``active of SITE`` or ``backup of SITE``: whichever
    is that when the drill begins."""
    probe_ms: float = pydantic.Field(default=5, ge=1, le=100)
    """Between two probes of a client. More where seconds are asserted: 400 a second take half of User Mode Linux's one
    CPU, and machines that need it for their routes have the other half."""
    probe_inner: tuple[Family, ...] = ()
    """Each client probes from its inner addresses of these families: the second one's packets have its name with the family
    behind it. Where none is named, from the first one that pools and servers have."""
    foreign: bool = False
    """Its gateways run what stands in labs/baseline, not our agent: what only ours says of itself is not waited for."""
    must_fail: bool = False
    """Right only when every check is red: it shows that these assertions can fail."""
    steps: tuple[Step, ...]
    checks: tuple[Check, ...]

    @property
    def watches_site(self) -> bool:
        """The victim's site is watched as `site_watch` does it."""
        return self.kernel == "native" or any(isinstance(part, PairStep | PairCheck) for part in (*self.steps, *self.checks))

    @property
    def measures(self) -> bool:
        return any(isinstance(check, Measured) for check in self.checks)

    @property
    def watches_clients(self) -> bool:
        """Where clients' tunnels end is looked at as `client_sites` does it."""
        return any(isinstance(part, ClientStep | ClientCheck) for part in (*self.steps, *self.checks))

    @property
    def watches_paths(self) -> bool:
        """What comes to clients is watched as `path_watch` does it."""
        return any(isinstance(part, PathStep | PathCheck) for part in (*self.steps, *self.checks))

    @property
    def watches_tunnels(self) -> bool:
        """What is to outlive a gateway is watched as `mirror_watch` does it."""
        return any(isinstance(part, MirrorStep | TunnelStep | MirrorCheck) for part in (*self.steps, *self.checks))


def load_drills(folder: Path = DRILLS) -> dict[str, Drill]:
    """Every drill by name, sorted. Raises ConfigError with all problems of all files."""
    limits, problems, drills = load_limits(), [], {}
    for path in sorted(folder.glob("*.yml")):
        try:
            drill = validated(Drill, path)
        except ConfigError as error:
            problems += error.problems
            continue
        if drill.drill != path.stem:
            problems.append(Problem("drill", f"is {drill.drill!r}, but the file is named {path.stem!r}", str(path)))
        for place, part in (*enumerate(drill.steps), *enumerate(drill.checks)):
            for field in ("limit", "rate"):
                name = getattr(part, field, None)
                if name is not None and name not in limits:
                    problems.append(Problem(f"[{place}].{field}", f"{name!r} does not stand in limits.yml", str(path)))
        drills[drill.drill] = drill
    if problems:
        raise ConfigError(problems)
    return drills
