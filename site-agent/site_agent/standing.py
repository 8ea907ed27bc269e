"""What an agent on this machine would find at its start besides the checks: an operator's hold, and a flap penalty.

Only read, and only where an agent ever ran: on somebody else's gateway there is neither.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os

from anycast import history
from anycast.errors import DecodeError
from anycast.policy.flap import FlapControl
from anycast.policy.hold import Hold
from anycast.runtime import boottime
from site_agent import hold_store
from site_agent.paths import Paths

LOG_TAIL_BYTES = 256 * 1024
"""Of the event log: more than an hour of flapping."""
DEFAULT_THRESHOLD = 6000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    hold: Hold | None = None
    """In force now."""
    unreadable: str = ""
    """Why the hold's file means nothing."""
    flap: FlapControl | None = None
    """As the last agent left it; None where its log says nothing of it."""


def read(paths: Paths) -> Standing:
    """Look at the state directory. What is not there, or may not be read, is not standing."""
    hold, unreadable = None, ""
    try:
        hold = hold_store.load(paths)
    except DecodeError as exc:
        unreadable = str(exc)
    if hold is not None and hold.left_s(hold_store.read_clocks()) <= 0:
        hold = None
    return Standing(hold=hold, unreadable=unreadable, flap=restored_flaps(paths))


def restored_flaps(paths: Paths) -> FlapControl | None:
    """The penalty that the last agent's log holds, decayed until now."""
    gateway, threshold = "", float(DEFAULT_THRESHOLD)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        document = json.loads(paths.document.read_bytes())
        gateway, threshold = str(document["gateway"]), float(document["agent"]["flap_threshold"])
    flaps = last_flaps(paths)
    if flaps is None:
        return None
    control = FlapControl(gateway=gateway, threshold=threshold)
    restore(control, flaps)
    return control


def last_flaps(paths: Paths) -> history.Flaps | None:
    """What the end of the log says of flap control."""
    with contextlib.suppress(OSError), open(paths.events, "rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        return history.last_flaps(history.read_records(log))
    return None


def restore(control: FlapControl, flaps: history.Flaps) -> None:
    """Have `control` go on from there."""
    age_s = hold_store.read_clocks().wall - flaps.at.timestamp()
    control.restore(flaps.penalty, age_s=age_s, waiting=not flaps.announce, now=boottime())
