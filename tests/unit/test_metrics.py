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
    "records_dropped": 0,
}


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
        while threading.active_count() > before + 1:
            assert time.monotonic() < deadline, "the silent ones are dropped"
            time.sleep(0.01)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            assert b"anycast_serving 1.0" in answer.read()
