"""Runs as PID 1 of User Mode Linux: two namespaces full of real SAs, compared by two cores; figures as one line of JSON.

    python -S benchmarks/xfrm_digest_guest.py CHECKOUT MODULES TUNNELS RUNS --end

The SAs are what charon installs for a client behind a NAT (AES-GCM, ESP in UDP, window 2,048 inbound): two a tunnel, and
three policies for each of the first 2,000, because making them takes this kernel long. The second namespace gets the same,
so both are equal. Standard library and pure modules only: an import costs a hundred times of what it costs outside. charon's
part (`list-sas`) is made up and not measured; kernels and cores are real.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

END = "--end"
MARK = "XFRM-DIGEST "
sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/site-agent", f"{sys.argv[1]}/labs"] if len(sys.argv) > 1 else []

from anycast.timer import TimerExpired  # noqa: E402
from anycast_lab.drills.kernel_sas import (  # noqa: E402
    DELSA,
    ESP,
    GETPOLICY,
    GETSA,
    NEWPOLICY,
    NEWSA,
    VIP,
    Kernel,
    client_of,
    policy,
    sa,
    spis,
)
from site_agent.ike.mirror_view import CharonView, IkeSa, Tunnel  # noqa: E402
from site_agent.netlink.xfrm_digest import PolicyReader, SaReader  # noqa: E402
from site_agent.sync import digest_wire  # noqa: E402
from site_agent.sync import digest_words as words  # noqa: E402
from site_agent.sync.digests import Digests  # noqa: E402
from site_agent.sync.numbers_words import PeerConnected, Role  # noqa: E402
from site_agent.sync.repairs import Repair  # noqa: E402

WITH_POLICIES = 2000
CLONE_NEWNET = 0x4000_0000
RB_POWER_OFF = 0x4321_FEDC
MODULES = (
    "esp4", "xfrm_user", "gcm", "ghash_generic", "ctr", "seqiv", "aes_generic",
    "drbg", "jitterentropy_rng", "hmac", "sha512_generic",  # seqiv's salts; the kernel finds no module by itself in here
)  # fmt: skip


def charon_view(tunnels: int) -> CharonView:
    view = CharonView(frozenset())
    for number in range(tunnels):
        spi_in, spi_out = (spi.to_bytes(4) for spi in spis(number))
        ike, client, esp = number.to_bytes(16), client_of(number), bytes([ESP])
        view.ike[ike + VIP + client + (1024 + number).to_bytes(2)] = IkeSa(str(number), False)
        ends = spi_in + esp + VIP + client, spi_out + esp + client + VIP
        view.tunnels.append(
            Tunnel(number + 1, str(number), str(number), f"vpn{{{number}}}", spi_in + esp + spi_out + ike, ends, True, False)
        )  # fmt: skip
    return view


class Pair:
    """Two cores over two kernels; messages are encoded and decoded, and the time of each part is taken."""

    def __init__(self, kernels: tuple[Kernel, Kernel], view: CharonView, *, policies: bool) -> None:
        self.kernels, self.view, self.policies = kernels, view, policies
        self.now = 0.0
        self.cores = Digests(Role.ACTIVE, now=0.0), Digests(Role.BACKUP, now=0.0)
        self.took = [0.0, 0.0]
        """Dumping and reading, by side."""
        self.bytes = 0
        self.entries: dict[str, int] = {}
        self.repairs: list[Repair] = []
        for place in (0, 1):
            self.perform(place, self.cores[place].handle(PeerConnected(), 0.0))

    def look(self, place: int) -> words.Looked:
        began = time.perf_counter()
        sas, policies = SaReader(frozenset({VIP})), PolicyReader(frozenset({VIP}))
        for data in self.kernels[place].dump(GETSA):
            sas.take_datagram(data)
        for data in self.kernels[place].dump(GETPOLICY) if self.policies else ():
            policies.take_datagram(data)
        self.took[place] = time.perf_counter() - began
        return words.Looked(sas=sas.records, policies=policies.records, charon=self.view)

    def perform(self, place: int, actions: list[words.Action]) -> None:
        for action in actions:
            match action:
                case words.Look():
                    self.perform(place, self.cores[place].handle(self.look(place), self.now))
                case words.Send(message=message):
                    if isinstance(message, digest_wire.Sums):
                        self.entries[message.of.name] = message.entries
                    body = digest_wire.encode(message)
                    self.bytes += len(body)
                    heard = words.Heard(digest_wire.decode(body))
                    self.perform(1 - place, self.cores[1 - place].handle(heard, self.now))
                case words.Wanted(repairs):
                    self.repairs += repairs
                case _:
                    raise AssertionError(f"equal kernels, and {action}")

    def round(self) -> float:
        """Seconds of everything, both sides one after the other."""
        self.now += 60.0
        self.bytes, began = 0, time.perf_counter()
        self.perform(0, self.cores[0].handle(TimerExpired(), self.now))
        return time.perf_counter() - began


def measure(tunnels: int, runs: int) -> dict[str, object]:
    libc = ctypes.CDLL(None, use_errno=True)
    kernels = [Kernel()]
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    kernels.append(Kernel())
    active, backup = kernels
    began = time.perf_counter()
    for kernel in kernels:
        for number in range(tunnels):
            kernel.do(NEWSA, sa(number, inbound=True))
            kernel.do(NEWSA, sa(number, inbound=False))
    filled = time.perf_counter() - began
    result: dict[str, list[float]] = {"dump": [], "ip": [], "compared": [], "look": [], "differing": [], "with_policies": []}
    view = charon_view(tunnels)
    pair = Pair((active, backup), view, policies=False)
    for _ in range(runs):
        began = time.perf_counter()
        for kernel in kernels:
            kernel.dump(GETSA)
        result["dump"].append(time.perf_counter() - began)
        result["compared"].append(pair.round())
        result["look"].append(sum(pair.took))
    equal = pair.cores[0].freshness(pair.now)
    told = pair.bytes
    assert (equal.unprotected, equal.of, pair.repairs) == (0, 2 * tunnels, []), equal
    began = time.perf_counter()  # of one namespace; the other would take as long
    subprocess.run(["ip", "xfrm", "state"], stdout=subprocess.DEVNULL, check=True)
    result["ip"].append(2 * (time.perf_counter() - began))
    for number in range(0, tunnels, max(tunnels // 100, 1)):
        name = VIP + struct.pack(">IHBx", spis(number)[0], 0, ESP)
        backup.do(DELSA, name[:20] + struct.pack("=HBx", 2, ESP))
    for _ in range(2):
        result["differing"].append(pair.round())
    found = pair.cores[0].freshness(pair.now)
    began = time.perf_counter()
    for kernel in kernels:
        for number in range(min(tunnels, WITH_POLICIES)):
            for direction in (0, 1, 2):
                kernel.do(NEWPOLICY, policy(number, direction))
    policies = time.perf_counter() - began
    whole = Pair((active, backup), view, policies=True)
    result["with_policies"] = [whole.round() for _ in range(2)]
    return {
        **result, "filled": filled, "filled_policies": policies, "round_bytes": told, "sas": equal.of,
        "unprotected": found.unprotected, "causes": found.causes, "repairs": len(pair.repairs),
        "entries": whole.entries,
    }  # fmt: skip


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _checkout, modules, tunnels, runs = sys.argv[1 : sys.argv.index(END)]
        libc.mount(b"proc", b"/proc", b"proc", 0, None)
        base = Path(modules).parents[2]
        command = ["/usr/sbin/modprobe", "--dirname", str(base), "--all", "--quiet", *MODULES]
        subprocess.run(command, check=False)  # some are built in
        os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
        print(MARK + json.dumps(measure(int(tunnels), int(runs))), flush=True)
    except BaseException as exc:  # PID 1: whatever happens is said, and the machine ends
        print(MARK + json.dumps({"error": f"{type(exc).__name__}: {exc}"}), flush=True)
    finally:
        libc.sync()
        libc.reboot(RB_POWER_OFF)


if __name__ == "__main__":
    main()
