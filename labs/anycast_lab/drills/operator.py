"""What a drill does in an operator's place: break-glass, flap control, a fleet file that is wrong, a look at the screens."""

from __future__ import annotations

from collections.abc import Sequence

from anycast_lab.drills.screens import ScreensSeen, read
from anycast_lab.runner import LabError, Runner

FLEET = "/etc/anycast/fleet.yaml"
_MISTAKES = ((b"hold_time: 9 s", b"hold_time: nine"), (b"\nservice:", b"\nservices: {}\nservice:"))
"""A word where a duration belongs, and a key that nobody knows."""


async def hold(runner: Runner, node: str, kind: str, seconds: float, despite: Sequence[str]) -> None:
    """`site-agent hold withdraw|announce`. Raises LabError where it refuses."""
    words = ["site-agent", "hold", kind, "--for", f"{seconds:g} s", "--reason", "drill"]
    await say(runner, node, *words, *(word for reason in despite for word in ("--despite", reason)))


async def say(runner: Runner, node: str, *words: str) -> str:
    """One command line of an operator; its output. Raises LabError with what it complains of."""
    done = await runner.exec(node, words)
    if done.rc:
        raise LabError(f"`{' '.join(words)}` at {node}: {(done.stderr or done.stdout).decode(errors='replace').strip()}")
    return done.text


async def break_fleet(runner: Runner, node: str) -> bytes:
    """Put a fleet file with mistakes in place of the node's, and give back the right one."""
    right = await runner.get(node, FLEET)
    wrong = right
    for old, new in _MISTAKES:
        if old not in right:
            raise LabError(f"{FLEET} of {node} has no {old.decode().strip()!r} to break")
        wrong = wrong.replace(old, new, 1)
    await runner.put(node, FLEET, wrong)
    return right


async def look(runner: Runner, node: str, reason: str, metrics: str, since_ns: int) -> ScreensSeen:
    """All screens at once, for one word."""
    return read(reason, **await screens(runner, node, metrics), since_ns=since_ns)


async def screens(runner: Runner, node: str, metrics: str) -> dict[str, str]:
    """What stands on each. A screen that does not come has nothing on it."""
    asked = {
        "log": ("site-agent", "events", "--json"),
        "metric": ("python", "-m", "anycast_lab.drills.scrape", metrics, "/metrics"),
        "status": ("site-agent", "status", "--json"),
        "why": ("site-agent", "why", "--json"),
    }
    return {screen: (await runner.exec(node, words)).text for screen, words in asked.items()}
