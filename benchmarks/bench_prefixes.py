"""How long it takes to plan a fleet's addresses from nothing, and with one site more, and how that grows.

`prefixes_500x200`: 500 sites of two gateways and 200 anycast prefixes (100 services of both families), from the text of the
fleet file to the bytes of the lock file, YAML among it: 18,000 records. `prefixes_add_site`: both files read, one site more,
to the changed records. `prefixes_100000` is the same with 200 prefixes at each of the 500 sites, from text to bytes: for the
curve, and without a bound. `prefixes_500x200_checked` is all that `anycast prefixes plan` does: the same, and the fleet with
everything filled in read and judged by every rule of `anycast check`. Nothing else plans such a fleet, so there is no peer.

Utilisation is counted here, from the lengths that the file asks for and the values alone: the span from a block's first
address to the end of the last prefix given out, over the sum of what was asked for.
"""

from __future__ import annotations

import datetime
import gc
import ipaddress
import math
import statistics
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable

from anycast.fleet import yaml_text
from anycast.fleet.addressing import Addressing
from anycast.prefixes.allocation import PREFIXES, Lock, nothing
from anycast.prefixes.lock import decode_lock, encode_lock
from anycast.prefixes.planner import Planned, plan
from anycast.prefixes.planning import plan_file
from anycast.prefixes.wants import Declared, declared
from anycast_lab.drills.limits import load_limits
from benchmarks.report import Bound, Result, compare

SITES, SERVICES = 500, 100
SUBNETS = 98
"""Of each site and family, where a site has 200 prefixes."""
STEPS = (8, 4, 2, 1)
RUNS, SOAK_RUNS = 5, 30
DAY = datetime.date(2026, 11, 29)
NOBODY = "none: nothing else plans such a fleet"
USES = "pools, management, subnets, uplink, inside, tunnels"


def fleet_text(sites: int, services: int, subnets: int = 0) -> str:
    """Nothing but blocks, names and numbers; every address is left out. The blocks lie in space that no lab may use, and
    nobody sends a packet."""
    private, public = ipaddress.IPv4Address(10 << 24), ipaddress.IPv4Address(9 << 24)
    ours = ipaddress.IPv6Address(0x20010C << 104)
    lines = [
        "version: 1\nfleet: bench\nenvironment: production",
        f"service: {{name: vpn, identity: vpn.example.org, inside: [{ipaddress.IPv4Address(11 << 24)}/24]}}",
        f"addressing:\n  blocks:\n    public4: {{prefix: {public}/8, use: [anycast, unicast]}}",
        f"    private4: {{prefix: {private}/8, use: [{USES}]}}",
        f'    ours6: {{prefix: "{ours}/24", use: [anycast, unicast, {USES}]}}',
        "  services:",
        *(f"    a{number:03}: {{}}" for number in range(services)),
        *(["  subnets:"] if subnets else []),
        *(f"    n{number:03}: {{ipv4: /{24 + number % 5}, ipv6: /64}}" for number in range(subnets)),
        "sites:",
    ]
    for number in range(sites):
        name = f"s{number:04}"
        sides = "uplink: {interface: eth1}, inside: {interface: eth2}, management: {interface: eth3}"
        lines += [
            f"  {name}:\n    asn: {1_000_000 + number}\n    clients: {(number % 7 + 1) * 300}",
            f"    upstreams: {{{name}-rtr: {{asn: 4200001000}}}}\n    vrrp: {{}}\n    sync: {{}}\n    gateways:",
            *(f"      {name}-gw{n}: {{{sides}}}" for n in (1, 2)),
        ]
    return "\n".join(lines) + "\n"


def asked(text: str) -> Declared:
    tree = yaml_text.parse(text).value
    return declared(tree, Addressing.model_validate(tree["addressing"]))


def from_nothing(text: str) -> str:
    return encode_lock(plan(asked(text), nothing("bench"), DAY).lock)


def timed(run: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each run. What the last one left is collected before the next, and nothing during one: the command
    does not collect either, because it ends with all that it made."""
    samples = []
    for _ in range(times):
        gc.collect()
        gc.disable()
        try:
            begun = time.perf_counter()
            run()
            samples.append((time.perf_counter() - begun) * 1e3)
        finally:
            gc.enable()
    return samples


def utilisation(planned: Planned) -> float:
    """The worst block's span over what lies in it."""
    ends: dict[str, int] = defaultdict(int)
    starts: dict[str, int] = {}
    used: dict[str, int] = defaultdict(int)
    for each in planned.lock.held.values():
        if each.source and each.source not in planned.lock.held and each.kind in PREFIXES:
            network = ipaddress.ip_network(each.value)
            first = int(network.network_address)
            used[each.source] += network.num_addresses
            ends[each.source] = max(ends[each.source], first + network.num_addresses)
            starts[each.source] = min(starts.get(each.source, first), first)
    return max((ends[name] - starts[name]) / used[name] for name in used)


def peak_mib(text: str) -> float:
    tracemalloc.start()
    try:
        from_nothing(text)
        return tracemalloc.get_traced_memory()[1] / (1 << 20)
    finally:
        tracemalloc.stop()


def prefixes_500x200(soak: bool) -> Result:
    runs, limits = SOAK_RUNS if soak else RUNS, load_limits()
    samples = {}
    for sites in (SITES // step for step in STEPS):
        text = fleet_text(sites, SERVICES)
        # The best of as many as fit into one time, so that another process does not count.
        samples[sites] = timed(lambda text=text: from_nothing(text), runs * SITES // sites)  # type: ignore[misc]
        print(f"  {sites:4} sites: {min(samples[sites]):7.1f} ms", flush=True)
    text = fleet_text(SITES, SERVICES)
    planned = plan(asked(text), nothing("bench"), DAY)
    assert not planned.findings and len(planned.lock.held) > 30 * SITES
    ours, least, most = samples[SITES], SITES // STEPS[0], SITES
    # The services are the same at every step, so what they cost alone is not the sites' growth.
    alone = min(timed(lambda: from_nothing(fleet_text(1, SERVICES)), runs * STEPS[0]))
    cost = (min(ours) - alone) / (min(samples[least]) - alone)
    growth = cost / ((most * math.log(most)) / (least * math.log(least)))
    name, peak, full = "prefixes_500x200", peak_mib(text), utilisation(planned)
    checked = timed(lambda: encode_lock(plan_file(text, None, DAY).after), runs)
    many = fleet_text(SITES, 1, SUBNETS)
    hundred_thousand = timed(lambda: from_nothing(many), max(1, runs // 3))
    return Result(
        [
            compare(name, "ms", ours, [], f"{NOBODY}; {len(planned.lock.held)} records, {len(text) >> 10} KiB of YAML"),
            compare(f"{name}_checked", "ms", checked, [], f"{NOBODY}; with every rule of `anycast check`"),
            compare("prefixes_growth", "times n log n", [growth], [], f"{least} to {most} sites: {cost:.1f} times the time"),
            compare("prefixes_peak", "MiB", [peak], [], "most memory of Python objects at one time"),
            compare("prefixes_utilisation", "span over sum", [full], [], "the worst block; 1 is without a hole"),
            compare("prefixes_100000", "ms", hundred_thousand, [], f"{NOBODY}; 200 prefixes at each site"),
        ],
        [
            Bound(name=f"{name}, ms", seen=statistics.median(ours), limit=limits["bench_prefixes"].on("native")),
            Bound(name="prefixes_growth", seen=growth, limit=limits["bench_prefixes_growth"].on("native")),
            Bound(name="prefixes_utilisation", seen=full, limit=limits["bench_prefixes_utilisation"].on("native")),
        ],
    )


def prefixes_add_site(soak: bool) -> Result:
    runs, limits = SOAK_RUNS if soak else RUNS, load_limits()
    lock: Lock = decode_lock(from_nothing(fleet_text(SITES, SERVICES)))
    wanted = asked(fleet_text(SITES + 1, SERVICES))
    planned = plan(wanted, lock, DAY)
    assert len(planned.changes) > 30 and {each.what for each in planned.changes} == {"new"} and not planned.findings
    ours = timed(lambda: plan(wanted, lock, DAY), runs)
    name = "prefixes_add_site"
    figure = compare(name, "ms", ours, [], NOBODY)
    return Result([figure], [Bound(name=f"{name}, ms", seen=figure.p50, limit=limits["bench_prefixes_add"].on("native"))])


BENCHMARKS = {"prefixes_500x200": prefixes_500x200, "prefixes_add_site": prefixes_add_site}
