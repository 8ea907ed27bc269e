"""The configuration of an observer's ExaBGP: sessions that hear everything and say nothing. Pure."""

from __future__ import annotations

from anycast.fleet.observer import Observer

HOLD_TIME_S = 9
"""A router that is gone is unknown after that; three keepalives, as the lab's gateways have it."""


def render(observer: Observer, relay: tuple[str, ...]) -> str:
    """`relay`: the command that ExaBGP starts; its words come from us, and are quoted."""
    words = " ".join(f'"{word}"' for word in relay)
    text = f"process relay {{\n    run {words};\n    encoder json;\n    respawn false;\n}}\n"
    for peer in observer.peers:
        families = "\n        ".join(f"{family} unicast;" for family in peer.families)
        text += f"""
neighbor {peer.address} {{
    router-id {observer.router_id};
    local-address {peer.local_address};
    local-as {observer.asn};
    peer-as {peer.asn};
    hold-time {HOLD_TIME_S};
    adj-rib-out false;
    adj-rib-in false;

    family {{
        {families}
    }}

    capability {{
        asn4 enable;
        add-path receive;
        graceful-restart disable;
        route-refresh disable;
    }}

    api {{
        processes [ relay ];
        neighbor-changes;
        receive {{
            parsed;
            update;
        }}
    }}
}}
"""
    return text
