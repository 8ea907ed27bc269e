"""All sockets of a plan: opened as soon, and as often, as what they need is there.

A boot brings interfaces and IPv6's link-local addresses when it likes, and an operator may take them away. So a socket that
cannot be opened is tried again at every `look`, and until the last one that a virtual address depends on is open, the
gateway has nothing to offer: a router that hears nobody believes that it is alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from anycast.errors import KernelError
from site_agent.vrrp.interfaces import Facts, facts_of
from site_agent.vrrp.plan import Link, Plan, Voice
from site_agent.vrrp.seal import Window
from site_agent.vrrp.voice_socket import VoiceSocket


class Ears:
    """Nothing is open before the first `look`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._wanted = [(link, voice) for link in plan.links for voice in link.voices]
        self._open: dict[int, VoiceSocket] = {}
        """By place in `_wanted`."""
        self._windows = [Window(_of(plan.taken, _name(link, voice))) for link, voice in self._wanted]
        self.interfaces: dict[str, Facts | None] = {}
        self.faults: list[str] = []

    def look(self) -> bool:
        """Open what can be opened, and close what has lost its interface. Returns whether an interface changed."""
        before = self.interfaces
        self.interfaces = {link.interface: facts_of(link.interface) for link in self._plan.links}
        self.faults = []
        for place, (link, voice) in enumerate(self._wanted):
            was, now = before.get(link.interface), self.interfaces[link.interface]
            if place in self._open and (now is None or was is None or was.index != now.index):
                self._open.pop(place).close()
            if place not in self._open:
                try:
                    self._open[place] = VoiceSocket(link, voice, self._plan, self._windows[place])
                except KernelError as exc:
                    self.faults.append(str(exc))
                    continue
            self._open[place].look()
        return before != self.interfaces

    def use(self, plan: Plan) -> None:
        """Go on by this plan, which differs in its keys only."""
        self._plan = plan
        for voice in self.voices:
            voice.use(plan)

    @property
    def voices(self) -> list[VoiceSocket]:
        return list(self._open.values())

    @property
    def whole(self) -> bool:
        """Every socket is open that a virtual address depends on."""
        return all(place in self._open for place, (_, voice) in enumerate(self._wanted) if voice.addresses)

    def taken(self) -> dict[str, list[int]]:
        """What was heard last, by ``path:family:router id``; for `Plan.taken`."""
        return {
            f"{_name(link, voice)}:{router_id}": list(last)
            for (link, voice), window in zip(self._wanted, self._windows, strict=True)
            for router_id, last in window.last.items()
        }


def _name(link: Link, voice: Voice) -> str:
    return f"{link.path.name}:{voice.source.version}".lower()


def _of(taken: Mapping[str, list[int]], name: str) -> dict[int, tuple[int, int]]:
    found = {key.rpartition(":")[2]: last for key, last in taken.items() if key.rpartition(":")[0] == name}
    return {int(router_id): (boot, sequence) for router_id, (boot, sequence) in found.items()}
