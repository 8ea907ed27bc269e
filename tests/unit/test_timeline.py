"""What the witnesses wrote becomes moments on one clock."""

from __future__ import annotations

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.events import PrefixWithdrawn, SiteVerdictChanged, to_record
from anycast.model import Cause
from anycast.reasons import Reason
from anycast_lab.drills.timeline import Moment, first_good_ns, from_bird_log, from_event_log, judge_packets

# Written by BIRD 2.0.12 with `timeformat log iso long us` and `debug protocols { states, routes }`.
BIRD_LOG = """\
2026-11-23 21:41:48.267915 <TRACE> fra: State changed to up
2026-11-23 21:41:48.267915 <WARN> fra: Missing link-local address
2026-11-23 21:41:48.492188 <TRACE> fra.ipv4 > added [best] 203.0.113.0/28 0L 2G unicast
2026-11-23 21:41:48.533871 <TRACE> fra.ipv6 > added [best] 2001:db8:a::/56 0L 2G unicast
2026-11-23 21:41:48.533871 <TRACE> fra.ipv4 > removed [sole] 203.0.113.0/28 0L 2G unicast
2026-11-23 21:41:49.100604 <TRACE> fra: BGP session closed
2026-11-23 21:41:49.100604 <TRACE> fra: State changed to down
"""


def _ns(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text + "+00:00").timestamp() * 1e6) * 1000


def test_birds_log_tells_routes_and_sessions() -> None:
    assert list(from_bird_log("transit", BIRD_LOG)) == [
        Moment(_ns("2026-11-23 21:41:48.267915"), "transit", "protocol_up", "", "fra"),
        Moment(_ns("2026-11-23 21:41:48.492188"), "transit", "route_added", "203.0.113.0/28", "fra"),
        Moment(_ns("2026-11-23 21:41:48.533871"), "transit", "route_added", "2001:db8:a::/56", "fra"),
        Moment(_ns("2026-11-23 21:41:48.533871"), "transit", "route_removed", "203.0.113.0/28", "fra"),
        Moment(_ns("2026-11-23 21:41:49.100604"), "transit", "protocol_down", "", "fra"),
    ]


def test_an_agents_event_keeps_its_reason_and_its_time() -> None:
    event = SiteVerdictChanged(serving=False, causes=(Cause(reason=Reason.CHARON_EXITED, check="charon_process"),))
    line = json.dumps(to_record(event, wall=1795470079.107955, boot_ns=5, gateway="fra-gw1"))
    (moment,) = from_event_log("fra-gw1", [line])
    assert (moment.source, moment.event) == ("fra-gw1/site-agent", "SiteVerdictChanged")
    assert moment.detail == "not serving charon_exited"
    assert abs(moment.at_ns - 1795470079_107955_000) <= 1000


def test_a_prefix_is_the_subject_of_its_withdrawal() -> None:
    event = PrefixWithdrawn(neighbor="198.51.100.1", prefix="203.0.113.0/28", reason=Reason.LEASE_LAPSED)
    line = json.dumps(to_record(event, wall=1.0, boot_ns=5, gateway="fra-gw1"))
    assert [(m.subject, m.detail) for m in from_event_log("fra-gw1", [line])] == [("203.0.113.0/28", "lease_lapsed")]


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    list(from_bird_log("transit", text))
    list(from_event_log("fra-gw1", text.splitlines()))


def _probe(good: list[bool], late: tuple[int, ...] = (), interval_ms: int = 5, stalls: dict[int, int] | None = None):
    """A probe record: packet n leaves at n intervals (plus stalls, in ms) and is answered 1 ms later where `good`."""
    sent, at = [], 1_000_000_000_000
    for number in range(len(good)):
        at += (interval_ms + (stalls or {}).get(number, 0)) * 1_000_000
        sent.append(at)
    return {
        "v": 1,
        "interval_ms": interval_ms,
        "sent_ns": sent,
        "good_ns": [at + 1_000_000 if ok else 0 for at, ok in zip(sent, good, strict=True)],
        "late": list(late),
    }


def test_a_gap_is_the_time_between_two_good_packets() -> None:
    packets = judge_packets(_probe([True] * 10 + [False] * 9 + [True] * 10))
    assert (packets.sent, packets.lost, packets.longest_gap_ms) == (29, 9, 50.0)
    assert packets.gap_to_ns - packets.gap_from_ns == 50_000_000


def test_a_late_probe_is_not_counted_against_the_tunnel() -> None:
    """The prober had no CPU for 200 ms: its own gap, not the client's."""
    packets = judge_packets(_probe([True] * 20, late=(10,), stalls={10: 200}))
    assert (packets.lost, packets.late, packets.longest_gap_ms) == (0, 1, 5.0)


@pytest.mark.parametrize("answered_before", [True, False], ids=["after the packet left", "before"])
def test_a_prober_that_is_stopped_in_the_middle_of_a_turn_makes_no_gap(answered_before: bool) -> None:
    """What it says of the tenth probe comes after the pause; the packet's own answer says whether it left before."""
    record = _probe([True] * 20, late=(10,), stalls={10: 75_000})
    if answered_before:
        record["good_ns"][10] = record["sent_ns"][9] + 6_000_000
    assert judge_packets(record).longest_gap_ms <= 7.0


def test_a_late_probe_that_was_lost_says_nothing() -> None:
    good = [True] * 20
    good[10] = False
    packets = judge_packets(_probe(good, late=(10,), stalls={10: 200}))
    assert (packets.sent, packets.lost, packets.late) == (19, 0, 1)


def test_a_gap_that_is_not_over_says_so() -> None:
    packets = judge_packets(_probe([True] * 10 + [False] * 100))
    assert packets.gap_to_ns == 0, "nothing good came back"
    assert packets.longest_gap_ms >= 495


def test_a_client_that_never_had_a_good_packet_has_lost_all() -> None:
    packets = judge_packets(_probe([False] * 100))
    assert (packets.sent, packets.lost) == (100, 100)


def test_the_first_good_packet_after_a_moment_is_of_one_that_was_sent_after_it() -> None:
    record = _probe([True] * 10 + [False] * 9 + [True] * 10)
    tenth, twentieth = record["sent_ns"][9], record["sent_ns"][19]
    assert first_good_ns(record, tenth) == twentieth + 1_000_000, "the answer to the tenth came after it, and does not count"
    assert first_good_ns(record, record["sent_ns"][-1]) is None
