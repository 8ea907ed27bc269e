"""Client tunnels as charon lists them, made up."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from site_agent.ike.child_sa import ChildSa
from site_agent.netlink.xfrm_keys import make_sa_key

VIP = "203.0.113.1"


def child(number: int, *, ike: str | None = None, rekeying: bool = False, reqid: int | None = None) -> ChildSa:
    """One whose unique id is `number`; by default of an IKE_SA of its own."""
    return ChildSa(
        unique_id=str(number),
        ike_id=str(number) if ike is None else ike,
        connection="vpn",
        child="vpn",
        reqid=number + 1 if reqid is None else reqid,
        sas=(make_sa_key(ip_address(VIP), 50, number), make_sa_key(ip_address("198.51.100.66"), 50, number)),
        policies=frozenset(),
        carrying=True,
        rekeying=rekeying,
    )


def event(local: str = VIP, **fields: Any) -> dict[str, Any]:
    """One `list-sa` event as VICI gives it, shortened to what is read."""
    sa = {
        "name": b"c",
        "uniqueid": b"7",
        "reqid": b"9",
        "state": b"INSTALLED",
        "mode": b"TUNNEL",
        "protocol": b"ESP",
        "spi-in": b"c1",
        "spi-out": b"c2",
        "local-ts": [b"192.0.2.0/28", b"2001:db8:b::/64"],
        "remote-ts": [b"203.0.113.65/32", b"2001:db8:c:1::1/128"],
    }
    children = {"vpn-7": {**sa, **{name.replace("_", "-"): value for name, value in fields.items()}}}
    return {"vpn": {"local-host": local.encode(), "remote-host": b"198.51.100.66", "uniqueid": b"3", "child-sas": children}}
