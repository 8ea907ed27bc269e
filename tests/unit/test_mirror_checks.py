"""Each assertion about tunnels that outlive a gateway, once held and once broken: what cannot fail proves nothing."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address
from typing import Any

import pytest

from anycast_lab.capture.numbers import Numbers, Reuse, Takeover
from anycast_lab.drills import mirror_checks
from anycast_lab.drills.checks import judge
from anycast_lab.drills.drill import Limit, load_drills
from anycast_lab.drills.mirror_checks import Download, IkeSa, IkeSeen, MirrorSeen, judge_download
from anycast_lab.drills.mirror_steps import NoNumberTwice, SameIkeSa, SentToClient, TcpContinues
from anycast_lab.drills.stream import Received, content
from tests.unit.test_drill_checks import _seen as observation

MS = 1_000_000
CLIENT = ip_address("198.51.100.66")
LIMITS = {"bound": Limit(ms=500, reason="test")}
OLD, NEW = (IkeSa(state="ESTABLISHED", spis=(f"{i:016x}", f"{i + 1:016x}")) for i in (1, 3))
TAKEOVER = Takeover(at_ns=900 * MS, destination=CLIENT, spi=0xC0000001, gateway="gw2", before=5, first=1 << 28)
TWICE = Reuse(destination=CLIENT, spi=0xC0000001, sequence=7, first=("gw1", 1), again=("gw2", 2))
GOOD = Download(
    connection="203.0.113.65 40000 from 192.0.2.10 5001",
    bytes=1_000_000,
    ended="",
    wrong_at=None,
    stall_ms=400,
    stall_from_ns=10 * MS,
    stall_to_ns=410 * MS,
)
COUNTED = Numbers(packets={"gw1": 500, "gw2": 700}, sas=2, numbers_twice=(), ivs_twice=(), takeovers=(TAKEOVER,))
SEEN = MirrorSeen(
    ike={"direct": IkeSeen(before=(OLD,), after=(OLD,), built=0), "roamer": IkeSeen(before=(NEW,), after=(NEW,), built=0)},
    downloads={"direct": GOOD, "roamer": GOOD},
    numbers=COUNTED,
    problems=(),
)


def direct(**changes: Any) -> MirrorSeen:
    """One client's download is another than it should be."""
    return dataclasses.replace(SEEN, downloads={"direct": dataclasses.replace(GOOD, **changes), "roamer": GOOD})


def counted(**changes: Any) -> MirrorSeen:
    return dataclasses.replace(SEEN, numbers=dataclasses.replace(COUNTED, **changes))


def ike(**changes: Any) -> MirrorSeen:
    broken = dataclasses.replace(SEEN.ike["direct"], **changes)
    return dataclasses.replace(SEEN, ike={**SEEN.ike, "direct": broken})


def test_what_should_hold_holds() -> None:
    for check in (TcpContinues(check="tcp_continues", limit="bound"), NoNumberTwice(check="no_number_twice"),
                  SameIkeSa(check="same_ike_sa"), SentToClient(check="sent_to_client")):  # fmt: skip
        found = judge(check, dataclasses.replace(observation(), mirror=SEEN), LIMITS)
        assert found.passed, found
        unwatched = judge(check, observation(), LIMITS)
        assert not unwatched.passed, "what nobody watched proves nothing"


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (direct(stall_ms=500.1), "direct: longest stall 500 ms"),
        (direct(stall_ms=501, stall_to_ns=0), "direct: stalled for 501 ms until the end"),
        (direct(ended="Connection reset by peer"), "ended: Connection reset by peer"),
        (direct(wrong_at=4711), "wrong from byte 4,711 on"),
        (direct(connection=""), "no connection"),
        (direct(bytes=0), "0 bytes"),
        (dataclasses.replace(SEEN, downloads={}), "no download"),
    ],
)
def test_a_connection_that_does_not_go_on_is_red(seen: MirrorSeen, said: str) -> None:
    found = mirror_checks.tcp_continues(seen, 500)
    assert not found.passed and said in found.seen


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (counted(numbers_twice=(TWICE,)), "7 under c0000001 to 198.51.100.66 by gw1, then by gw2"),
        (counted(ivs_twice=(TWICE,)), "0 numbers and 1 IVs twice"),
        (counted(takeovers=()), "no gateway went on"),
        (counted(packets={"gw1": 500, "gw2": 0}), "0 packets of gw2"),
        (counted(takeovers=(TAKEOVER, dataclasses.replace(TAKEOVER, before=8206, first=1))), "at 1 after 8,206"),
        (counted(takeovers=(dataclasses.replace(TAKEOVER, before=5, first=5),)), "at 5 after 5"),
        (dataclasses.replace(SEEN, problems=("gw1: 3 packets dropped by kernel",)), "gw1: 3 packets dropped"),
    ],
)
def test_a_number_twice_or_a_capture_that_proves_nothing_is_red(seen: MirrorSeen, said: str) -> None:
    found = mirror_checks.no_number_twice(seen)
    assert not found.passed and said in found.seen


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            counted(takeovers=(TAKEOVER, dataclasses.replace(TAKEOVER, elsewhere=ip_address("198.51.100.67")))),
            "gw2 sends c0000001 to 198.51.100.66, and the client was at 198.51.100.67",
        ),
        (counted(takeovers=()), "no takeover"),
        (dataclasses.replace(SEEN, problems=("gw1: 3 packets dropped by kernel",)), "gw1: 3 packets dropped"),
    ],
)
def test_a_packet_to_where_a_client_was_is_red(seen: MirrorSeen, said: str) -> None:
    found = mirror_checks.sent_to_client(seen)
    assert not found.passed and said in found.seen


def test_a_rekeyed_ike_sa_is_no_new_one() -> None:
    assert mirror_checks.same_ike_sa(ike(after=(NEW,))).passed


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (ike(built=1), "direct: the same (1 before, 1 after, 1 built anew)"),
        (ike(after=(NEW,), built=1), "direct: another (1 before, 1 after, 1 built anew)"),
        (ike(after=()), "direct: none (1 before, 0 after"),
        (ike(after=(dataclasses.replace(OLD, state="CONNECTING"),)), "direct: none"),
        (ike(before=()), "direct: another (0 before, 1 after"),
        (ike(after=(OLD, NEW)), "direct: another (1 before, 2 after"),
        (dataclasses.replace(SEEN, ike={}), "no client"),
    ],
)
def test_an_ike_sa_built_anew_is_red(seen: MirrorSeen, said: str) -> None:
    found = mirror_checks.same_ike_sa(seen)
    assert not found.passed and said in found.seen


LISTED = """\
vpn: #1, ESTABLISHED, IKEv2, f8fa2af768dc3ebb_i* b3d0de9bab66cdb9_r
  local  'direct.clients.vpn.example.org' @ 198.51.100.66[4500] [203.0.113.65 2001:db8:c:1::1]
  remote 'vpn.example.org' @ 203.0.113.1[4500]
  vpn: #1, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-256
    in  ce2a1a8c,   3348 bytes,    93 packets,   109s ago
vpn: #2, REKEYED, IKEv2, 0000000000000001_i 0000000000000002_r*
vpn: #3, CONNECTING, IKEv2, 58dc03d2deba1db5_i* 0000000000000000_r
"""


def test_what_swanctl_lists_is_read() -> None:
    assert mirror_checks.ike_sas(LISTED) == (
        IkeSa(state="ESTABLISHED", spis=("f8fa2af768dc3ebb", "b3d0de9bab66cdb9")),
        IkeSa(state="REKEYED", spis=("0000000000000001", "0000000000000002")),
    )
    assert mirror_checks.ike_sas("") == ()


def test_only_new_ike_sas_count_in_charons_log() -> None:
    """Lines of strongSwan 5.9.8: a rekey also says "initiating", a CHILD_SA also says "established"."""
    between = "between 198.51.100.66[direct.clients.vpn.example.org]...203.0.113.1[vpn.example.org]"
    at = "2026-11-29T12:02:51.407 05[IKE]"
    rekey = [f"{at} initiating IKE_SA vpn[2] to 203.0.113.1", f"{at} IKE_SA vpn[2] rekeyed {between}"]
    child = f"{at} CHILD_SA vpn{{1}} established with SPIs ce2a1a8c_i c5f37b84_o and TS 203.0.113.65/32 === 192.0.2.0/28"
    assert mirror_checks.ike_sas_built("\n".join([*rekey, child])) == 0
    assert mirror_checks.ike_sas_built("\n".join([*rekey, f"{at} IKE_SA vpn[3] established {between}"])) == 1


def record(*arrivals_ms: float, **changes: Any) -> dict[str, Any]:
    arrivals = [(round(ms * MS), 5000 * (i + 1)) for i, ms in enumerate(arrivals_ms)]
    whole = {"connection": ["203.0.113.65 40000", "192.0.2.10 5001"], "ended": "", "wrong_at": None, "arrivals": arrivals}
    return whole | changes


def judged(*arrivals_ms: float, until_ms: float = 1000, **changes: Any) -> tuple[float, int, int]:
    found = judge_download(record(*arrivals_ms, **changes), 0, round(until_ms * MS))
    return found.stall_ms, found.stall_from_ns // MS, found.stall_to_ns // MS


def test_the_longest_stall_is_found_wherever_it_is() -> None:
    assert judged(0, 20, 40, 440, 460, 980) == (520.0, 460, 980), "the longest of two"
    assert judged(0, 20, 40, until_ms=1000) == (960.0, 40, 0), "one that has not ended"
    assert judged(-300, 500, 990) == (800.0, -300, 500), "one that began before"
    assert judged(-900, -300, 10, 20, 1000) == (980.0, 20, 1000), "one that was over before does not count"
    assert judged(10, 21, 30, 5000, until_ms=40) == (11.0, 10, 21), "nothing behind the end counts"
    assert judged(until_ms=700) == (700.0, 0, 0), "nothing ever came"


def test_a_download_tells_its_connection() -> None:
    found = judge_download(record(1, 2, wrong_at=9, ended="closed by the server"), 0, 10 * MS)
    assert found.connection == "203.0.113.65 40000 from 192.0.2.10 5001"
    assert (found.bytes, found.wrong_at, found.ended) == (10_000, 9, "closed by the server")
    assert judge_download(record(connection=["", ""]), 0, 10).connection == ""


def test_the_stream_is_the_same_however_it_is_cut() -> None:
    whole = content(0, 4096)
    assert whole[:24] == bytes(7) + b"\0" + bytes(7) + b"\1" + bytes(7) + b"\2"
    for at in (0, 1, 7, 8, 9, 1000):
        for length in (0, 1, 7, 8, 9, 63):
            assert content(at, length) == whole[at : at + length]


@pytest.mark.parametrize("at", [0, 5, 8, 1003, 2999])
def test_a_wrong_byte_is_found_where_it_stands(at: int) -> None:
    data = bytearray(content(0, 3000))
    data[at] ^= 1
    data[2999] ^= 2  # the first one counts, and both in one byte are still wrong
    received = Received()
    for begin in range(0, 3000, 700):
        received.take(bytes(data[begin : begin + 700]), begin)
    assert (received.wrong_at, received.total) == (at, 3000)
    assert received.arrivals == [(0, 700), (700, 1400), (1400, 2100), (2100, 2800), (2800, 3000)]


def test_bytes_that_are_missing_or_doubled_show() -> None:
    for sent in (content(0, 800) + content(1600, 800), content(0, 800) + content(0, 800)):
        received = Received()
        received.take(sent, 1)
        assert received.wrong_at is not None and 800 <= received.wrong_at < 808


def test_what_a_drill_watches_follows_from_its_file() -> None:
    drills = load_drills()
    assert drills["mirror-power-off"].watches_site and drills["mirror-power-off"].watches_tunnels
    assert drills["vrrp-power-off"].watches_site and not drills["vrrp-power-off"].watches_tunnels
    assert not drills["xfrm-flushed"].watches_site and not drills["xfrm-flushed"].watches_tunnels
