"""What must hold of a `token_world` at every moment. Knows routes, clocks and messages; shares no code with the cores."""

from __future__ import annotations

from tests.support.token_world import Node, World

LIFE_S = 30.0
"""The token's, as promised in docs/ledger.md."""
FRESH_S = 8.0
"""How long silence may be unknown to a coordinator."""
SOON_S = 1e-6


class Checker:
    """Looks after everything that happens. Raises AssertionError with the seed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.silent_since: dict[str, float] = {}
        self.most = 0
        """The most sites that were dark on purpose, at once, without an operator's hold."""
        world.watch, world.on_given = self.look, self.given

    @property
    def allowed(self) -> int:
        """How many sites may be dark on purpose."""
        return len(self.world.names) - self.world.budget.min_sites

    def look(self) -> None:
        world = self.world
        for node in world.nodes.values():
            self._facts_are_not_held_back(node)
            self._dark_only_while_good(node)
        for site in world.names:
            self._since(self.silent_since, site, not any(node.announced and not node.paused for node in world.of_site[site]))
        dark = self._dark_by_ledger()
        self.most = max(self.most, len(dark))
        assert len(dark) <= self.allowed, self._say(f"dark by the ledger: {sorted(dark)}, allowed {self.allowed}")

    def given(self, site: str) -> None:
        """A slot has just been given: what is dark on purpose, or may become so, and what has been silent for so long, by an
        operator's hold, a fact, a stop, that nobody who gives slots can have missed it."""
        now = self.world.now
        may_be = self._dark_by_ledger() | self._may_become_dark() | {site}
        silent = {site for site, since in self.silent_since.items() if now - since > FRESH_S}
        told = f"on purpose dark or soon: {sorted(may_be)}, silent: {sorted(silent)}"
        assert len(may_be | silent) <= self.allowed, self._say(f"{site} is given a slot; {told}")

    def _dark_by_ledger(self) -> set[str]:
        return {node.site for node in self.world.nodes.values() if node.token_dark or node.drained}

    def _may_become_dark(self) -> set[str]:
        """By a grant that is under way, or lies in the buffer of a process that is stopped."""
        found = set()
        for gateway, session, _grant, to in self.world.flying.values():
            node = self.world.nodes[gateway]
            asked = node.asked.get((session, to))
            heard = node.holder is not None and session == node.session
            if heard and asked is not None and node.clock.read(self.world.now) - asked < LIFE_S:
                found.add(node.site)
        return found

    def _facts_are_not_held_back(self, node: Node) -> None:
        assert node.fact or not node.announced or node.paused, self._say(f"{node.name} announces against a fact")

    def _dark_only_while_good(self, node: Node) -> None:
        if not node.token_dark or node.paused or node.holder is None:
            return
        clock = node.clock.read(self.world.now)
        assert clock - node.granted_ask < LIFE_S + SOON_S, self._say(
            f"{node.name} is dark {clock - node.granted_ask:.3f} s after it asked last with success"
        )
        assert any(node.seen.values()), self._say(f"{node.name} is dark, and no check of it fails")

    def _since(self, times: dict[str, float], site: str, holds: bool) -> None:
        if holds:
            times.setdefault(site, self.world.now)
        else:
            times.pop(site, None)

    def _say(self, what: str) -> str:
        return f"seed {self.world.seed}, at {self.world.now:.3f} s: {what}"
