"""The kernel's messages of SAs and policies, made by hand from linux/xfrm.h; the codecs share nothing with it."""

from __future__ import annotations

import struct

VIP = bytes([203, 0, 113, 1]) + bytes(12)
CLIENT = bytes([198, 51, 100, 66]) + bytes(12)
ENDS = frozenset({VIP})
KEY = bytes(range(20))


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(payload: bytes, kind: int = 0x10) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, 2, 1, 0) + payload + bytes(-len(payload) % 4)


def aead(key: bytes = KEY) -> bytes:
    """XFRMA_ALG_AEAD of rfc4106(gcm(aes)), 128 bits and salt."""
    return attribute(18, b"rfc4106(gcm(aes))".ljust(64, b"\0") + struct.pack("=II", 160, 128) + key)


def encapsulation(port: int) -> bytes:
    """XFRMA_ENCAP: struct xfrm_encap_tmpl, to 4500."""
    return attribute(4, struct.pack("=H", 2) + struct.pack(">HH", port, 4500) + bytes(18))


def sa_payload(
    *, spi: int = 0x1234, inbound: bool = True, client: bytes = CLIENT, vip: bytes = VIP, mode: int = 1, flags: int = 0,
    reqid: int = 7, key: bytes = KEY, numbers: bytes = bytes(4), port: int | None = 1024, window: int = 2048,
    attributes: bytes | None = None, selector: bytes = bytes(56),
) -> bytes:  # fmt: skip
    """XFRM_MSG_NEWSA: struct xfrm_usersa_info and attributes."""
    destination, source = (vip, client) if inbound else (client, vip)
    info = (
        selector
        + destination + spi.to_bytes(4) + b"\x32" + bytes(3)
        + source
        + b"\xff" * 64  # lifetimes
        + (numbers * 8)[:32]  # lifetime, used up
        + (numbers * 3)[:12]  # statistics
        + numbers + struct.pack("=IHBBB7x", reqid, 2, mode, 0, flags)
    )  # fmt: skip
    assert len(info) == 224
    if attributes is None:
        counted = numbers * 4
        replay = struct.pack("=I", window // 32) + counted + struct.pack("=I", window) + (numbers * (window // 32))
        attributes = aead(key) + (b"" if port is None else encapsulation(port)) + attribute(23, replay)
        attributes += attribute(15, numbers * 2)  # when it was used last
    return info + attributes


def policy_payload(
    *, inner: int = 1, direction: int = 1, client: bytes = CLIENT, priority: int = 371327, reqid: int = 7, index: int = 9,
    template: bool = True, template_first: bool = True, attributes: bytes = b"", ifindex: int = 0,
) -> bytes:  # fmt: skip
    """XFRM_MSG_NEWPOLICY: struct xfrm_userpolicy_info and attributes."""
    selector = bytes(16) + inner.to_bytes(16) + bytes(8) + struct.pack("=HBB", 2, 0, 32) + bytes(4)
    info = selector + struct.pack("=iI", ifindex, 0) + b"\xff" * 64 + bytes(32)
    info += struct.pack("=IIBBBB4x", priority, index, direction, 0, 0, 0)
    assert len(info) == 168
    destination, source = (client, VIP) if direction == 1 else (VIP, client)
    there = destination + bytes(4) + b"\x32" + bytes(3) + struct.pack("=H2x", 2) + source
    there += struct.pack("=IBBBxIII", reqid, 1, 0, 0, *[0xFFFF_FFFF] * 3)
    assert len(there) == 64
    tmpl = attribute(5, there) if template else b""
    return info + (tmpl + attributes if template_first else attributes + tmpl)
