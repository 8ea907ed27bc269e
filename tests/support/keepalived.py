"""Debian's keepalived on a gateway of `vrrp_pair.Lan`, in the foreground, watched by its own log.

Its real-time processor limit is raised: by default (10 ms without a wait) the kernel kills it on a slow machine while it
sends gratuitous advertisements, and it waits a second before it starts anew.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from site_agent.vrrp.packet import Address
from tests.support.vrrp_pair import VIRTUAL_4, VIRTUAL_6, VIRTUAL_LINK_LOCAL, VRID, own, wait

CONF = """
global_defs {{
    vrrp_version 3
    vrrp_rt_priority 20
    vrrp_rlimit_rttime 1000000
    vrrp_no_swap
    vrrp_garp_master_delay 1
}}
vrrp_instance interop {{
    state BACKUP
    nopreempt
    interface eth1
    virtual_router_id {vrid}
    priority 100
    advert_int {interval}
    {unicast}
    {more}
    virtual_ipaddress {{
        {addresses}
    }}
}}
"""
_STATE = re.compile(r"Entering (MASTER|BACKUP|FAULT) STATE")
_COMPLAINT = re.compile(r"invalid|checksum|ttl|hop.?limit|unknown|error|mismatch", re.IGNORECASE)


class Keepalived:
    """One run of it. `end` sends priority 0, `kill` does not."""

    def __init__(self, n: int, folder: Path, *, family: int, multicast: bool, interval_s: float, more: str = "") -> None:
        virtual: tuple[Address, ...] = (VIRTUAL_4,) if family == 4 else (VIRTUAL_LINK_LOCAL, VIRTUAL_6)
        unicast = "" if multicast else f"unicast_src_ip {own(n, family)}\n unicast_peer {{\n {own(3 - n, family)}\n }}"
        conf = folder / f"keepalived-{time.monotonic_ns()}.conf"
        conf.write_text(
            CONF.format(
                vrid=VRID,
                interval=interval_s,
                unicast=unicast,
                more=more,
                addresses="\n ".join(f"{a}/{28 if family == 4 else 64} dev eth1" for a in virtual),
            )
        )
        self._log = conf.with_suffix(".log")
        command = ["ip", "netns", "exec", f"gw{n}", "keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp"]
        command += ["--use-file", str(conf), "--pid", str(conf.with_suffix(".pid"))]
        command += ["--vrrp_pid", str(conf.with_suffix(".vrrp.pid"))]
        with self._log.open("wb") as log:
            self._parent = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def state(self) -> str:
        """MASTER, BACKUP or FAULT; nothing before the first."""
        return ([""] + [str(state) for state in _STATE.findall(self._log.read_text())])[-1]

    def wait(self, state: str, within: float = 10.0) -> None:
        try:
            wait(lambda: self.state == state, f"keepalived is {state}", within)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self._log.read_text()}") from exc

    def complaints(self) -> list[str]:
        """What it logs of packets that it does not like."""
        return [line for line in self._log.read_text().splitlines() if "(interop)" in line and _COMPLAINT.search(line)]

    @property
    def pid(self) -> int:
        """Of the process that speaks."""
        (child,) = Path(f"/proc/{self._parent.pid}/task/{self._parent.pid}/children").read_text().split()
        return int(child)

    def end(self) -> None:
        self._parent.terminate()
        self._parent.wait()

    def kill(self) -> None:
        """The parent is stopped first: its child releases when it sees its parent die."""
        self._parent.send_signal(19)
        subprocess.run(["kill", "-KILL", str(self.pid)], check=True)
        self._parent.kill()
        self._parent.wait()

    def entered(self) -> int:
        """How many states it has entered."""
        return len(_STATE.findall(self._log.read_text()))
