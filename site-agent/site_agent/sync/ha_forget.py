"""Codec of two messages of strongSwan's `ha` plugin that a Backup says to its own charon: forget this SA.

A charon that is PASSIVE obeys nobody about its SAs but the plugin, and the message that ended one may have been lost with
the channel. So the digests' shell says it again, on loopback, as the Active's are handed over. Nothing goes to a client, and
nothing to the Active (ha_dispatcher.c: process_ike_delete, process_child_delete; measured with strongSwan 5.9.8).

    version (1)  IKE_DELETE (1)    IKE_ID (1)  ike_sa_id (18)
    version (1)  CHILD_DELETE (1)  IKE_ID (1)  ike_sa_id (18)  INBOUND_SPI (1)  SPI (4)

ike_sa_id is the IKE version (1), both SPIs as in the IKE header (8 each), and whether this charon was the initiator (1).
An ESP SPI is in the order that `ha_wire` tells of.
"""

from __future__ import annotations

from site_agent.sync.ha_wire import HA_IKE_ID, HA_INBOUND_SPI, MessageType

IKE_VERSION = 2


def encode_ike_delete(version: int, spis: bytes, initiator: bool) -> bytes:
    """`version`: of the plugin's protocol, as our charon speaks it. `spis`: 16 bytes, the initiator's first."""
    return bytes([version, MessageType.IKE_DELETE]) + ike_id(spis, initiator)


def encode_child_delete(version: int, spis: bytes, initiator: bool, spi_in: bytes) -> bytes:
    """`spi_in`: four bytes in network order."""
    head = bytes([version, MessageType.CHILD_DELETE])
    return head + ike_id(spis, initiator) + bytes([HA_INBOUND_SPI]) + spi_in[::-1]


def ike_id(spis: bytes, initiator: bool) -> bytes:
    return bytes([HA_IKE_ID, IKE_VERSION]) + spis + bytes([initiator])
