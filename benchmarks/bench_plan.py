"""How long a plan takes, and how that grows with the fleet: 500 sites of two gateways, each site announcing 200 prefixes.

`plan_500x200` is what happens between reading and printing: from a decoded state and a compiled content to the bytes of the
plan. One site in fifty changes its intent and its documents. Reading the state is a figure of its own
(`plan_500x200_state`); reading and compiling YAML is `anycast check`'s, and in neither. There is no peer to run: no other
tool plans an anycast fleet by a budget.

The curve: n, 2n, 4n, 8n sites up to 500, each the best of some runs, so that another process does not count. Growth is what
8 times the sites cost, divided by what 8 · log(8n)/log(n) would: above 1 it grows faster than n log n.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable

from anycast.content.canonical import encode, hash_of
from anycast.content.content import Budget, Content, Gateway, Intent, Site, decode_content
from anycast.content.state import GatewayState, LedgerState, State, decode_state
from anycast.policy.plan import Plan, make
from anycast_lab.drills.limits import load_limits
from benchmarks.report import Bound, Result, compare

SITES, PREFIXES = 500, 200
DOCUMENT = '{"as long as":"' + "a document is, " * 300 + '"}'
STEPS = (8, 4, 2, 1)
RUNS, SOAK_RUNS = 5, 30
NOBODY = "none: nothing else plans by a budget"


def fleet(sites: int, prefixes: int, *, changed: bool) -> tuple[Content, dict[str, str]]:
    """Every fiftieth site is drained, and has other documents, where `changed`."""
    announced = tuple(f"2001:db8:{n:x}::/48" for n in range(1, prefixes + 1))
    documents, found = {}, {}
    for number in range(sites):
        name = f"s{number:05}"
        other = changed and number % 50 == 0
        gateways = {}
        for gateway in (f"{name}-gw1", f"{name}-gw2"):
            documents[gateway] = f"{DOCUMENT}{gateway}{other}"
            gateways[gateway] = Gateway(document=hash_of(documents[gateway]), announces={f"{name}-rtr-ipv6": announced})
        intent = Intent.DRAINED if other else Intent.ANNOUNCED
        found[name] = Site(intent=intent, region=f"r{number % 8}", capacity=20_000, gateways=gateways)
    budget = Budget(min_sites=max(1, sites * 9 // 10))
    return Content(version=1, fleet="bench", service="vpn", after=(), budget=budget, sites=found), documents


def state_bytes(content: Content) -> bytes:
    """What a coordinator would say of a fleet that runs by `content`, everything seen."""
    hash_ = hash_of(content.text)
    gateways = {
        gateway: GatewayState(site=name, active=hash_, newest=hash_, heard=True, tunnels=10_000)
        for name, site in content.sites.items()
        for gateway in site.gateways
    }
    seen = {
        name: {router: tuple(sorted(prefixes)) for router, prefixes in site.announces.items()}
        for name, site in content.sites.items()
    }
    ledger = LedgerState(allowed=len(content.sites) - content.budget.min_sites, dark={})
    state = State(
        version=1,
        fleet="bench",
        generation=1,
        contents={hash_: content.text},
        gateways=gateways,
        seen=seen,  # type: ignore[arg-type]
        ledger=ledger,
    )
    return encode(state.model_dump(mode="json")).encode()


def timed(run: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each run. What the last one left is collected before the next."""
    samples = []
    for _ in range(times):
        gc.collect()
        begun = time.perf_counter()
        run()
        samples.append((time.perf_counter() - begun) * 1e3)
    return samples


def planning(sites: int) -> Callable[[], str]:
    before, _ = fleet(sites, PREFIXES, changed=False)
    wanted, documents = fleet(sites, PREFIXES, changed=True)
    state, contents = decode_state(state_bytes(before))
    plan = make(state, contents, wanted, documents)
    _is_right(plan, sites)
    return lambda: make(state, contents, wanted, documents).text


def _is_right(plan: Plan, sites: int) -> None:
    assert len(plan.changes) == math.ceil(sites / 50) and not plan.problems and not plan.empty
    assert sum(len(row.before) for row in plan.announcements) == sites * PREFIXES
    assert decode_content(plan.content).after


def plan_500x200(soak: bool) -> Result:
    runs = SOAK_RUNS if soak else RUNS
    limits = load_limits()
    samples = {SITES // step: timed(planning(SITES // step), runs) for step in STEPS}
    for sites, found in samples.items():
        print(f"  {sites:4} sites: {min(found):7.1f} ms, {min(found) / sites * 1e3:.0f} us a site", flush=True)
    ours, least, most = samples[SITES], SITES // STEPS[0], SITES
    cost = min(ours) / min(samples[least])
    growth = cost / ((most * math.log(most)) / (least * math.log(least)))
    data = state_bytes(fleet(SITES, PREFIXES, changed=False)[0])
    read = timed(lambda: decode_state(data), runs)
    name = "plan_500x200"
    return Result(
        [
            compare(name, "ms", ours, [], NOBODY),
            compare(f"{name}_state", "ms", read, [], f"{NOBODY}; {len(data) >> 20} MiB read"),
            compare("plan_growth", "times n log n", [growth], [], f"{least} to {most} sites: {cost:.1f} times the time"),
        ],
        [
            Bound(name=f"{name}, ms", seen=compare(name, "ms", ours, [], "").p50, limit=limits["bench_plan"].on("native")),
            Bound(name="plan_growth, times n log n", seen=growth, limit=limits["bench_plan_growth"].on("native")),
        ],
    )


BENCHMARKS = {"plan_500x200": plan_500x200}
