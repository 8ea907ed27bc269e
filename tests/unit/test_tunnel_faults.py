"""What a drill does to tunnels, over a lab that answers from a table: what is asked again, refused and undone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import pytest
import vici

from anycast.fleet.loading import load
from anycast_lab.drills import mirrors, pairs, rekeys, tunnel_faults
from anycast_lab.drills import moments as moments_module
from anycast_lab.drills import tunnel_steps as steps
from anycast_lab.drills.tunnel_faults import TunnelFaults
from anycast_lab.runner import Completed, LabError

FLEET = load(Path(__file__).resolve().parents[2] / "labs/topologies/site-pair.fleet.yaml")


class Lab:
    """`answers`: by the command's first two words, one result after the other; the last one stays."""

    def __init__(self, **answers: list[int]) -> None:
        self.answers, self.asked = answers, list[tuple[str, tuple[str, ...]]]()
        self.files: dict[tuple[str, str], bytes] = {}
        self.on = {"gw1", "gw2"}

    async def exec(self, node: str, argv: Sequence[str], **_options: Any) -> Completed:
        self.asked.append((node, tuple(argv)))
        left = self.answers.get(argv[-1], [0])
        rc = left.pop(0) if len(left) > 1 else left[0]
        return Completed(tuple(argv), rc, b"vpn: IKEv2\n", b"not settled yet" if rc else b"")

    async def get(self, node: str, path: str) -> bytes:
        return self.files[node, path]

    async def put(self, node: str, path: str, data: bytes, mode: int = 0o644) -> None:
        self.files[node, path] = data

    def power(self, node: str) -> bool:
        return node in self.on

    async def power_off(self, node: str) -> None:
        self.on.discard(node)

    async def power_on(self, node: str) -> None:
        self.on.add(node)


class Quiet:
    size = 0

    async def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_faults, "_LOOK_S", 0.001)

    async def restarted(*_arguments: Any, **_options: Any) -> None: ...

    monkeypatch.setattr(tunnel_faults, "restart_client", restarted)


def faults(lab: Lab, said: list[str] | None = None) -> TunnelFaults:
    progress = (said if said is not None else []).append
    return TunnelFaults(lab, FLEET, "gw1", "gw2", Quiet(), progress, Quiet())  # type: ignore[arg-type]


def actives(monkeypatch: pytest.MonkeyPatch, *looks: list[str]) -> None:
    left = list(looks)
    monkeypatch.setattr(pairs, "actives", lambda *_arguments: left.pop(0) if len(left) > 1 else left[0])


def hand_over(lab: Lab, times: int = 1, bound_s: float = 0.05, said: list[str] | None = None) -> str:
    step = steps.HandOvers(do="hand_overs", times=times, each="at_once", limit="x")
    return asyncio.run(faults(lab, said).cause(step, bound_s))


def test_who_is_active_is_asked_and_a_refusal_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, said = Lab(handover=[1, 0]), list[str]()
    actives(monkeypatch, ["gw2"], ["gw2"], ["gw2"], ["gw1", "gw2"], ["gw1"])
    assert hand_over(lab, said=said) == ""
    assert lab.asked == [("gw2", ("site-agent", "handover"))] * 2
    assert "gw2 → gw1" in said[0] and "not settled yet" in said[0]


def test_handovers_that_do_not_happen_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    actives(monkeypatch, ["gw1"])
    assert "refused: not settled yet" in hand_over(Lab(handover=[1]))
    assert "after handover 1 gw1 is Active" in hand_over(Lab(handover=[0]))
    actives(monkeypatch, ["gw1"], [])
    assert "after handover 1 nobody is Active" in hand_over(Lab(handover=[0]))
    actives(monkeypatch, ["gw1", "gw2"])
    assert "before handover 1 gw1, gw2 is Active" in hand_over(Lab())


def mirror(monkeypatch: pytest.MonkeyPatch, *looks: list[str]) -> None:
    left = list(looks)

    async def unmirrored(*_arguments: Any) -> list[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(mirrors, "unmirrored", unmirrored)


def test_a_mirror_is_waited_for_and_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror(monkeypatch, ["2 of 4"], [])
    assert asyncio.run(faults(Lab()).whole(0.05)) == ""
    mirror(monkeypatch, ["2 of 4"])
    assert asyncio.run(faults(Lab()).whole(0.01)) == "2 of 4"


def test_first_something_must_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror(monkeypatch, [], [], ["2 of 4"], [])
    assert asyncio.run(faults(Lab()).whole(0.05, noticed=True)) == ""
    mirror(monkeypatch, [])
    assert "nothing" not in asyncio.run(faults(Lab()).whole(0.01))
    assert "no gateway says" in asyncio.run(faults(Lab()).whole(0.01, noticed=True))


def test_a_mirror_that_was_taken_away_comes_back() -> None:
    lab = Lab()
    text = b"sites:\n  home:\n    pools: {}\n    sync: {}                # the mirror\n    vrrp: {}\n"
    for gateway in ("gw1", "gw2"):
        lab.files[gateway, "/etc/anycast/fleet.yaml"] = text

    async def run() -> bytes:
        ours = faults(lab)
        await ours.cause(steps.MirrorOff(do="mirror_off"), 1)
        between = lab.files["gw2", "/etc/anycast/fleet.yaml"]
        await ours.close()
        return between

    assert asyncio.run(run()) == b"sites:\n  home:\n    pools: {}\n    vrrp: {}\n"
    assert set(lab.files.values()) == {text} and lab.on == {"gw1", "gw2"}


def test_a_fleet_without_a_mirror_has_none_to_take_away() -> None:
    lab = Lab()
    lab.files["gw1", "/etc/anycast/fleet.yaml"] = b"sites: {}\n"
    with pytest.raises(LabError, match="has no 'sync"):
        asyncio.run(faults(lab).cause(steps.MirrorOff(do="mirror_off"), 1))


def test_a_step_that_none_of_these_is_goes_on_to_the_moments() -> None:
    class Moments(Quiet):
        async def cause(self, step: Any, bound_s: float) -> str:
            return f"{step.do} {bound_s}"

    ours = TunnelFaults(Lab(), FLEET, "gw1", "gw2", Moments(), print, Moments())  # type: ignore[arg-type]
    assert asyncio.run(ours.cause(steps.PowerOffWhen.model_construct(do="power_off_when"), 3)) == "power_off_when 3"


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (steps.Rekeys, {"do": "rekeys", "every_s": 0}),
        (steps.HandOvers, {"do": "hand_overs", "times": 0, "each": "at_once", "limit": "x"}),
        (steps.HandOvers, {"do": "hand_overs", "times": 1, "each": "never", "limit": "x"}),
        (steps.PowerOffWhen, {"do": "power_off_when", "client": "c", "exchange": "informational", "message": "request",
                              "after_ms": 0, "limit": "x"}),
        (steps.WaitMirror, {"do": "wait_mirror"}),
    ],
)  # fmt: skip
def test_steps_that_mean_nothing_are_refused(step: Any, words: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        step.model_validate(words)


class Stop(Exception):
    pass


def test_rekeys_counts_what_charon_agreed_to_and_connects_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Exception | None] = [None, vici.exception.CommandException(), None, OSError(), None, Stop()]
    asked, connections, out = list[dict[str, str]](), list[int](), tmp_path / "count"

    class Session:
        def __init__(self, _sock: socket.socket) -> None:
            connections.append(1)

        def rekey(self, what: dict[str, str]) -> None:
            asked.append(what)
            if (answer := answers.pop(0)) is not None:
                raise answer

    monkeypatch.setattr(vici, "Session", Session)
    monkeypatch.setattr(rekeys, "AGAIN_S", 0)
    path = str(tmp_path / "vici")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with pytest.raises(Stop):
            rekeys.run("vpn", path, 0, out)
    assert out.read_text() == "3" and len(asked) == 6 and asked[0] == {"child": "vpn"} and len(connections) == 2


def test_the_clients_address_is_where_the_gateways_see_it() -> None:
    ours = moments_module.Moments(Lab(), FLEET, "gw1", "gw2", None, print)  # type: ignore[arg-type]
    assert [str(ours._outer(client)) for client in ("direct", "roamer")] == ["198.51.100.66", "198.51.100.82"]
