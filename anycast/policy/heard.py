"""What the coordinator has heard of gateways, and how old it is by its own clock. Pure.

A report is as old as the answer that it quotes: it was sent after that answer had been, however long it then waited in a
buffer or behind a partition. One that quotes nothing of this connection says what a gateway holds and ended, which does not
grow old, but not that it announces or that a check passes. A new connection begins with nothing heard.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

from anycast.model import Status
from anycast.policy.ledger import Site, Standing
from anycast.policy.token_times import FRESH_S
from anycast.token_wire import Look, Report


@dataclasses.dataclass(slots=True)
class _Voice:
    """One gateway's connection."""

    session: int
    report: Report | None = None
    as_of: float = -math.inf
    """When the answer that the report quotes was sent."""
    answers: int = 0
    sent: dict[int, float] = dataclasses.field(default_factory=dict)
    """When each answer was sent, of those that a fresh report may quote."""


class Heard:
    """Told of connections and reports; asked about sites. Times are CLOCK_BOOTTIME seconds of the coordinator."""

    def __init__(self, gateways: Mapping[str, str]) -> None:
        """`gateways`: the site of each."""
        self.gateways = dict(gateways)
        self._voices: dict[str, _Voice] = {}
        self._last: dict[str, float] = {}
        """As of when each site was last heard, by any connection."""

    @property
    def gateways(self) -> Mapping[str, str]:
        """The site of each gateway."""
        return self._gateways

    @gateways.setter
    def gateways(self, gateways: Mapping[str, str]) -> None:
        self._gateways = dict(gateways)
        self._of_site: dict[str, list[str]] = {}
        for gateway, site in gateways.items():
            self._of_site.setdefault(site, []).append(gateway)

    def of_site(self, site: str) -> tuple[str, ...]:
        """The site's gateways."""
        return tuple(self._of_site.get(site, ()))

    def connected(self, gateway: str, session: int) -> None:
        """A new connection takes the place of the one before it."""
        self._voices[gateway] = _Voice(session)

    def disconnected(self, gateway: str, session: int) -> None:
        """A connection has ended. What it said grows old by itself."""
        if (voice := self._voices.get(gateway)) is not None and voice.session == session:
            voice.session = -1

    def session(self, gateway: str) -> int | None:
        """The gateway's connection, if there is one."""
        voice = self._voices.get(gateway)
        return None if voice is None or voice.session < 0 else voice.session

    def take(self, gateway: str, session: int, report: Report, now: float) -> bool:
        """Note the report, unless it is of an earlier connection or older than one that was read."""
        voice = self._voices.get(gateway)
        if voice is None or voice.session != session or gateway not in self.gateways:
            return False
        if voice.report is not None and report.seq <= voice.report.seq:
            return False
        voice.report = report
        voice.as_of = max(voice.as_of, voice.sent.get(report.quotes, -math.inf))
        if self._fresh(voice, now):
            site = self.gateways[gateway]
            self._last[site] = max(voice.as_of, self._last.get(site, -math.inf))
        return True

    def report(self, gateway: str) -> Report | None:
        """The last one of the connection."""
        voice = self._voices.get(gateway)
        return None if voice is None else voice.report

    def number_answer(self, gateway: str, now: float) -> int:
        """The next answer's `n`; it is sent now."""
        voice = self._voices[gateway]
        voice.answers += 1
        voice.sent = {n: at for n, at in voice.sent.items() if now - at < FRESH_S}
        voice.sent[voice.answers] = now
        return voice.answers

    def standing(self, site: str, now: float) -> Standing:
        """A site announces if any gateway of it does. Of one where none is heard nothing is known."""
        fresh = [report for report, _ in self._fresh_reports(site, now)]
        if any(report.announcing for report in fresh):
            return Standing(Site.ANNOUNCES)
        if fresh:
            return Standing(Site.DARK, fresh[0].reason)
        last = self._last.get(site)
        if last is None:
            return Standing(Site.UNHEARD, "not heard of since this coordinator began")
        return Standing(Site.UNHEARD, f"not heard of for {now - last:.0f} s")

    def silent(self, site: str, now: float) -> bool:
        """Every gateway of the site has said lately that it does not announce: nothing that is done there moves anybody."""
        told = [report for report, _ in self._fresh_reports(site, now)]
        return 0 < len(self._of_site.get(site, ())) == len(told) and not any(report.announcing for report in told)

    def looks(self, site: str, now: float) -> dict[str, list[tuple[Look, float]]]:
        """By check: what the site's gateways say, each with the time as of which it does."""
        found: dict[str, list[tuple[Look, float]]] = {}
        for report, as_of in self._fresh_reports(site, now):
            for look in report.looks:
                found.setdefault(look.check, []).append((look, as_of))
        return found

    def _fresh_reports(self, site: str, now: float) -> Iterator[tuple[Report, float]]:
        for gateway in self._of_site.get(site, ()):
            voice = self._voices.get(gateway)
            if voice is not None and voice.report is not None and self._fresh(voice, now):
                yield voice.report, voice.as_of

    @staticmethod
    def _fresh(voice: _Voice, now: float) -> bool:
        return now - voice.as_of < FRESH_S


@dataclasses.dataclass(frozen=True, slots=True)
class SiteLook:
    """What a site's gateways together say of one check."""

    status: Status
    as_of: float
    span_s: float


def site_look(looks: list[tuple[Look, float]], window_s: float) -> SiteLook:
    """A site fails where one of its gateways does and none passes: one that passes serves the site's clients. A look that is
    older than the window and the check's own span says nothing."""
    status, as_of, span_s = Status.UNKNOWN, -math.inf, 0.0
    for look, at in looks:
        span_s = max(span_s, look.span_ms / 1000)
        if look.age_ms / 1000 > max(window_s, look.span_ms / 1000):
            continue
        if look.status is Status.PASSING:
            as_of = max(as_of, at) if status is Status.PASSING else at
            status = Status.PASSING
        elif look.status is Status.FAILING and status is not Status.PASSING:
            status, as_of = Status.FAILING, max(as_of, at)
    return SiteLook(status, as_of, span_s)
