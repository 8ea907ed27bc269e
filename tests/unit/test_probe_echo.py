"""Probes' echoes of both families: each finds its own answer and nothing else."""

from __future__ import annotations

import struct

import pytest

from anycast_lab.drills import forger, probe


def test_an_ipv4_answer_behind_its_header() -> None:
    request = probe.encode_echo(7, 70_000)
    assert probe.checksum(request) == 0
    answer = b"\x45" + bytes(19) + b"\0" + request[1:]
    assert probe.decode_reply(answer, 7) == 70_000
    assert probe.decode_reply(answer, 8) is None and probe.decode_reply(answer[:-1], 7) is None
    assert probe.decode_reply(b"\x45" + bytes(19) + request, 7) is None, "a request is no answer"


def test_an_ipv6_answer_without_one() -> None:
    request = probe.encode_echo_v6(7, 70_000)
    answer = b"\x81" + request[1:]
    assert probe.decode_reply_v6(answer, 7) == 70_000
    assert probe.decode_reply_v6(answer, 8) is None and probe.decode_reply_v6(answer[:-1], 7) is None
    assert probe.decode_reply_v6(request, 7) is None


@pytest.mark.parametrize("sealed", [False, True])
def test_a_forged_advertisement_is_a_true_one_but_for_its_seal(sealed: bool) -> None:
    from ipaddress import IPv4Address as Ip

    from site_agent.vrrp import packet
    from site_agent.vrrp.seal import SEAL_BYTES

    forged = forger.advertisement(51, [Ip("198.51.100.4")], sealed=sealed)
    advert, rest = packet.decode(forged, Ip("198.51.100.3"), Ip("198.51.100.2"), 255)
    assert (advert.priority, advert.vrid, len(rest)) == (255, 51, SEAL_BYTES if sealed else 0)
    whole = forger.packet(Ip("198.51.100.3"), Ip("198.51.100.2"), forged)
    assert struct.unpack_from("!BB", whole, 8) == (255, 112) and whole[20:] == forged
