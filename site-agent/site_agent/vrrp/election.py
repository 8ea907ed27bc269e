"""Who takes over when: the whole table, for two gateways that can hear each other on three paths. Pure.

VRRP knows one path: silence there means that the Active is dead. A pair has more to go by, and a wrong guess costs more: two
Actives share an address, an encryption key, and sequence numbers. So

* a Backup that hears an Active on *any* path never takes over. If it hears it on the management network only, then one of
  the two is cut off from the data networks; the Active decides that, by the proof of its own uplink;
* an Active without proof of its uplink gives way to a peer that says it could serve; without a peer it stops, because on
  a cut-off machine it only answers for an address that the other one may hold by now;
* nobody takes over what it could not serve.

Where no proof of the uplink is asked for (`uplink` is None) there is nothing to prove, and the table is VRRP's own.
"""

from __future__ import annotations

import enum

from site_agent.vrrp.seal import Path


class Role(enum.StrEnum):
    BACKUP = "backup"
    ACTIVE = "active"


class Peer(enum.StrEnum):
    """What the other one says on the best path that it is heard on."""

    SILENT = "silent"
    UNFIT = "unfit"
    """Heard, and says that it could not serve."""
    FIT = "fit"


class Choice(enum.StrEnum):
    STAY = "stay"
    NEGOTIATE = "negotiate"
    """Stay, and leave it to the Active, which is told on which paths it is not heard."""
    TAKE_OVER = "take_over"
    RELEASE = "release"


def choose(role: Role, *, heard: Path, peer: Peer, uplink: bool | None) -> Choice:
    """`heard`: the paths on which a Backup hears an Active that serves, on which an Active hears the other one at all."""
    proven = uplink is not False
    if role is Role.BACKUP:
        if heard:
            return Choice.NEGOTIATE if heard == Path.MANAGEMENT else Choice.STAY
        return Choice.TAKE_OVER if proven else Choice.STAY
    if proven:
        return Choice.STAY
    # Neither could serve: moving the address would only add a transition.
    return Choice.STAY if heard and peer is Peer.UNFIT else Choice.RELEASE
