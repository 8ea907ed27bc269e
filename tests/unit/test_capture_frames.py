"""Captures as tcpdump writes them, read back: what scapy made is what is found, and what is damaged is told."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from anycast.errors import DecodeError
from anycast_lab.capture import claims, pcap
from anycast_lab.capture.frames import Advertisement, Arp, Ike, NeighbourAdvertisement, Segment, decode
from anycast_lab.capture.pcap import Frame

GW1, GW2 = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
NAMES = {GW1: "fra-gw1", GW2: "fra-gw2"}
MS = 1_000_000


def _file(*frames: tuple[int, bytes], order: str = "<", magic: int = 0xA1B2C3D4) -> bytes:
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 2048, 1)
    return head + b"".join(struct.pack(f"{order}IIII", 7, at, len(data), len(data)) + data for at, data in frames)


def _mac(raw: bytes) -> str:
    return raw.hex(":")


@pytest.mark.parametrize("order", "<>")
def test_both_byte_orders_and_both_resolutions(order: str) -> None:
    assert pcap.read(_file((5, b"x"), order=order)) == [Frame(7 * 10**9 + 5000, b"x", False)]
    assert pcap.read(_file((5, b"x"), order=order, magic=0xA1B23C4D)) == [Frame(7 * 10**9 + 5, b"x", False)]


def test_a_file_that_is_still_written_gives_its_whole_frames() -> None:
    whole = _file((1, b"one"), (2, b"two"))
    for length in range(len(whole)):
        frames = pcap.read(whole[:length])
        assert [frame.data for frame in frames] == [b"one", b"two"][: len(frames)]
    assert len(pcap.read(whole[:-1])) == 1 and len(pcap.read(whole)) == 2


def test_what_is_no_capture_is_told() -> None:
    with pytest.raises(DecodeError, match="no classic capture file"):
        pcap.read(bytes(40))
    with pytest.raises(DecodeError, match="is not Ethernet"):
        pcap.read(_file()[:20] + struct.pack("<I", 101))
    with pytest.raises(DecodeError, match="record length"):
        pcap.read(_file() + struct.pack("<IIII", 0, 0, 2**31, 2**31))


def test_a_short_snapshot_shows() -> None:
    data = _file() + struct.pack("<IIII", 0, 0, 2, 9) + b"ab"
    assert pcap.read(data) == [Frame(0, b"ab", True)]


def _scapy(packet: object, at_ns: int = 0) -> Frame:
    return Frame(at_ns, bytes(packet), False)  # type: ignore[call-overload]


def test_gratuitous_arp_as_scapy_makes_it() -> None:
    s = pytest.importorskip("scapy.all")
    told = s.Ether(src=_mac(GW1), dst="ff:ff:ff:ff:ff:ff") / s.ARP(
        op=1, hwsrc=_mac(GW1), psrc="198.51.100.4", pdst="198.51.100.4"
    )
    seen = decode(_scapy(told))
    assert isinstance(seen, Arp) and seen.gratuitous and seen.mac == GW1 and seen.sender == ip_address("198.51.100.4")
    asked = decode(_scapy(s.Ether() / s.ARP(op=1, psrc="198.51.100.1", pdst="198.51.100.4")))
    assert isinstance(asked, Arp) and not asked.gratuitous


def test_unsolicited_neighbour_advertisement_as_scapy_makes_it() -> None:
    s = pytest.importorskip("scapy.all")
    told = s.Ether(src=_mac(GW2)) / s.IPv6(src="fe80::2", dst="ff02::1") / s.ICMPv6ND_NA(tgt="2001:db8:1::4", O=1, S=0)
    seen = decode(_scapy(told))
    assert isinstance(seen, NeighbourAdvertisement) and seen.unsolicited and seen.override
    assert seen.target == ip_address("2001:db8:1::4") and seen.mac == GW2
    answer = s.Ether() / s.IPv6(src="fe80::2", dst="fe80::1") / s.ICMPv6ND_NA(tgt="2001:db8:1::4", O=0, S=1)
    seen = decode(_scapy(answer))
    assert isinstance(seen, NeighbourAdvertisement) and not seen.unsolicited and not seen.override


def test_vrrp_as_scapy_makes_it() -> None:
    s = pytest.importorskip("scapy.all")
    vrrp = pytest.importorskip("scapy.layers.vrrp")
    packet = (
        s.Ether(src=_mac(GW1))
        / s.IP(src="198.51.100.2", dst="198.51.100.3", ttl=255, proto=112)
        / vrrp.VRRPv3(vrid=51, priority=100, adv=10, addrlist=["198.51.100.4"])
    )
    seen = decode(_scapy(packet))
    assert isinstance(seen, Advertisement) and seen.flags is None and seen.claims
    assert (seen.vrid, seen.priority, seen.interval_cs, seen.ttl) == (51, 100, 10, 255)
    assert seen.addresses == (ip_address("198.51.100.4"),) and seen.source == ip_address("198.51.100.2")


def test_tcp_with_options_as_scapy_makes_it() -> None:
    s = pytest.importorskip("scapy.all")
    tcp = s.TCP(sport=179, dport=4000, seq=9, flags="PA", options=[("MSS", 1460), ("NOP", None)])
    seen = decode(_scapy(s.Ether() / s.IP(src="198.51.100.1", dst="198.51.100.2") / tcp / b"abc"))
    assert isinstance(seen, Segment) and seen.payload == b"abc" and seen.sequence == 9 and not seen.syn
    assert seen.source == (ip_address("198.51.100.1"), 179)
    short = bytes(s.Ether() / s.IP(src="198.51.100.1", dst="198.51.100.2") / tcp / b"abc")[:-1]
    cut = decode(Frame(0, short, True))
    assert isinstance(cut, Segment) and cut.cut


def test_what_is_of_no_concern_is_passed_over() -> None:
    s = pytest.importorskip("scapy.all")
    fragment = s.Ether() / s.IP(flags="MF", proto=112) / b"x"
    for packet in (s.Ether() / s.IP() / s.UDP(), fragment, s.Ether(type=0x88CC) / b"x"):
        assert decode(_scapy(packet)) is None


def _advert(ms: float, mac: bytes, *, priority: int = 100, flags: int | None = 1) -> Advertisement:
    own, other = ip_address("198.51.100.2"), ip_address("198.51.100.3")
    return Advertisement(at_ns=round(ms * MS), mac=mac, source=own, destination=other, ttl=255, vrid=51, priority=priority,
                         interval_cs=10, addresses=(), flags=flags)  # fmt: skip


def test_a_failover_is_two_reigns_that_never_meet() -> None:
    seen = [_advert(t, GW1) for t in range(0, 1000, 100)] + [_advert(t, GW2) for t in range(1261, 2000, 100)]
    first, second = claims.reigns(seen, NAMES)
    assert (first.router, first.to_ns, second.router, second.from_ns) == ("fra-gw1", 900 * MS, "fra-gw2", 1261 * MS)
    assert claims.together_ns((first, second)) == 0


def test_two_actives_are_together_for_as_long_as_both_claim() -> None:
    both = [_advert(t + shift, mac) for t in range(0, 1000, 100) for shift, mac in ((0, GW1), (50, GW2))]
    assert claims.together_ns(claims.reigns(both, NAMES)) == 850 * MS
    assert claims.together_ns(claims.reigns(both, NAMES), from_ns=600 * MS) == 300 * MS
    assert claims.together_ns(claims.reigns(both, NAMES), to_ns=100 * MS) == 50 * MS


def test_a_backups_word_and_a_release_are_no_claims() -> None:
    backup = [_advert(t, GW2, flags=0) for t in range(0, 1000, 100)]
    assert claims.reigns(backup, NAMES) == ()
    released = [_advert(0, GW1), _advert(100, GW1, priority=0, flags=5)]
    first, second = claims.reigns([*released, _advert(101, GW2), _advert(120, GW1, priority=0, flags=4)], NAMES)
    assert first.to_ns == 0 and second.from_ns == 101 * MS and claims.together_ns((first, second)) == 0
    again = [_advert(0, GW1), _advert(10, GW1, flags=0), _advert(20, GW1)]
    assert len(claims.reigns(again, NAMES)) == 2, "a word of not being Active ends a reign"


def test_silence_ends_a_reign_and_a_strangers_word_begins_none() -> None:
    assert len(claims.reigns([_advert(0, GW1), _advert(360, GW1)], NAMES)) == 1
    assert len(claims.reigns([_advert(0, GW1), _advert(362, GW1)], NAMES)) == 2
    assert claims.reigns([_advert(0, b"forger", priority=255, flags=None)], NAMES) == ()


def test_who_was_announced_to_the_neighbours() -> None:
    address = ip_address("198.51.100.4")
    told = Arp(at_ns=5, operation=1, mac=GW1, sender=address, target=address)
    asked = Arp(at_ns=6, operation=1, mac=GW2, sender=ip_address("198.51.100.1"), target=address)
    assert claims.announced([told, asked], address, 0) == ((5, GW1),)
    assert claims.announced([told], address, 6) == ()


def test_ike_as_scapy_makes_it() -> None:
    s = pytest.importorskip("scapy.all")
    isakmp = bytes.fromhex("010203040506070811121314151617182e2024") + b"\x20" + struct.pack("!II", 7, 28)
    packet = s.Ether() / s.IP(src="203.0.113.1", dst="198.51.100.66") / s.UDP(sport=4500, dport=40000)
    seen = decode(_scapy(packet / s.Raw(bytes(4) + isakmp), 5))
    assert seen == Ike(
        at_ns=5, source=ip_address("203.0.113.1"), destination=ip_address("198.51.100.66"),
        spis=(0x0102030405060708, 0x1112131415161718), exchange=36, response=True, message=7, ports=(4500, 40000),
    )  # fmt: skip
    asked = decode(_scapy(packet / s.Raw(bytes(4) + isakmp[:19] + b"\x08" + isakmp[20:])))
    assert isinstance(asked, Ike) and not asked.response
    with pytest.raises(DecodeError, match="ike"):
        decode(_scapy(packet / s.Raw(bytes(4) + isakmp[:-1])))
