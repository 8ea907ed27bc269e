"""A drill file: what is broken, what must hold. One drill a file under `labs/drills/`.

The file is for people: unknown keys are refused, all problems are told at once. Bounds are named, never written: the
numbers and their reasons stand in `labs/limits.yml`.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import pydantic
import yaml

from anycast.errors import ConfigError, Problem

DRILLS = Path(__file__).resolve().parents[2] / "drills"
LIMITS = Path(__file__).resolve().parents[2] / "limits.yml"


class Tier(enum.StrEnum):
    TEST = "test"
    LONG = "long"


_Model = TypeVar("_Model", bound=pydantic.BaseModel)


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class ProcessName(enum.StrEnum):
    """What a drill may signal, by role; the runner finds it by its pid file."""

    CHARON = "charon"
    AGENT = "site-agent"
    EXABGP = "exabgp"
    BRIDGE = "bridge"


class Signal(_Strict):
    """Send one signal to one process of the victim."""

    do: Literal["signal"]
    process: ProcessName
    signal: Literal["KILL", "STOP", "CONT", "TERM"]
    even_if_gone: bool = False
    """The process may have been killed by the product in between (a stopped ExaBGP is)."""


class Freeze(_Strict):
    """Stop all processes of the victim and drop everything on its links."""

    do: Literal["freeze"]


class Thaw(_Strict):
    do: Literal["thaw"]


class PowerOff(_Strict):
    do: Literal["power_off"]


class PowerOn(_Strict):
    do: Literal["power_on"]


class RemoveVips(_Strict):
    """Take the anycast addresses away from the victim, as a slip of somebody's hand would."""

    do: Literal["remove_vips"]


class AddVips(_Strict):
    do: Literal["add_vips"]


class StartAgent(_Strict):
    """What the service manager would do after the agent ended."""

    do: Literal["start_agent"]


class StopClients(_Strict):
    """End every client's charon: the gateway has no client afterwards."""

    do: Literal["stop_clients"]


class StartClients(_Strict):
    do: Literal["start_clients"]


class Wait(_Strict):
    """Go on when the witnesses have seen it; fail the drill when they have not within the limit."""

    do: Literal["wait"]
    until: Literal["route_gone", "route_back", "clients_good"]
    limit: str


class Pass(_Strict):
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
    | StartAgent
    | StopClients
    | StartClients
    | Wait
    | Pass,
    pydantic.Field(discriminator="do"),
]


class RouteGone(_Strict):
    """Upstream and transit lose the victim's prefixes within the limit, counted from the fault."""

    check: Literal["route_gone"]
    limit: str


class RouteStays(_Strict):
    """Upstream and transit never lose the victim's prefixes, and the upstream counts no WITHDRAW."""

    check: Literal["route_stays"]


class RouteBack(_Strict):
    """After the heal, transit has the prefixes again within the limit."""

    check: Literal["route_back"]
    limit: str


class RouteUp(_Strict):
    """At the end upstream and transit have the victim's prefixes, whether they were away in between or not."""

    check: Literal["route_up"]


class Because(_Strict):
    """`site-agent why` names this reason for the first verdict or withdrawal after the fault."""

    check: Literal["because"]
    reason: str


class ClientsMove(_Strict):
    """Each client's packets are good again within the limit, through the other site."""

    check: Literal["clients_move"]
    limit: str


class ClientsStay(_Strict):
    """No client has a longer gap than the limit."""

    check: Literal["clients_stay"]
    limit: str


class QuietUntilVerdict(_Strict):
    """After the thaw no route is announced before the agent's first verdict taken after it."""

    check: Literal["quiet_until_verdict"]


class NoClients(_Strict):
    """The route was announced while the gateway had no CHILD_SA at all."""

    check: Literal["announced_without_clients"]


Check = Annotated[
    RouteGone | RouteStays | RouteBack | RouteUp | Because | ClientsMove | ClientsStay | QuietUntilVerdict | NoClients,
    pydantic.Field(discriminator="check"),
]


class Drill(_Strict):
    version: Literal[1]
    drill: str
    message: str
    """What this drill proves, for the report."""
    topology: str
    tier: Tier
    kernel: Literal["any", "esp"]
    victim: str
    """The gateway that is broken; every step acts on it."""
    must_fail: bool = False
    """Right only when every check is red: it shows that these assertions can fail."""
    steps: tuple[Step, ...]
    checks: tuple[Check, ...]


class Limit(_Strict):
    ms: float
    uml_ms: float | None = None
    reason: str

    def on(self, kernel: str) -> float:
        """The bound in milliseconds on this kernel (`native` or `uml`)."""
        return self.uml_ms if kernel == "uml" and self.uml_ms is not None else self.ms


class Limits(_Strict):
    version: Literal[1]
    limits: dict[str, Limit]


def load_limits(path: Path = LIMITS) -> dict[str, Limit]:
    """Every bound by name. Raises ConfigError with all problems."""
    return _validated(Limits, path).limits


def load_drills(folder: Path = DRILLS) -> dict[str, Drill]:
    """Every drill by name, sorted. Raises ConfigError with all problems of all files."""
    limits, problems, drills = load_limits(), [], {}
    for path in sorted(folder.glob("*.yml")):
        try:
            drill = _validated(Drill, path)
        except ConfigError as error:
            problems += error.problems
            continue
        if drill.drill != path.stem:
            problems.append(Problem("drill", f"is {drill.drill!r}, but the file is named {path.stem!r}", str(path)))
        for place, part in (*enumerate(drill.steps), *enumerate(drill.checks)):
            name = getattr(part, "limit", None)
            if name is not None and name not in limits:
                problems.append(Problem(f"[{place}].limit", f"{name!r} does not stand in {LIMITS.name}", str(path)))
        drills[drill.drill] = drill
    if problems:
        raise ConfigError(problems)
    return drills


def _validated(model: type[_Model], path: Path) -> _Model:
    try:
        return model.model_validate(yaml.load(path.read_text(), yaml.CSafeLoader))
    except yaml.YAMLError as error:
        raise ConfigError([Problem("", f"is not YAML: {error}", str(path))]) from error
    except pydantic.ValidationError as error:
        raise ConfigError(
            [Problem(".".join(str(part) for part in one["loc"]), one["msg"], str(path)) for one in error.errors()]
        ) from error
