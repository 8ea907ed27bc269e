"""What drills read at an exact moment, and the judgements over it, once held and once broken."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address
from typing import Any

import pytest

from anycast_lab.capture.frames import Ike
from anycast_lab.drills import mirror_checks, soft_expire, tunnel_steps
from anycast_lab.drills.checks import _of
from anycast_lab.drills.drill import load_drills
from anycast_lab.drills.flow_checks import FlowSeen, flow_kept
from anycast_lab.drills.mirror_checks import IkeSa, IkeSeen
from anycast_lab.drills.moment_judges import child_spis, complete_exchanges
from anycast_lab.drills.moments import _renewed
from tests.unit.test_drill_checks import _seen as observation
from tests.unit.test_forget_numbers import sa
from tests.unit.test_mirror_checks import SEEN

VIP, CLIENT, OTHER = ip_address("203.0.113.1"), ip_address("198.51.100.66"), ip_address("198.51.100.82")
LISTED = """\
vpn: #31, ESTABLISHED, IKEv2, 007daebb1c03c744_i* 1d35f4fcd8cfcc56_r
  local  'vpn.example.org' @ 203.0.113.1[4500]
  vpn: #5, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-256/CURVE_25519
    installed 8s ago, rekeying in 3269s, expires in 3952s
    in  cf9baa26,      0 bytes,     0 packets
    out c50963a3,      0 bytes,     0 packets
    local  192.0.2.0/28 2001:db8:b::/64
  vpn: #4, reqid 1, DELETED, TUNNEL-in-UDP, ESP:AES_GCM_16-256
    in  c1111111,      0 bytes,     0 packets
    out c2222222,      0 bytes,     0 packets
"""


def ike(message: int, *, by: str, response: bool = False, exchange: int = 37, client: Any = CLIENT) -> Ike:
    from_client = (by == "client") is not response
    ends = (client, VIP) if from_client else (VIP, client)
    return Ike(
        at_ns=0, source=ends[0], destination=ends[1], spis=(1, 2), exchange=exchange, response=response, message=message
    )


def test_only_installed_children_count() -> None:
    assert child_spis(LISTED) == {"cf9baa26", "c50963a3"}


@pytest.mark.parametrize("by", ["client", "gateway"])
def test_an_exchange_is_complete_when_its_own_request_was_answered(by: str) -> None:
    other = {"client": "gateway", "gateway": "client"}[by]
    whole = [ike(3, by=by), ike(3, by=by), ike(3, by=by, response=True)]
    assert complete_exchanges(whole, 37, CLIENT) == {by: 1, other: 0}
    for broken in (
        whole[:2],
        whole[2:],
        [ike(3, by=by), ike(4, by=by, response=True)],
        [ike(3, by=by), ike(3, by=other, response=True)],
        [ike(3, by=by, exchange=36), ike(3, by=by, exchange=36, response=True)],
        [ike(3, by=by, client=OTHER), ike(3, by=by, client=OTHER, response=True)],
    ):
        assert complete_exchanges(broken, 37, CLIENT)[by] == 0, broken


def test_a_rekey_is_new_spis_and_no_old_one() -> None:
    assert _renewed(frozenset("ab"), frozenset("cd"))
    assert not _renewed(frozenset("ab"), frozenset()) and not _renewed(frozenset("ab"), frozenset("bc"))


def test_the_soft_expiry_is_the_dumped_sa_and_not_hard() -> None:
    """struct xfrm_user_expire is 232 bytes on 64-bit machines, and `hard` is the byte at 224: 1 would delete the SA."""
    dumped = sa("203.0.113.1", "198.51.100.66", b"attributes that do not belong there")
    assert soft_expire.expiry(dumped) == dumped[:224] + bytes(8)


OLD, NEW = (IkeSa(state="ESTABLISHED", spis=(f"{i:016x}", f"{i + 1:016x}")) for i in (1, 3))


def test_who_was_about_to_connect_does_so_once() -> None:
    def built(count: int, *after: IkeSa, took: dict[str, float] | None = None, limit: float = 900) -> bool:
        seen = dataclasses.replace(SEEN, ike={"direct": IkeSeen(before=(OLD,), after=after, built=count)})
        return mirror_checks.built_once(seen, {"direct": 800.0} if took is None else took, limit).passed

    assert built(1, NEW)
    assert not built(0, NEW) and not built(2, NEW) and not built(1) and not built(1, OLD, NEW)
    assert not built(1, dataclasses.replace(NEW, state="CONNECTING"))
    assert not built(1, NEW, took={}) and not built(1, NEW, took={"direct": -5.0}) and not built(1, NEW, limit=700)
    assert not mirror_checks.built_once(dataclasses.replace(SEEN, ike={}), {}, 900).passed


def test_a_check_of_some_clients_sees_them_only() -> None:
    seen = _of(observation(mirror=SEEN), ("roamer",))
    assert seen.mirror is not None and set(seen.mirror.ike) == {"roamer"}
    assert set(seen.clients) <= {"roamer"}


S = 1_000_000_000


def flow(*changes: tuple[int, dict[str, Any] | None], later_s: float = 10) -> FlowSeen:
    """Asked at 0, 20, 40, 60 s, answered at once and 10 s later; the fault is at 45 s. `changes` by index, None: gone."""
    events: list[dict[str, Any]] = []
    for number in range(4):
        events.append({"at_ns": number * 20 * S, "what": "sent", "number": number, "later": True})
        for later in (False, True):
            at = (number * 20 + (10 if later else 0)) * S + 1000
            events.append({"at_ns": at, "what": "got", "number": number, "later": later, "from": "192.0.2.1 40000"})
    kept: list[dict[str, Any] | None] = list(events)
    for index, change in changes:
        kept[index] = None if change is None else events[index] | change
    return FlowSeen(translated_to="192.0.2.1", later_s=later_s, events=[one for one in kept if one is not None])


FAULT, BOUND = 45 * S, 2500


def test_a_flow_that_is_kept() -> None:
    assert flow_kept({"direct": flow()}, FAULT, BOUND).passed


@pytest.mark.parametrize(
    "changes",
    [
        [(8, None)],  # asked before the fault, spoken after it: what proves the translation
        [(8, None), (11, None)],
        [(10, {"from": "192.0.2.1 40001"})],
        [(index, {"from": "203.0.113.65 40000"}) for index in (1, 2, 4, 5, 7, 8, 10, 11)],
        [(10, None)],
        [(5, None)],
        [(10, {"what": "error", "said": "connection reset by peer"})],
    ],
)
def test_a_flow_that_is_not_kept(changes: list[tuple[int, dict[str, Any] | None]]) -> None:
    assert not flow_kept({"direct": flow(*changes)}, FAULT, BOUND).passed


def test_a_fault_that_no_answer_crosses_proves_nothing() -> None:
    assert not flow_kept({"direct": flow()}, 55 * S, BOUND).passed and not flow_kept({}, FAULT, BOUND).passed


def test_a_drill_that_places_its_fault_says_how_late_it_may_be() -> None:
    placed = [
        step for drill in load_drills().values() for step in drill.steps if isinstance(step, tunnel_steps.PowerOffWhen)
    ]
    assert len(placed) >= 2 and {step.exchange for step in placed} == {"ike_auth", "create_child_sa"}
