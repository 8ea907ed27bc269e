"""Every rendered file, compared with the one that was read and agreed to, and what may never be rendered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePath

import pytest

from anycast.document import Document
from anycast.errors import ConfigError
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import load
from anycast_lab.machines import client_profile
from site_agent.render.exabgp import MAX_MD5_KEY, render_exabgp
from site_agent.render.nftables import render_nftables
from site_agent.render.strongswan import render_strongswan, strongswan_links
from site_agent.render.sysctl import render_sysctl
from tests.support.documents import TREE, TWO_SITE, document

GOLDEN = TREE / "tests" / "golden"
Golden = Callable[[Path, str], None]
KEY_FILE = "/etc/anycast/secrets/bgp-fra-rtr.key"


def changed(made: Document, *path: str | int, to: object) -> Document:
    """`made` with the value at `path` replaced."""
    data = made.model_dump(mode="json")
    here = data
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = to
    return Document.model_validate(data)


def pair(fleet: str, gateway: str) -> Document:
    return compile_gateway(load(TREE / "tests" / "data" / f"{fleet}.fleet.yaml"), gateway)


def exabgp(made: Document, key: bytes = b"a key; with } syntax\n in it") -> str:
    return render_exabgp(
        made,
        python="/opt/anycast/.venv/bin/python",
        socket_path="/run/site-agent/bridge/lease.sock",
        md5_keys={KEY_FILE: key},
    )


@pytest.mark.parametrize("gateway", ["fra-gw1", "sin-gw1"])
def test_gateway_files_are_the_golden_ones(gateway: str, golden: Golden) -> None:
    made = document(gateway)
    files = render_strongswan(made, run_dir=PurePath("/run/site-agent"))
    files |= {"exabgp.conf": exabgp(made), "sysctl.conf": render_sysctl(made), "nftables.conf": render_nftables(made)}
    files["document.json"] = json.dumps(made.model_dump(mode="json"), indent=2) + "\n"
    for name, text in files.items():
        golden(GOLDEN / gateway / name, text)


@pytest.mark.parametrize(
    ("fleet", "gateway"),
    [
        ("pair", "fra-gw1"),
        ("pair-mirrored", "fra-gw2"),
        ("pair-routed", "fra-gw2"),
        ("pair-without-bgp", "gw1"),
        ("beside-keepalived", "gw1"),
    ],
)
def test_files_of_pairs_are_the_golden_ones(fleet: str, gateway: str, golden: Golden) -> None:
    made = pair(fleet, gateway)
    files = {"sysctl.conf": render_sysctl(made), "nftables.conf": render_nftables(made)}
    if made.bgp.neighbors:
        files["exabgp.conf"] = exabgp(made)
    if made.sync is not None:
        files |= render_strongswan(made, run_dir=PurePath("/run/site-agent"))
    files["document.json"] = json.dumps(made.model_dump(mode="json"), indent=2) + "\n"
    for name, text in files.items():
        golden(GOLDEN / fleet / gateway / name, text)


def test_charon_is_told_to_leave_the_way_to_the_other_gateway_alone() -> None:
    def ignored(made: Document) -> list[str]:
        text = render_strongswan(made, run_dir=PurePath("/run"))["strongswan.conf"]
        return [line.split(" = ")[1] for line in text.splitlines() if line.startswith("    interfaces_ignore")]

    assert ignored(pair("pair", "fra-gw1")) == ["eth2, eth3"], "inside and management"
    assert ignored(pair("pair-without-bgp", "gw1")) == ["eth2"]


@pytest.mark.parametrize("client", ["direct", "roamer"])
def test_client_files_are_the_golden_ones(client: str, golden: Golden) -> None:
    fleet = load(TWO_SITE)
    assert fleet.lab is not None
    files = client_profile.render_client(fleet, fleet.lab.clients[client], f"{client}.clients.vpn.example.org")
    for name, text in files.items():
        golden(GOLDEN / client / name, text)


def test_rendering_twice_gives_the_same() -> None:
    assert exabgp(document()) == exabgp(document())


@pytest.mark.parametrize("bad", ["vpn\n}", "vpn;", "vpn # x", 'vpn"', "vpn\\", "vpn{", "vpn\0", "vpn\u2028"])
def test_a_documents_text_cannot_end_its_own_place(bad: str) -> None:
    # A document is a machine's message, so the fleet file's own strictness does not protect here.
    made = changed(document(), "service", "identity", to=bad)
    with pytest.raises(ConfigError, match="cannot stand in a configuration file"):
        render_strongswan(made, run_dir=PurePath("/run"))
    made = changed(document(), "bgp", "neighbors", 0, "name", to=bad)
    with pytest.raises(ConfigError):
        exabgp(made)
    with pytest.raises(ConfigError):
        render_sysctl(changed(document(), "uplink", "name", to=bad))


@pytest.mark.parametrize(("key", "length"), [(b"", 0), (b"x" * (MAX_MD5_KEY + 1), 81)])
def test_a_key_that_the_kernel_would_refuse_is_refused(key: bytes, length: int) -> None:
    with pytest.raises(ConfigError) as caught:
        exabgp(document(), key)
    assert [str(problem) for problem in caught.value.problems] == [
        f"bgp.neighbors.fra-rtr-ipv4: {KEY_FILE} holds a key of {length} bytes; 1 to 80 are needed",
        f"bgp.neighbors.fra-rtr-ipv6: {KEY_FILE} holds a key of {length} bytes; 1 to 80 are needed",
    ]


def test_without_gtsm_and_md5_their_lines_are_absent() -> None:
    text = exabgp(document("sin-gw1"))
    assert "ttl" not in text and "md5" not in text
    text = exabgp(document("fra-gw1"))
    assert text.count("incoming-ttl 255;") == text.count("md5-base64 enable;") == 2


def test_encapsulation_can_be_left_to_nat_detection() -> None:
    made = changed(document(), "service", "force_encapsulation", to=False)
    text = render_strongswan(made, run_dir=PurePath("/run"))["swanctl/swanctl.conf"]
    assert "encap = no" in text
    assert "encap = yes" in render_strongswan(document(), run_dir=PurePath("/run"))["swanctl/swanctl.conf"]


def test_resolvers_go_with_every_pool() -> None:
    made = changed(document(), "service", "dns", to=["192.0.2.10"])
    text = render_strongswan(made, run_dir=PurePath("/run"))["swanctl/swanctl.conf"]
    assert text.count("dns = 192.0.2.10") == len(made.service.pools)


def test_the_private_key_is_linked_not_copied() -> None:
    assert strongswan_links(document()) == {"swanctl/private/gateway.key": "/etc/anycast/secrets/gateway.key"}
