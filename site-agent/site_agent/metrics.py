"""/metrics: the agent's state as gauges, read from one snapshot a scrape, and its events as counters.

Every cause is a `Reason`'s word as a label, the same word as in the log and in `why` (rule 8). The HTTP server has a
thread of its own and asks the event loop for the snapshot: a stuck loop means a scrape that fails, not one that lies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric

from anycast.errors import KernelError
from anycast.events import Event
from anycast.model import Status
from site_agent.ike.rekey_queue import ORDER as REKEY_ORDER

Snapshot = Mapping[str, Any]

PATIENCE_S = 2.0
"""How long a scraper may say nothing."""
MOST_THREADS = 16
"""Of the whole agent: itself three or four, and a few scrapers at a time. Who comes beyond is turned away."""


class Metrics:
    """Counters of events, and gauges made of a snapshot at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        """`snapshot` is called from the thread that scrapes and gives what `status` gives."""
        self._snapshot = snapshot
        self._registry = CollectorRegistry()
        self._events = Counter("anycast_events", "Events by kind and cause", ["event", "reason"], registry=self._registry)
        self._registry.register(self)

    def count(self, event: Event) -> None:
        """Count one event under its kind and the word that caused it."""
        reason = getattr(event, "reason", None) or getattr(event, "cause", None)
        causes = getattr(event, "causes", ())
        self._events.labels(type(event).__name__, str(reason or (causes[0].reason if causes else ""))).inc()

    def text(self) -> str:
        """The exposition, as a scrape gets it."""
        return generate_latest(self._registry).decode()

    def listen(self, address: str) -> Callable[[], None]:
        """Serve on ``address:port`` (``[v6]:port``); returns what ends it. Raises KernelError."""
        host, _, port = address.rpartition(":")
        try:
            server, thread = start_http_server(int(port), host.strip("[]"), registry=self._registry)
        except OSError as exc:
            raise KernelError(exc.errno or 0, f"listen on {address} for metrics") from exc
        # A thread for each connection, for as long as its client likes: without bounds, whoever may connect takes all our
        # descriptors and threads, and those of charon and ExaBGP, which share the unit's limit.
        handler: Any = server.RequestHandlerClass
        server.RequestHandlerClass = type("_Handler", (handler,), {"timeout": PATIENCE_S})
        server.verify_request = lambda *_: threading.active_count() <= MOST_THREADS  # type: ignore[method-assign]

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop

    def describe(self) -> list[Metric]:
        """Nothing: registering must not take a snapshot before the agent runs."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        seen = self._snapshot()
        verdict = seen["verdict"]
        yield _gauge("anycast_serving", "1 while the site verdict says serving", [], [([], bool(verdict["serving"]))])
        yield _gauge(
            "anycast_verdict_cause",
            "1 for each cause of the present verdict",
            ["reason", "check"],
            [([cause["reason"], cause["check"]], 1) for cause in verdict["causes"]],
        )
        yield _gauge(
            "anycast_route_intended",
            "1 while the route shall be announced: the verdict as hold and flap control leave it",
            [],
            [([], bool(seen["route"]["announce"]))],
        )
        yield _gauge(
            "anycast_route_cause",
            "1 for each cause of what the route shall be: the verdict's, an operator's hold, flap control",
            ["reason", "check"],
            [([cause["reason"], cause["check"]], 1) for cause in seen["route"]["causes"]],
        )
        hold, flap = seen["hold"], seen["flap"]
        yield _gauge(
            "anycast_hold_left_seconds",
            "Until the operator's hold ends by itself; absent without one",
            ["kind"],
            [] if hold is None else [([hold["kind"]], hold["left_s"])],
        )
        yield _gauge("anycast_flap_penalty", "As a receiver that damps may count", [], [([], flap["penalty"])])
        yield _gauge("anycast_flap_wait_seconds", "Until a withdrawn route may return", [], [([], flap["left_s"])])
        yield _gauge("anycast_verdict_age_seconds", "Age of the last verdict", [], [([], verdict["age_s"])])
        yield _gauge(
            "anycast_check_status",
            "1 for the status of each check's last look",
            ["check", "class", "status", "reason"],
            [
                ([c["check"], c["class"], status.value, c["reason"]], c["status"] == status.value)
                for c in seen["checks"]
                for status in Status
            ],
        )
        yield _gauge(
            "anycast_check_age_seconds",
            "Age of each check's last look",
            ["check"],
            [([check["check"]], check["age_s"]) for check in seen["checks"] if check["age_s"] is not None],
        )
        yield _gauge(
            "anycast_check_value",
            "The figure that a check judges by, in the unit that docs/checks.md names",
            ["check"],
            [([check["check"]], check["value"]) for check in seen["checks"] if check["value"] is not None],
        )
        yield _gauge(
            "anycast_alarm", "1 for each alarm that stands", ["reason"], [([a["reason"]], 1) for a in seen["alarms"]]
        )
        yield _gauge("anycast_lease_left_seconds", "Until the route lapses", [], [([], seen["lease"]["left_s"])])
        yield _gauge(
            "anycast_route_announced",
            "1 while ExaBGP has acknowledged the route on a session that is up",
            ["neighbor", "prefix"],
            [
                ([route["neighbor"], route["prefix"]], route["announced"])
                for route in (*seen["routes"], *seen.get("own_routes", ()))
            ],
        )
        yield _gauge(
            "anycast_bgp_session_up",
            "1 while the session to the upstream is up",
            ["neighbor"],
            [([session["neighbor"]], session["state"] == "up") for session in seen["sessions"]],
        )
        yield _gauge(
            "anycast_holder_running",
            "1 while the daemon runs",
            ["name"],
            [([holder["name"]], holder["pid"] is not None) for holder in seen["holders"]],
        )
        yield _gauge(
            "anycast_protection",
            "1 while the gateway protects itself against load (cookies: charon demands one of whoever begins a handshake)",
            ["kind", "reason", "check"],
            [([p["kind"], p["reason"], p["check"]], 1) for p in seen["protection"]],
        )
        for field, text in (
            ("queued", "Notices that the operator's hook has not taken yet"),
            ("lost", "Notices that it never took, or that gave way to younger ones"),
            ("delivered", "Notices that it took"),
        ):
            hooks = [([hook["target"]], hook[field]) for hook in seen["alarm_hooks"]]
            yield _gauge(f"anycast_alarm_hook_{field}", text, ["target"], hooks)
        yield from _vrrp(seen["vrrp"])
        yield from _sync(seen["sync"])
        yield _gauge("anycast_records_dropped", "Event records lost to a slow disk", [], [([], seen["records_dropped"])])


def _vrrp(vrrp: Snapshot | None) -> Iterator[Metric]:
    """Of the site's virtual router, and of BFD; no samples where there is none."""
    sessions = [] if vrrp is None else list(vrrp["bfd"].items())
    yield _gauge("anycast_bfd_up", "1 while the BFD session is Up at this end", ["session"], [
        ([name], session["state"] == "up") for name, session in sessions
    ])  # fmt: skip
    known = [vrrp] if vrrp is not None and vrrp["router"] else []
    yield _gauge("anycast_vrrp_active", "1 while this gateway holds its site's addresses", [], [
        ([], v["role"] == "active") for v in known
    ])  # fmt: skip
    yield _gauge("anycast_vrrp_priority", "As granted; 0: it could not serve", [], [([], v["priority"]) for v in known])
    yield _gauge(
        "anycast_vrrp_peer",
        "1 for what the other gateway says of itself",
        ["peer", "state"],
        [([v["peer_gateway"] or "", state], v["peer"] == state) for v in known for state in ("fit", "unfit", "silent")],
    )
    yield _gauge("anycast_vrrp_peer_active", "1 while an Active that serves is heard", [], [
        ([], v["peer_active"]) for v in known
    ])  # fmt: skip
    yield _gauge(
        "anycast_vrrp_discarded",
        "Advertisements that were not acted on since the vrrp process began, by path and cause",
        ["path", "cause"],
        [(label.split(":", 1), count) for v in known for label, count in v["discarded"].items()],
    )
    yield _gauge(
        "anycast_vrrp_late_seconds",
        "Lateness of the vrrp process's ticks since it began",
        ["quantile"],
        [
            ([quantile], v["late"][key] / 1000)
            for v in known
            for key, quantile in (("p999_ms", "0.999"), ("worst_ms", "1"))
            if key in v["late"]
        ],
    )


def _sync(sync: Snapshot | None) -> Iterator[Metric]:
    """Of the mirror between the two gateways; no samples where there is none, or its process has not spoken."""
    known = [sync["status"]] if sync is not None and sync["status"] is not None else []
    for field, text in (
        ("connected", "1 while messages flow to the other gateway"),
        ("settled", "1 while charon, the numbers and the gate are what the role asks for"),
        ("outbound", "Client SAs that this gateway's kernel sends on"),
        ("taken_over", "SAs that await their rekey after a takeover"),
        ("unconfirmed", "SAs taken over of which the other gateway is not known to stand above"),
        ("waiting", "Messages of charon's plugin that the other gateway has not acknowledged"),
        ("gaps", "Messages of charon's plugin that never reached the other charon"),
        ("retired", "SAs deleted because no number was safe on them"),
        ("tunnels", "SAs of clients, both directions, as an Active looked last"),
        ("unprotected", "Of these: which the Backup is not known to hold, in kernel and charon"),
        ("repairs", "Tunnels that wait for a rekey by which the Backup is told anew"),
        ("given_up", "Tunnels that differ at the Backup and that rekeys did not mend"),
        ("conflicts", "Marks that the other gateway asked for while both were Active"),
    ):
        yield _gauge(f"anycast_sync_{field}", text, [], [([], status[field]) for status in known])
    yield _gauge(
        "anycast_rekeys_waiting",
        "SAs that wait for a rekey that this gateway asks for, by reason",
        ["reason"],
        [([reason.value], status["rekeys_waiting"].get(reason.value, 0)) for status in known for reason in REKEY_ORDER],
    )
    for field, text in (
        ("unanswered", "Rekeys asked for within the last 4 s and not answered"),
        ("done", "SAs rekeyed since the last pause of half a minute"),
        ("total", "SAs rekeyed at this gateway's request since the sync process began"),
        ("left_seconds", "Until all SAs that wait are asked for, at the budget"),
        ("refused", "SAs whose clients refuse a rekey"),
    ):
        key = f"rekeys_{field.replace('left_seconds', 'left_s')}"
        yield _gauge(f"anycast_rekeys_{field}", text, [], [([], status[key]) for status in known])
    yield _gauge(
        "anycast_sync_messages",
        "Messages of charon's plugin since the sync process began, by what was done and the plugin's type",
        ["done", "type"],
        [(label.split(":", 1), count) for status in known for label, count in status["messages"].items()],
    )


def _gauge(name: str, text: str, labels: list[str], samples: list[tuple[list[str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, float(number))
    return family
