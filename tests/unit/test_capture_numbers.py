"""No number and no IV twice over two gateways' captures: hand-made captures, right ones and ones that must be red."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.ipsec import ESP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from anycast.errors import DecodeError
from anycast_lab.capture import frames, numbers
from anycast_lab.capture.pcap import Frame
from anycast_lab.drills import mirror_checks
from anycast_lab.drills.captured import decoded

VIP4, VIP6 = "203.0.113.1", "2001:db8:a::1"
OURS = frozenset(map(ip_address, (VIP4, VIP6)))
CLIENT4, CLIENT6, NAT = "198.51.100.66", "2001:db8:d::2", "198.51.100.82"
SPI = 0xC0000001
MS = 1_000_000
ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
"""Both ends said, or scapy would ask this machine's neighbours for one."""


def salted(salt: int, number: int) -> bytes:
    """As Linux' seqiv makes it: the number XOR a salt of the installation."""
    return struct.pack("!Q", salt ^ number)


def esp(
    number: int, *, salt: int = 0, to: str = CLIENT4, source: str = "", spi: int = SPI, udp: bool = False, iv: bytes = b""
) -> bytes:
    """One frame as a gateway sends it."""
    own = source or (VIP6 if ":" in to else VIP4)
    network = IPv6(src=own, dst=to) if ":" in to else IP(src=own, dst=to)
    sealed = ESP(spi=spi, seq=number, data=(iv or salted(salt, number)) + bytes(40))
    return bytes(ETHERNET / network / (UDP(sport=4500, dport=4500) / sealed if udp else sealed))


def file(*packets: tuple[int, bytes], snap: int = 128) -> bytes:
    """A capture: (milliseconds, frame)."""
    head = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, snap, 1)
    return head + b"".join(struct.pack("<IIII", 0, at * MS, min(len(p), snap), len(p)) + p[:snap] for at, p in packets)


def judged(gw1: bytes, gw2: bytes) -> numbers.Numbers:
    captures = {"gw1": decoded(gw1), "gw2": decoded(gw2)}
    assert not [problem for one in captures.values() for problem in one.problems]
    sealed = {name: [s for s in one.seen if isinstance(s, frames.Sealed)] for name, one in captures.items()}
    return numbers.numbers(sealed, OURS)


def told(found: tuple[numbers.Reuse, ...]) -> list[tuple[int, str, str]]:
    return [(one.sequence, one.first[0], one.again[0]) for one in found]


WAYS = pytest.mark.parametrize(
    ("to", "udp"),
    [(CLIENT4, False), (CLIENT4, True), (CLIENT6, False), (CLIENT6, True)],
    ids=["v4", "v4-udp", "v6", "v6-udp"],
)


@WAYS
def test_a_takeover_that_jumps_is_right(to: str, udp: bool) -> None:
    mark = 1 << 28
    one = file(*((n, esp(n, salt=77, to=to, udp=udp)) for n in range(1, 6)))
    other = file((900, esp(mark, salt=99, to=to, udp=udp)), (901, esp(mark + 1, salt=99, to=to, udp=udp)))
    found = judged(one, other)
    assert (found.packets, found.sas, found.numbers_twice, found.ivs_twice) == ({"gw1": 5, "gw2": 2}, 1, (), ())
    (takeover,) = found.takeovers
    assert (takeover.gateway, takeover.before, takeover.first, takeover.at_ns) == ("gw2", 5, mark, 900 * MS)
    assert (takeover.jump, str(takeover.destination), takeover.spi) == (mark - 5, to, SPI)


@WAYS
def test_the_standby_that_counts_from_one_is_red(to: str, udp: bool) -> None:
    """The `ha` plugin alone (facts.md): numbers come twice, IVs do not, because each installation has its salt."""
    one = file(*((n, esp(n, salt=77, to=to, udp=udp)) for n in range(1, 6)))
    other = file(*((100 + n, esp(n, salt=99, to=to, udp=udp)) for n in range(1, 4)))
    found = judged(one, other)
    assert told(found.numbers_twice) == [(1, "gw1", "gw2"), (2, "gw1", "gw2"), (3, "gw1", "gw2")]
    assert found.ivs_twice == ()
    assert found.takeovers[0].jump == -4


@WAYS
def test_an_iv_twice_under_different_numbers_is_red(to: str, udp: bool) -> None:
    one = file((1, esp(1, salt=0, to=to, udp=udp)), (2, esp(2, salt=0, to=to, udp=udp)))
    other = file((9, esp(1000, to=to, udp=udp, iv=salted(0, 2))))
    found = judged(one, other)
    assert found.numbers_twice == () and told(found.ivs_twice) == [(1000, "gw1", "gw2")]


def test_one_gateway_alone_can_repeat_itself() -> None:
    """A gateway that was given back an old copy: both in one capture, also within one nanosecond."""
    found = judged(file((1, esp(7)), (1, esp(7)), (2, esp(8))), file())
    assert told(found.numbers_twice) == told(found.ivs_twice) == [(7, "gw1", "gw1")]
    assert found.takeovers == ()


def test_two_actives_at_once_are_red_and_every_change_is_told() -> None:
    one = file(*((2 * n, esp(n, salt=1)) for n in range(1, 4)))
    other = file(*((2 * n + 1, esp(n, salt=2)) for n in range(1, 4)))
    found = judged(one, other)
    assert told(found.numbers_twice) == [(n, "gw1", "gw2") for n in (1, 2, 3)]
    assert [t.gateway for t in found.takeovers] == ["gw2", "gw1", "gw2", "gw1", "gw2"]


@pytest.mark.parametrize(("late", "passed"), [(11, True), (9, False)], ids=["reordered", "from before the capture"])
def test_of_two_that_send_by_turns_none_may_go_back_behind_its_first(late: int, passed: bool) -> None:
    """Linux gives a packet its number and lets another one, with the next number, go before it (softirq in xfrm_output)."""
    one = file((1, esp(10)), (3, esp(12)), (5, esp(late)))
    other = file((2, esp(1 << 28, salt=9)), (4, esp((1 << 28) + 1, salt=9)))
    found = judged(one, other)
    assert (found.numbers_twice, found.ivs_twice) == ((), ())
    assert (
        mirror_checks.no_number_twice(mirror_checks.MirrorSeen(ike={}, downloads={}, numbers=found, problems=())).passed
        is passed
    )


def test_the_first_use_is_by_time_not_by_the_order_of_the_captures() -> None:
    found = judged(file((50, esp(3))), file((10, esp(3))))
    assert told(found.numbers_twice) == [(3, "gw2", "gw1")]
    assert [(t.gateway, t.at_ns) for t in found.takeovers] == [("gw1", 50 * MS)]


def test_other_sas_and_other_destinations_have_numbers_of_their_own() -> None:
    one = file((1, esp(1)), (2, esp(1, spi=SPI + 1)), (3, esp(1, to=NAT, udp=True)), (4, esp(1, to=CLIENT6)))
    found = judged(one, file())
    assert (found.sas, found.packets["gw1"], found.numbers_twice, found.ivs_twice) == (4, 4, (), ())


def test_plain_and_in_udp_is_one_sa() -> None:
    """An SA that MOBIKE or a rekey moved behind a NAT: the key is the same, so are the numbers."""
    found = judged(file((1, esp(1))), file((2, esp(1, udp=True))))
    assert told(found.numbers_twice) == told(found.ivs_twice) == [(1, "gw1", "gw2")]


def test_what_clients_send_does_not_count() -> None:
    inbound = esp(1, source=CLIENT4, to=VIP4)
    found = judged(file((1, inbound), (2, inbound), (3, esp(5))), file((4, inbound)))
    assert (found.packets, found.numbers_twice) == ({"gw1": 1, "gw2": 0}, ())


def test_ike_keepalives_and_everything_else_are_no_esp() -> None:
    ike = bytes(ETHERNET / IP(src=VIP4, dst=NAT) / UDP(sport=4500, dport=1024) / Raw(bytes(4) + b"\x01" * 28))
    keepalive = bytes(ETHERNET / IP(src=VIP4, dst=NAT) / UDP(sport=4500, dport=4500) / Raw(b"\xff"))
    dns = bytes(ETHERNET / IP(src=VIP4, dst=NAT) / UDP(sport=53, dport=53) / Raw(b"\x01" * 28))
    echo = bytes(ETHERNET / IP(src=VIP4, dst=NAT) / ICMP())
    later = bytes(ETHERNET / IP(src=VIP4, dst=NAT, proto=50, frag=100) / Raw(b"\xc0\0\0\1" * 8))
    assert judged(file(*((i, p) for i, p in enumerate((ike, keepalive, dns, echo, later)))), file()).packets["gw1"] == 0


@pytest.mark.parametrize("udp", [False, True])
def test_a_fragmented_packet_counts_once(udp: bool) -> None:
    sealed = ESP(spi=SPI, seq=9, data=salted(0, 9) + bytes(2000))
    whole = IP(src=VIP4, dst=CLIENT4) / (UDP(sport=4500, dport=4500) / sealed if udp else sealed)
    parts = [bytes(ETHERNET / part) for part in fragment(whole, 600)]
    assert len(parts) == 4
    found = judged(file(*enumerate(parts)), file((10, esp(9, salt=1))))
    assert found.packets == {"gw1": 1, "gw2": 1} and told(found.numbers_twice) == [(9, "gw1", "gw2")]


def test_a_fragment_of_ipv6_is_read_by_its_first() -> None:
    def part(offset: int, more: int, data: bytes) -> bytes:
        header = IPv6ExtHdrFragment(nh=50, offset=offset, m=more, id=5)
        return bytes(ETHERNET / IPv6(src=VIP6, dst=CLIENT6) / header / Raw(data))

    sealed = struct.pack("!II", SPI, 4) + salted(0, 4)
    found = judged(file((1, part(0, 1, sealed + bytes(24))), (2, part(5, 0, sealed + bytes(24)))), file())
    assert found.packets["gw1"] == 1


def test_a_snapshot_too_short_for_the_iv_is_told() -> None:
    short = decoded(file((1, esp(1)), snap=14 + 20 + 12))
    assert short.problems == ("1 frames could not be read",) and not short.seen


@pytest.mark.parametrize("udp", [False, True])
def test_every_truncation_is_an_error_or_no_esp(udp: bool) -> None:
    frame = esp(3, udp=udp)
    for length in range(14, 14 + 20 + 8 * udp + 16):
        with pytest.raises(DecodeError):
            frames.decode(Frame(0, frame[:length], True))
    found = frames.decode(Frame(0, frame[: 14 + 20 + 8 * udp + 16], True))
    assert isinstance(found, frames.Sealed) and (found.sequence, found.iv, found.in_udp) == (3, salted(0, 3), udp)


@pytest.mark.parametrize(("last", "elsewhere"), [(CLIENT4, "198.51.100.67"), ("198.51.100.67", None)])
def test_who_goes_on_to_where_a_client_was_shows(last: str, elsewhere: str | None) -> None:
    gw1 = file((1, esp(5)), (2, esp(6, to="198.51.100.67")))
    found = judged(gw1, file((3, esp(1 << 28, salt=3, to=last))))
    assert [one.elsewhere for one in found.takeovers] == ([ip_address(elsewhere)] if elsewhere else [None])
