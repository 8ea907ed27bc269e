"""Reads what `judge/firewall.py` judges: nftables' rules as nft lists them, and whether the older ip_tables has any."""

from __future__ import annotations

import json

from site_agent.doctor.judge.firewall import FirewallReading
from site_agent.doctor.judge.nft_rules import Ruleset
from site_agent.doctor.read.patient import Patient
from site_agent.doctor.read.routes import families_of
from site_agent.doctor.read.sight import Sight
from site_agent.untracking import advertisements, of_the_mirror

_LEGACY = ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")
"""Names of tables; empty, or not there, where the older iptables has never been used."""


def read_firewall(sight: Sight, patient: Patient, *, bgp: bool) -> FirewallReading | None:
    """None where the rules cannot be listed."""
    listed = sight.answer_of(["nft", "--json", "list", "ruleset"], needs="CAP_NET_ADMIN")
    if listed is None:
        sight.miss("firewall rules are not judged: `nft` gives no list of them")
        return None
    try:
        ruleset = Ruleset(json.loads(listed))
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        sight.miss(f"firewall rules are not judged: nft's list cannot be understood: {exc!r}")
        return None
    legacy = any(sight.text_of(path) for path in _LEGACY)
    document = patient.document
    rendered = patient.etc_dir / "nftables.conf"
    return FirewallReading(
        vips=patient.vips,
        sessions=() if document is None else tuple((n.address, n.local_address) for n in document.bgp.neighbors),
        bfd=()
        if document is None
        else tuple((n.address, n.local_address) for n in document.bgp.neighbors if n.bfd is not None),
        vrrp=() if document is None else advertisements(document),
        mirror=() if document is None else tuple(of_the_mirror(document)),
        rendered=str(rendered) if document is not None and rendered.exists() else "",
        ruleset=ruleset,
        legacy=legacy,
        families=tuple({4: "ip", 6: "ip6"}[family] for family in families_of(patient)),
        bgp=bgp,
        charon_clamps=patient.settings.number("charon.plugins.kernel-netlink.mss", 0) > 0,
    )
