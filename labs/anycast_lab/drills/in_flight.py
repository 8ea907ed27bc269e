"""Carries out `lose_in_flight`: the Active loses its power while clients of the crowd have exchanges of IKE open."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from anycast.fleet.schema import Fleet
from anycast_lab.capture.frames import Exchange, Ike
from anycast_lab.drills import crowd_steps as steps
from anycast_lab.drills import ike_ear, operator, pairs
from anycast_lab.drills.cables import far_end
from anycast_lab.drills.crowd import Crowd
from anycast_lab.drills.in_flight_checks import KINDS, Cut, count, in_flight
from anycast_lab.drills.witnesses import Probes
from anycast_lab.runner import LabError, Progress, Runner

CONNECTING, REKEYING = 24, 8
"""Clients at a time; all who are there tell of an address."""
_BURST = "250ms"
"""What the clients send comes in bursts, so many exchanges are open at once: one by one each is answered within a
millisecond, and a cut in the middle of one is rare."""
_BEGIN_S = 60.0
_MIRRORED_S = 120.0
"""No bounds that are asserted, only ends to waiting."""
_LOOK_S = 0.2
_ROUNDS = 3
"""Times as many losses of power as exchanges are wanted; then they are not to be had."""


class InFlight:
    """One drill's."""

    def __init__(
        self, runner: Runner, fleet: Fleet, site: str, crowd: Crowd,
        whole: Callable[[float], Awaitable[str]], probes: Probes, say: Progress,
    ) -> None:  # fmt: skip
        """`whole` waits for the mirror. The clients' probes rest: who has a tunnel with packets in it is asked of the crowd,
        and beside them User Mode Linux takes twice as long for each loss."""
        self._runner, self._fleet, self._site, self._crowd = runner, fleet, site, crowd
        self._whole, self._probes, self._say = whole, probes, say
        self._random = random.Random(1)  # the same moments in every run

    async def cause(self, step: steps.LoseInFlight, bound_s: float) -> str:
        """Empty, or what did not come to its end. Raises LabError."""
        qdisc = ("dev", self._crowd.interface, "root")
        await operator.say(self._runner, self._crowd.node, "tc", "qdisc", "replace", *qdisc, "netem", "slot", _BURST, _BURST)
        self._probes.signal(signal.SIGSTOP)
        try:
            return await self._lose_again_and_again(step, bound_s)
        finally:
            self._probes.signal(signal.SIGCONT)
            await self._runner.exec(self._crowd.node, ("tc", "qdisc", "del", *qdisc))

    async def _lose_again_and_again(self, step: steps.LoseInFlight, bound_s: float) -> str:
        found = dict.fromkeys(KINDS, 0)
        for number in range(1, _ROUNDS * step.each + 1):
            if problem := await self._whole(_MIRRORED_S):
                return f"before loss {number}: {problem}"
            cut = await self._lose(min(found, key=found.__getitem__), self._random.uniform(0, step.within_ms), bound_s)
            self._crowd.cuts.append(cut)
            found = count(self._crowd.cuts)
            words = ", ".join(f"{number_of} {kind.name}" for kind, number_of in found.items())
            back = f"back after {cut.recovered_ms:.0f} ms" if cut.recovered_ms is not None else cut.missing
            placed = f"{cut.after_ms:.1f} ms after {cut.placed_by.name}"
            self._say(f"loss {number}, {placed}: {back}; so far {words}")
            if cut.recovered_ms is None or min(found.values()) >= step.each:
                break
        return await self._whole(_MIRRORED_S)

    async def _lose(self, kind: Exchange, after_ms: float, bound_s: float) -> Cut:
        active = pairs.actives(self._runner, self._fleet, self._site)
        if len(active) != 1:
            raise LabError(f"{', '.join(active) or 'nobody'} is Active")
        (victim,) = active
        client, heard, asked_ns, cut_ns = self._crowd.outer, list[Ike](), 0, 0

        async def moment() -> None:
            nonlocal asked_ns, cut_ns
            try:
                async with asyncio.timeout(_BEGIN_S):
                    while True:
                        heard.append(one := await ike_ear.next_ike(ears[victim]))
                        if one.exchange == kind and one.source == client and not one.response:
                            break
            except TimeoutError:
                raise LabError(f"no request of {kind.name} passed") from None
            asked_ns = one.at_ns
            # Read on meanwhile: a message's time is when it was read.
            heard.extend(await ike_ear.all_ike(ears[victim], max(0.0, after_ms / 1e3 - (time.time_ns() - asked_ns) / 1e9)))
            cut_ns = time.time_ns()

        try:
            async with self._ears() as ears:
                tasks = [causing := asyncio.create_task(self._crowd.provoke(CONNECTING, REKEYING))]
                try:
                    await self._runner.power_off(victim, when=moment)
                    tasks += [asyncio.create_task(_read(ear, heard)) for ear in ears.values()]
                    await causing
                    missing = await self._recovered(cut_ns, bound_s)
                finally:
                    for task in tasks:
                        task.cancel()
                back_ns = time.time_ns()
        finally:  # also for the next drill, where this one is given up
            if not self._runner.power(victim):
                await self._runner.power_on(victim)
        return Cut(
            placed_by=kind,
            after_ms=round((cut_ns - asked_ns) / 1e6, 1),
            flying=in_flight(heard, client, cut_ns),
            recovered_ms=None if missing else round((back_ns - cut_ns) / 1e6),
            missing=missing,
        )

    async def _recovered(self, cut_ns: int, bound_s: float) -> str:
        """Empty as soon as everybody is; who is not at twice the bound."""
        while missing := await self._crowd.lacking():
            if (time.time_ns() - cut_ns) / 1e9 > 2 * bound_s:
                return missing
            await asyncio.sleep(_LOOK_S)
        return ""

    @contextlib.asynccontextmanager
    async def _ears(self) -> AsyncIterator[dict[str, socket.socket]]:
        """On the uplink of each gateway of the site, by its name."""
        with contextlib.ExitStack() as stack:
            ears = {}
            for gateway in self._fleet.sites[self._site].gateways:
                end = far_end(self._runner, self._fleet, gateway, "uplink")
                ears[gateway] = stack.enter_context(ike_ear.open_ear(self._runner, *end))
            yield ears


async def _read(ear: socket.socket, heard: list[Ike]) -> None:
    while True:
        heard.append(await ike_ear.next_ike(ear))
