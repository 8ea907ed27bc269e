"""charon as this gateway runs it: started or adopted, loaded with the rendered connections, started again when it dies.

A charon that died leaves its SAs and policies in the kernel. Nobody rekeys or deletes them any more, clients that
return negotiate new ones, and a policy that is left over sends their packets into a tunnel that has ended. So before
every start the agent removes them, and only those: an SA is ours when one of its ends is a VIP of ours (architecture,
rule 9).

The rendered connection is loaded beside what charon has (`own_connections.py`). Until that has worked once, a charon
that we started cannot serve; one that an earlier agent has loaded serves with what it has, because a bad configuration is
no evidence against it (rule 2). One that an earlier agent started and could load nothing into may hang since its start,
and a restart of the agent must not make it look healthy. A charon that only its own pid file names is the operator's: it
may have none of our connections, and must not attract our clients before it has. The operator's own connections
(``swanctl/conf.d``) are loaded into a charon that we started, after ours and by strongSwan's own reader; what it says of
them is an alarm, and ours serve all the same.

A pidfd tells of an exit only when the kernel has closed everything the process had open. With packet sockets among it
(plugins dhcp and farp) that takes 30 to 40 ms; the kernel closes the last opened first, so an idle connection to
charon's socket hangs up after 2 ms (both measured). It is the hint; that the process is being taken down is read from
/proc.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path

from anycast.errors import AnycastError, DecodeError, KernelError, PeerError
from anycast.events import AlarmCleared, AlarmRaised, Event, HolderExited
from anycast.reasons import Reason
from site_agent.bulkhead import Bulkhead
from site_agent.daemon_process import Backoff, DetachedProcess, ProcessSpec, keep_running, settings_digest
from site_agent.ike import swanctl
from site_agent.ike.door import Door
from site_agent.ike.own_connections import READ_LIMIT_S, OwnConnections
from site_agent.ike.pool_keeper import OfferRecord
from site_agent.ike.vici_client import ViciClient
from site_agent.netlink import xfrm
from site_agent.netlink.messages import NETLINK_XFRM, Message
from site_agent.netlink.transport import dump, request
from site_agent.patience import OneAtATime
from site_agent.procfs import read_stat

CHARON = Path("/usr/lib/ipsec/charon")
PID_FILE = Path("/var/run/charon.pid")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

LOAD_LIMIT_S = 10.0
"""How long a charon that was started may take until it answers: 0.1 s natively, 1.3 s in User Mode Linux."""
NAMED = frozenset({"load-conn", "load-pool", "load-authority"})
"""Requests whose message is a section with the name of what is loaded."""
SOCKET_POLL_S = 0.05
"""charon makes its socket 50-100 ms after its start; there is no event for it."""
LONGEST_BACKOFF_S = 2.0
"""Between two starts of a charon that keeps dying: a start costs 20 ms of a core. The route waits for its recovery time."""
HANGUP_RETRY_S = 1.0
"""charon closes its socket early in an orderly shutdown too, and is not dead then."""


class Charon:
    """Owner of the one charon process. `run` it as a task; read `process` and `ready` from checks."""

    def __init__(
        self,
        *,
        etc_dir: Path,
        run_dir: Path,
        vips: Iterable[str],
        vici: ViciClient,
        on_exit: Callable[[int, int | None], None],
        on_ready: Callable[[], None],
        happened: Callable[[Event], None],
        offers: OfferRecord | None = None,
    ) -> None:
        """`on_exit(pid, status)` runs before anything else when charon ends, to withdraw the route: as soon as that is
        known, and again when the process has gone. `on_ready()` runs when a charon can serve: look at once. `offers` is
        there where another process has the pools in hand.
        """
        self._vips = frozenset(str(ip_address(vip)) for vip in vips)
        self._vici, self._happened = vici, happened
        self._on_exit, self._on_ready = on_exit, on_ready
        self._own = OwnConnections(vici, swanctl_dir=etc_dir / "swanctl", record=run_dir / "charon.loaded", offers=offers)
        self._door = None if offers is None else Door(lambda: self.identity, self._vips)
        self._stand_in = run_dir / "swanctl.vici"
        self._conf_d = etc_dir / "swanctl" / "conf.d"
        self._env = {
            "PATH": PATH,
            "STRONGSWAN_CONF": str(etc_dir / "strongswan.conf"),
            "SWANCTL_DIR": str(etc_dir / "swanctl"),
        }
        self._outdated = False
        self._bulkhead = Bulkhead("beside_charon", happened)
        self._reader = OneAtATime("conf.d")
        self._loading = asyncio.Lock()
        self.ready = False
        """The process of now has had connections loaded, by us or by whoever started it."""
        self.process = DetachedProcess(
            ProcessSpec(
                name="charon",
                argv=(str(CHARON),),
                env=self._env,
                record=run_dir / "charon.pid",
                log=run_dir / "charon.out",
                own_log=run_dir / "charon.log",  # where the rendered strongswan.conf puts it
                pid_file=PID_FILE,
                program=CHARON,
                settings=settings_digest(etc_dir / "strongswan.conf"),
            ),
            self._exited,
        )

    @property
    def pid(self) -> int | None:
        """Of the process of now; None while none runs."""
        return self.process.pid

    async def run(self) -> None:
        """Keep charon running until cancelled; cancelling leaves it running."""
        await keep_running(
            self.process,
            happened=self._happened,
            prepare=self._remove_stale_state,
            started=self._beside,
            backoff=Backoff(cap_s=LONGEST_BACKOFF_S),
        )

    def _exited(self, pid: int, status: int | None) -> None:
        self.ready = False
        self._vici.close()
        self._on_exit(pid, status)
        self._happened(HolderExited(name="charon", pid=pid, status=status))

    async def _remove_stale_state(self) -> None:
        try:
            await remove_client_state(self._vips)
        except (KernelError, DecodeError) as exc:
            # charon can run beside them: returning clients get new SAs, and charon replaces policies it meets.
            self._happened(AlarmRaised(reason=Reason.STALE_STATE_LEFT, detail=str(exc)))

    async def _beside(self) -> None:
        self._bulkhead.call(self._compare_settings)
        answers = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._bulkhead.keep(functools.partial(self._load_until_done, answers)))
            group.create_task(self._bulkhead.keep(functools.partial(self._watch_for_hangup, answers)))

    def _compare_settings(self) -> None:
        if self.process.outdated:
            detail = f"pid {self.process.pid} was started with other settings; a restart would end every tunnel"
            self._happened(AlarmRaised(reason=Reason.CHARON_OUTDATED, detail=detail))
        elif self._outdated:
            self._happened(AlarmCleared(reason=Reason.CHARON_OUTDATED))
        self._outdated = self.process.outdated

    async def reload(self) -> str:
        """Load our connection, and the operator's, once more. Returns what was done. Raises PeerError, TimeoutError."""
        if self.process.pid is None:
            raise PeerError("charon", "is not running; it is loaded when it is started")
        if complaints := await self._load(theirs=True):
            raise PeerError("connections", "; ".join(complaints))
        return "has the installed connections"

    async def _load_until_done(self, answers: asyncio.Event) -> None:
        adopted_ours = self.process.adopted and self.process.ours
        self.ready = self.ready or (adopted_ours and self._own.has_loaded(self.identity))
        backoff, told = Backoff(first_s=0.5, cap_s=30.0), ""
        while True:
            try:
                await self._wait_for_socket()
                answers.set()
                if not (self.process.adopted or self.ready):
                    self._close_door()
                complaint = "; ".join(await self._load(theirs=not self.process.adopted))
            except (AnycastError, OSError) as exc:  # TimeoutError is one
                complaint = f"{str(exc) or 'charon: timed out'}; what was loaded before stays in force"
            if complaint not in ("", told):
                self._happened(AlarmRaised(reason=Reason.CONNECTIONS_NOT_LOADED, detail=complaint))
            told = complaint or told
            if not complaint:
                break
            await asyncio.sleep(backoff.after(0.0))
        if told:
            self._happened(AlarmCleared(reason=Reason.CONNECTIONS_NOT_LOADED))

    async def _load(self, *, theirs: bool) -> list[str]:
        """Ours first; from then on the gateway can serve. Returns complaints that do not keep it from serving.

        One load at a time: of two, one would take the other's reader (there is one stand-in), find nothing to load and
        call it done, and the one that has read the older files might be the last.
        """
        async with self._loading:
            complaints = await self._own.load(self.identity)
            self.ready = True
            self._on_ready()
            if theirs and await self._reader.run(lambda: any(self._conf_d.glob("*.conf")), limit_s=READ_LIMIT_S):
                complaints += await self._load_theirs()
            return complaints

    def _close_door(self) -> None:
        """Before there is a connection that a client could be taken by. It is opened with the first addresses (`sync`)."""
        if self._door is not None:
            with contextlib.suppress(PeerError):  # the sync process says so
                self._door.close()

    @property
    def identity(self) -> str:
        """Of the process of now: its number, and when it began, which together are never used twice in a boot."""
        pid = self.process.pid
        stat = None if pid is None else read_stat(pid)
        return f"{pid} {stat.start_ticks}" if stat else ""

    async def _load_theirs(self) -> list[str]:
        try:
            commands = await swanctl.read_files(self._env, self._stand_in)
        except PeerError as exc:
            return [str(exc)]
        complaints = []
        for command, message in commands:
            if not self._own.names.issuperset(message):
                try:
                    await self._vici.request(command, message, timeout_s=LOAD_LIMIT_S)
                except PeerError as exc:
                    complaints.append(f"{', '.join(message) if command in NAMED else 'yours'}: {exc}")
        return complaints

    async def _watch_for_hangup(self, answers: asyncio.Event) -> None:
        await answers.wait()
        loop = asyncio.get_running_loop()
        while True:
            idle = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            with contextlib.closing(idle), contextlib.suppress(OSError):
                await loop.sock_connect(idle, self._vici.path)
                await loop.sock_recv(idle, 1)
            pid = self.process.pid
            stat = None if pid is None else read_stat(pid)
            if pid is not None and stat is not None and stat.exiting:
                self._on_exit(pid, stat.exit_status)
                return  # the pidfd tells the rest
            await asyncio.sleep(HANGUP_RETRY_S)

    async def _wait_for_socket(self) -> None:
        async with asyncio.timeout(LOAD_LIMIT_S):
            while True:
                with contextlib.suppress(PeerError):
                    await self._vici.request("version", timeout_s=LOAD_LIMIT_S)
                    return
                await asyncio.sleep(SOCKET_POLL_S)


async def remove_client_state(vips: frozenset[str]) -> tuple[int, int]:
    """Remove the SAs and policies of tunnels that end at one of `vips`. Returns how many of each. Raises KernelError."""
    stale_sas: list[xfrm.SaId] = []
    stale_policies: list[xfrm.PolicyId] = []

    def take_sa(message: Message) -> None:
        sa = xfrm.decode_sa(message.payload)
        if str(sa.daddr) in vips or str(sa.saddr) in vips:
            stale_sas.append(sa)

    def take_policy(message: Message) -> None:
        policy = xfrm.decode_policy(message.payload)
        if policy.ends is not None and policy.direction <= 2 and vips & {str(end) for end in policy.ends}:
            stale_policies.append(policy)

    await dump(NETLINK_XFRM, xfrm.XFRM_MSG_GETSA, take_sa)
    await dump(NETLINK_XFRM, xfrm.XFRM_MSG_GETPOLICY, take_policy)
    for policy in stale_policies:
        await _delete(xfrm.XFRM_MSG_DELPOLICY, xfrm.encode_delete_policy(policy))
    for sa in stale_sas:
        await _delete(xfrm.XFRM_MSG_DELSA, xfrm.encode_sa_id(sa))
    return len(stale_sas), len(stale_policies)


async def _delete(kind: int, payload: bytes) -> None:
    try:
        await request(NETLINK_XFRM, kind, payload)
    except KernelError as exc:
        if exc.errno not in (errno.ESRCH, errno.ENOENT):  # expired meanwhile: gone is what we wanted
            raise
