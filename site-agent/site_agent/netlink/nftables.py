"""Codec of the two questions to nf_tables that are asked at intervals: is this chain there, and has anything changed?
(linux/netfilter/nf_tables.h)"""

from __future__ import annotations

import struct

from anycast.errors import DecodeError

NETLINK_NETFILTER = 12
NFT_MSG_GETCHAIN = 10 << 8 | 4
"""NFNL_SUBSYS_NFTABLES and its message."""
NFT_MSG_GETGEN = 10 << 8 | 16
GET_GENERATION = bytes(4)
"""The payload that asks for the ruleset's generation: struct nfgenmsg, nothing else."""

_NFPROTO_INET = 1
_NFTA_CHAIN_TABLE, _NFTA_CHAIN_NAME = 1, 3
_NFTA_GEN_ID = 1


def encode_get_chain(table: str, chain: str) -> bytes:
    """The payload that asks for `chain` of an inet table; the kernel answers ENOENT where table or chain is missing."""
    header = struct.pack("=BBH", _NFPROTO_INET, 0, 0)  # struct nfgenmsg: family, version, resource
    return header + _text(_NFTA_CHAIN_TABLE, table) + _text(_NFTA_CHAIN_NAME, chain)


def decode_generation(payload: bytes) -> int:
    """The number that every change of any table of this network namespace makes another one. Raises DecodeError."""
    at = 4
    while at + 8 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, at)
        if kind == _NFTA_GEN_ID and length == 8:
            return int.from_bytes(payload[at + 4 : at + 8], "big")
        if length < 4:
            break
        at += (length + 3) & ~3
    raise DecodeError("NFTA_GEN_ID", at)


def _text(kind: int, value: str) -> bytes:
    data = value.encode() + b"\0"
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
