"""A gateway and its upstream for the interop tests: two network namespaces, real BIRD 2, real ExaBGP, our agent's end.

The upstream is the observer: BIRD traces every route with microseconds, and what a test says about time is read there.
The test's own process enters the gateway's namespace, because an agent adopts only what lives in its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from pyroute2 import netns

from anycast.document import Document
from anycast.events import Event
from anycast.fleet import loading
from anycast.fleet.compile import compile_gateway
from anycast.model import Cause
from anycast.policy.verdict import TICKS_PER_LEASE, VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.announce.exabgp_process import end_with_children, exabgp_spec
from site_agent.announce.route_holder import RouteHolder
from site_agent.announce.routes import routes_of
from site_agent.render.exabgp import render_exabgp

TREE = Path(__file__).resolve().parents[2]
LEASE_S = 1.0
MD5_KEY = b"interop key; with {syntax} #in it"
V4, V6 = "203.0.113.0/28", "2001:db8:a::/56"
PATIENCE_S = 15.0
"""How long an event may take before the test fails. Never slept through."""

BIRD_CONF = """
log stderr all;
timeformat log iso long us;
router id 198.51.100.1;
protocol device {{}}
template bgp upstream {{
    debug {{ states, routes }};
    hold time {hold}; connect retry time 1; error wait time 1, 1; passive on; direct; {security}
}}
protocol bgp gw4 from upstream {{
    local 198.51.100.1 as {asn}; neighbor 198.51.100.2 as 64501; ipv4 {{ import all; export none; }};
}}
protocol bgp gw6 from upstream {{
    local 2001:db8:1::1 as {asn}; neighbor 2001:db8:1::2 as 64501; ipv6 {{ import all; export none; }};
}}
"""
_TRACE = re.compile(r"(?P<at>\S+ \S+) <TRACE> (?P<protocol>gw[46])(?P<channel>\.ipv[46])?:? (?P<what>.*)")


def missing() -> str:
    """What this machine lacks for these tests, or nothing."""
    if os.geteuid() != 0:
        return "root"
    return ", ".join(tool for tool in ("bird", "birdc", "ip") if shutil.which(tool) is None)


@dataclasses.dataclass(frozen=True)
class Seen:
    """One thing that BIRD saw."""

    at: float
    """Unix time."""
    protocol: str
    what: str


class Bird:
    """The upstream."""

    def __init__(self, process: asyncio.subprocess.Process, control: Path) -> None:
        self._process, self._control = process, control
        self.seen: list[Seen] = []
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            match = _TRACE.match(line.decode())
            if match is None:
                continue
            at = datetime.datetime.fromisoformat(match["at"]).timestamp()
            async with self._news:
                self.seen.append(Seen(at, match["protocol"], match["what"]))
                self._news.notify_all()

    async def wait(self, protocol: str, pattern: str, *, after: int = 0) -> Seen:
        """The first thing seen from index `after` on whose text matches; AssertionError when it does not come."""
        found: list[Seen] = []

        def look() -> bool:
            found[:] = [s for s in self.seen[after:] if s.protocol == protocol and re.search(pattern, s.what)]
            return bool(found)

        try:
            async with asyncio.timeout(PATIENCE_S), self._news:
                await self._news.wait_for(look)
        except TimeoutError:
            raise AssertionError(f"BIRD never saw {protocol} {pattern!r} after {self.seen[after:]}") from None
        return found[0]

    async def added(self, *, after: int = 0) -> None:
        """Both prefixes were announced."""
        await self.wait("gw4", rf"added .*{V4}", after=after)
        await self.wait("gw6", rf"added .*{V6}", after=after)

    async def removed(self, *, after: int) -> float:
        """Both prefixes are gone. Returns the Unix time of the later one."""
        four = await self.wait("gw4", rf"removed .*{V4}", after=after)
        six = await self.wait("gw6", rf"removed .*{V6}", after=after)
        return max(four.at, six.at)

    async def ask(self, question: str) -> str:
        """What `birdc` answers."""
        birdc = await asyncio.create_subprocess_exec(
            "birdc", "-s", str(self._control), *question.split(), stdout=asyncio.subprocess.PIPE
        )
        return (await birdc.communicate())[0].decode()

    async def routes(self) -> set[str]:
        return set(re.findall(r"^(\S+/\d+)", await self.ask("show route"), re.MULTILINE))

    async def import_withdraws(self) -> int:
        """How many withdrawals both sessions received, as BIRD itself counts them."""
        text = await self.ask("show protocols all")
        return sum(int(n) for n in re.findall(r"Import withdraws:\s+(\d+)", text))

    async def close(self) -> None:
        self._process.kill()
        await self._process.wait()
        await self._reader


class Pair:
    """The two namespaces and the files; what a test starts in them it gets from here."""

    def __init__(self, directory: Path, gateway: str, upstream: str) -> None:
        self.directory, self.gateway, self.upstream = directory, gateway, upstream
        self.run_dir = directory / "run"
        self.config = directory / "exabgp.conf"

    def document(self, *, hold_s: int = 9, gtsm: bool = True, grace_ms: int = 15_000) -> Document:
        """fra-gw1 of the shipped fleet, whose addresses this pair has."""
        fleet = loading.load(TREE / "labs/topologies/two-site.fleet.yaml")
        document = compile_gateway(fleet, "fra-gw1")
        bgp = document.bgp.model_copy(
            update={
                "hold_time_s": hold_s,
                "neighbors": tuple(n.model_copy(update={"gtsm": gtsm}) for n in document.bgp.neighbors),
            }
        )
        lease = document.lease.model_copy(update={"duration_ms": int(LEASE_S * 1000), "grace_ms": grace_ms})
        return document.model_copy(update={"bgp": bgp, "lease": lease})

    @contextlib.asynccontextmanager
    async def bird(self, *, hold_s: int = 9, key: bytes = MD5_KEY, asn: int = 64511) -> AsyncIterator[Bird]:
        security = f'ttl security on; password "{key.decode()}";'
        config, control = self.directory / "bird.conf", self.directory / "bird.ctl"
        config.write_text(BIRD_CONF.format(hold=hold_s, security=security, asn=asn))
        files = ["-c", str(config), "-s", str(control), "-P", str(self.directory / "bird.pid")]
        process = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", self.upstream, "bird", "-f", *files, stderr=asyncio.subprocess.PIPE
        )
        bird = Bird(process, control)
        try:
            await bird.wait("gw6", "State changed to start")
            yield bird
        finally:
            await bird.close()

    @contextlib.asynccontextmanager
    async def agent(
        self, document: Document, *, instance: str = "first", serving: bool | None = True
    ) -> AsyncIterator[Agent]:
        """Our end, with ExaBGP rendered, started or adopted. Leaving the block ends everything."""
        keys = {str(n.md5_key_file): MD5_KEY for n in document.bgp.neighbors}
        socket_path = self.run_dir / "bridge" / "lease.sock"
        self.config.write_text(render_exabgp(document, python=sys.executable, socket_path=socket_path, md5_keys=keys))
        agent = Agent(self, document, instance, serving)
        try:
            yield agent
        finally:
            agent.crash()
            await end_exabgp(self, document)

    def upstream_counter(self, name: str) -> int:
        """A counter of ``/proc/net/netstat`` in the upstream's namespace."""
        command = ["ip", "netns", "exec", self.upstream, "cat", "/proc/net/netstat"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            table = dict(zip(names.split(), values.split(), strict=True))
            if name in table:
                return int(table[name])
        raise AssertionError(f"no counter {name}")


class Agent:
    """A `RouteHolder` with a verdict core that a test commands. `crash` is what SIGKILL looks like from outside."""

    def __init__(self, pair: Pair, document: Document, instance: str, serving: bool | None) -> None:
        self.events: list[tuple[float, Event]] = []
        self.serving = serving
        self._news = asyncio.Event()
        self.holder = RouteHolder(
            instance=instance,
            routes=routes_of(document),
            lease_s=document.lease.duration_ms / 1000,
            grace_s=document.lease.grace_ms / 1000,
            exabgp=exabgp_spec(config=pair.config, run_dir=pair.run_dir, run_as=document.bgp.run_as),
            socket_path=pair.run_dir / "bridge" / "lease.sock",
            happened=self._happened,
        )
        self._run = asyncio.create_task(self.holder.run())
        self._ticks = asyncio.create_task(self._tick())

    def say(self, serving: bool | None) -> float:
        """Reach a verdict now (None: no evidence yet) and repeat it from now on. Returns the Unix time."""
        now = time.time()
        reason = {True: Reason.HEALTHY, False: Reason.CHARON_EXITED, None: Reason.NO_EVIDENCE_YET}[serving]
        self.serving = serving
        self.holder.verdict(VerdictReached(serving=serving is True, causes=(Cause(reason=reason),), at=boottime()))
        return now

    def silence(self) -> float:
        """No verdict from now on. Returns the Unix time."""
        self._ticks.cancel()
        return time.time()

    def crash(self) -> None:
        self._ticks.cancel()
        self._run.cancel()

    async def stop(self) -> float:
        """A clean stop. Returns the grace in seconds."""
        self._ticks.cancel()
        grace_s = await self.holder.stop()
        self._run.cancel()
        return grace_s

    async def happened(self, kind: type[Event], **fields: object) -> Event:
        """The first event of a kind with these fields; AssertionError when it does not come."""

        def found() -> Event | None:
            events = [e for _, e in self.events if isinstance(e, kind)]
            return next((e for e in events if all(getattr(e, k) == v for k, v in fields.items())), None)

        try:
            async with asyncio.timeout(PATIENCE_S):
                while (event := found()) is None:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} {fields} in {[e for _, e in self.events]}") from None
        return event

    @property
    def exabgp_pid(self) -> int:
        assert self.holder.process.pid is not None
        return self.holder.process.pid

    @property
    def bridge_pid(self) -> int:
        assert self.holder.lease.hello is not None
        return self.holder.lease.hello.pid

    async def _tick(self) -> None:
        while True:
            self.say(self.serving)
            await asyncio.sleep(LEASE_S / TICKS_PER_LEASE)

    def _happened(self, event: Event) -> None:
        self.events.append((time.time(), event))
        self._news.set()


async def end_exabgp(pair: Pair, document: Document) -> None:
    """End the ExaBGP that an agent left running, by the agent's own record."""
    from site_agent.daemon_process import DetachedProcess

    spec = exabgp_spec(config=pair.config, run_dir=pair.run_dir, run_as=document.bgp.run_as)
    process = DetachedProcess(spec, lambda pid, status: None)
    if process.adopt():
        await end_with_children(process)


@contextlib.contextmanager
def bgp_pair() -> Iterator[Pair]:
    """Wire a pair and enter the gateway's namespace; undo both."""
    tag = f"lease-{os.getpid()}"
    gateway, upstream = f"{tag}-gw", f"{tag}-up"
    with tempfile.TemporaryDirectory(prefix="bgp-pair-") as directory:
        Path(directory).chmod(0o755)  # ExaBGP and its bridge run unprivileged
        pair = Pair(Path(directory), gateway, upstream)
        pair.run_dir.mkdir()
        for name in (gateway, upstream):
            netns.create(name)
        try:
            _wire(gateway, upstream)
            netns.pushns(gateway)
            try:
                yield pair
            finally:
                netns.popns()
        finally:
            for name in (gateway, upstream):
                netns.remove(name)


def _wire(gateway: str, upstream: str) -> None:
    commands = f"""
        -n {gateway} link add eth1 type veth peer name eth1 netns {upstream}
        -n {gateway} addr add 198.51.100.2/28 dev eth1
        -n {gateway} addr add 2001:db8:1::2/64 dev eth1 nodad
        -n {upstream} addr add 198.51.100.1/28 dev eth1
        -n {upstream} addr add 2001:db8:1::1/64 dev eth1 nodad
        -n {gateway} link set lo up
        -n {gateway} link set eth1 up
        -n {upstream} link set lo up
        -n {upstream} link set eth1 up
    """
    for command in commands.strip().splitlines():
        subprocess.run(["ip", *command.split()], check=True)
