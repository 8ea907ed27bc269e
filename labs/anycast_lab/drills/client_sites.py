"""Where each client's tunnel ends, by the inner addresses that its own kernel has, looked at while a drill runs.

No process is started in a client for a look. A client that moves has inner addresses of two sites for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from anycast.fleet.schema import Fleet
from anycast_lab.drills import pairs
from anycast_lab.drills.client_checks import AT, SOURCE
from anycast_lab.drills.client_steps import Reconnect, WaitClient
from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import Moment
from anycast_lab.drills.witnesses import Probes, Witnesses
from anycast_lab.runner import LabError, Progress, Runner

_LOOK_S = 0.1
_CONNECT_S = 30.0
"""An IKE_SA that is not there after that is not one that is slow."""


class ClientSites:
    """One drill's. `close` at the end, whatever happened."""

    def __init__(self, runner: Runner, fleet: Fleet, witnesses: Witnesses) -> None:
        assert fleet.lab is not None
        self._runner, self._fleet, self._witnesses = runner, fleet, witnesses
        self._clients = tuple(fleet.lab.clients)
        self.now: dict[str, tuple[str, ...]] = {}
        """The sites of each client's inner addresses, sorted."""
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._look()
        self._looking = asyncio.create_task(self._look_on())

    async def take(
        self, step: WaitClient | Reconnect, probes: Probes, bound: float, progress: Progress, note: Callable[[str], None]
    ) -> list[Checked]:
        """What has failed: nothing, or that it was not so within twice the bound. Raises LabError."""
        match step:
            case WaitClient(client=client, site=site):
                progress(f"waiting for {client} at {site} (at most {bound:g} s)")
                since, asked = time.monotonic(), time.time_ns()

                def there() -> bool:
                    return self.now.get(client) == (site,) and probes.last_good_ns(client) > asked

                if not await self._witnesses.until(there, 2 * bound):
                    seen = ", ".join(self.now.get(client, ())) or "without an inner address"
                    text = f"{client} has packets through {site}"
                    return [Checked(text, f"it is {seen}", f"{2 * bound:g} s after the last step", False)]
                progress(f"{client} is at {site} after {time.monotonic() - since:.2f} s")
            case Reconnect(clients=clients):
                note(f"{', '.join(clients)} connect anew")
                await asyncio.gather(*(self._reconnect(client) for client in clients))
        return []

    async def _reconnect(self, client: str) -> None:
        """Raises LabError where it has no IKE_SA afterwards."""
        name = self._fleet.service.name
        await self._runner.exec(client, ("swanctl", "--terminate", "--ike", name, "--force", "--timeout", "2"))
        # Without a CHILD_SA this fails, and the IKE_SA stands.
        await self._runner.exec(client, ("swanctl", "--initiate", "--child", name, "--timeout", f"{_CONNECT_S:g}"))
        done = await self._runner.exec(client, ("swanctl", "--list-sas"))
        if "ESTABLISHED" not in done.text:
            raise LabError(f"{client} has no IKE_SA: {done.text.strip() or done.stderr.decode(errors='replace').strip()}")

    def _look(self) -> None:
        for client in self._clients:
            with contextlib.suppress(LabError, OSError):  # powered off, also in this very moment
                found = {self._witnesses.site_of_address(a) for a in pairs.local_addresses(self._runner.pid(client))}
                sites = tuple(sorted(found - {""}))
                if sites != self.now.get(client):
                    self.now[client] = sites
                    self._witnesses.moments.append(Moment(time.time_ns(), SOURCE, AT, client, ", ".join(sites)))

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._look()

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
            self._looking = None
