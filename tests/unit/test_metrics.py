"""/metrics answers, and who connects and says nothing does not take the agent's threads."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.request

import pytest

from site_agent import metrics

SNAPSHOT = {
    "verdict": {"serving": True, "causes": [], "age_s": 0.1},
    "route": {"announce": True, "causes": []},
    "hold": None,
    "flap": {"penalty": 0, "threshold": 6000, "left_s": 0.0},
    "checks": [],
    "alarms": [],
    "lease": {"left_s": 1.0},
    "routes": [],
    "sessions": [],
    "holders": [],
    "protection": [{"kind": "cookies", "reason": "half_open_high", "check": "half_open", "detail": "40 half-open IKE_SAs"}],
    "vrrp": {
        "router": True,
        "role": "active",
        "priority": 100,
        "peer_gateway": "fra-gw2",
        "peer": "fit",
        "peer_active": False,
        "discarded": {"outside:seal": 3},
        "late": {"count": 9, "worst_ms": 0.5, "p999_ms": 0.25},
        "bfd": {"fra-rtr-ipv4": {"state": "up"}},
    },
    "sync": {
        "peer_gateway": "fra-gw2",
        "pid": 7,
        "status": {
            "role": "active", "settled": True, "connected": False, "mismatches": [], "alarms": {}, "waiting": 3, "gaps": 2,
            "messages": {"carried:6": 4}, "outbound": 5, "unconfirmed": 1, "taken_over": 1, "retired": 0, "conflicts": 0,
            "tunnels": 10, "unprotected": 4, "repairs": 2, "given_up": 1, "causes": {"missing": 3}, "removed": 0,
    "rekeys_waiting": {}, "rekeys_unanswered": 0, "rekeys_done": 0, "rekeys_total": 0, "rekeys_left_s": 0,
    "rekeys_refused": 0,
        },
    },
    "alarm_hooks": [{"target": "command", "queued": 1, "delivered": 2, "lost": 0}],
    "records_dropped": 0,
}


def scraped(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return b"anycast_serving 1.0" in answer.read()
    except OSError:
        return False


def test_silent_clients_take_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "PATIENCE_S", 0.2)
    before = threading.active_count()
    monkeypatch.setattr(metrics, "MOST_THREADS", before + 4)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    stop = metrics.Metrics(lambda: SNAPSHOT).listen(f"127.0.0.1:{port}")
    with contextlib.ExitStack() as stack:
        stack.callback(stop)
        for _ in range(20):
            with contextlib.suppress(ConnectionError):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
            assert threading.active_count() <= before + 5
        deadline = time.monotonic() + 5
        while not scraped(port):  # some of the silent ones wait to be accepted still, and are dropped after the others
            assert time.monotonic() < deadline, "the silent ones are dropped"


def test_the_virtual_router_in_figures() -> None:
    text = metrics.Metrics(lambda: SNAPSHOT).text()
    for line in (
        "anycast_vrrp_active 1.0",
        "anycast_vrrp_priority 100.0",
        'anycast_vrrp_peer{peer="fra-gw2",state="fit"} 1.0',
        'anycast_vrrp_peer{peer="fra-gw2",state="silent"} 0.0',
        "anycast_vrrp_peer_active 0.0",
        'anycast_vrrp_discarded{cause="seal",path="outside"} 3.0',
        'anycast_vrrp_late_seconds{quantile="0.999"} 0.00025',
        'anycast_bfd_up{session="fra-rtr-ipv4"} 1.0',
    ):
        assert line in text, line
    alone = metrics.Metrics(lambda: SNAPSHOT | {"vrrp": None}).text()
    assert "\nanycast_vrrp_active " not in alone and "anycast_serving 1.0" in alone


def test_the_mirror_in_figures() -> None:
    text = metrics.Metrics(lambda: SNAPSHOT).text()
    for line in (
        "anycast_sync_connected 0.0",
        "anycast_sync_settled 1.0",
        "anycast_sync_outbound 5.0",
        "anycast_sync_waiting 3.0",
        "anycast_sync_gaps 2.0",
        'anycast_sync_messages{done="carried",type="6"} 4.0',
    ):
        assert line in text, line
    for without in (None, {"peer_gateway": "fra-gw2", "pid": None, "status": None}):
        alone = metrics.Metrics(lambda without=without: SNAPSHOT | {"sync": without}).text()
        assert "\nanycast_sync_connected " not in alone and "anycast_serving 1.0" in alone
