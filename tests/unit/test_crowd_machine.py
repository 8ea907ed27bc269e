"""A crowd's machine: every member is somebody else, and what charon is told of each is the documented profile."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cryptography import x509

from anycast.fleet.checks import check
from anycast.fleet.loading import load
from anycast_lab import topology
from anycast_lab.machines import client_profile, prepare, wiring

PATH = Path(__file__).resolve().parents[2] / "labs" / "topologies" / "site-pair.clab.yml"
FLEET = load(prepare.fleet_file(PATH))
LOOSE = {"start_action", "dpd_delay"}
"""Where a crowd differs from docs/clients.md, and says why."""


def test_each_member_has_a_name_a_certificate_and_a_key_of_its_own(tmp_path: Path) -> None:
    prepare.prepare(topology.load(PATH), tmp_path)
    etc = tmp_path / "crowd" / "etc"
    told = json.loads((etc / client_profile.CROWD_FILE).read_text())
    assert FLEET.lab is not None
    assert len(told) == FLEET.lab.crowds["crowd"].members
    keys = set()
    for name, connection in list(told.items())[:20]:
        path = etc / Path(connection["local"]["certs"]).relative_to("/etc/anycast")
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [connection["local"]["id"]] == [f"{name}.clients.vpn.example.org"]
        assert path.with_suffix(".key").stat().st_mode & 0o777 == 0o600
        keys.add(path.with_suffix(".key").read_bytes())
    assert len(keys) == 20


def test_so_many_as_are_dual_ask_for_both_families_and_the_others_for_ipv6() -> None:
    assert FLEET.lab is not None
    crowd = FLEET.lab.crowds["crowd"]
    asked = [member.inner for member in client_profile.members(FLEET, "crowd", crowd)]
    assert asked == [("0.0.0.0", "::")] * crowd.dual + [("::",)] * (crowd.members - crowd.dual)


def test_a_member_has_the_profile_of_every_other_client() -> None:
    assert FLEET.lab is not None
    crowd = client_profile.render_crowd(FLEET, "crowd", FLEET.lab.crowds["crowd"])
    told = json.loads(crowd[client_profile.CROWD_FILE])["crowd-0001"]
    client = client_profile.render_client(FLEET, FLEET.lab.clients["direct"], "crowd-0001.clients.vpn.example.org")
    written = dict(re.findall(r"^ +(\w+) = (.*)$", client["swanctl/swanctl.conf"], re.MULTILINE))
    flat = {key: value for part in (told, *told["children"].values()) for key, value in part.items() if key not in LOOSE}
    for key, value in flat.items():
        if isinstance(value, str) and key != "rekey_time":
            assert written[key] == value, key
        elif isinstance(value, list):
            assert written[key] == ", ".join(value), key
    assert (told["rekey_time"], told["children"]["vpn"]["rekey_time"]) == ("4h", "1h")
    assert crowd["strongswan.conf"].replace("            ike_name = yes\n", "") == client["strongswan.conf"].replace(
        "crowd-0001.clients.vpn.example.org", "crowd"
    )


def test_a_crowd_stands_behind_a_machine_that_exists_and_on_a_subnet_of_its_own() -> None:
    assert FLEET.lab is not None
    crowd = FLEET.lab.crowds["crowd"]
    for changed, said in (
        ({"behind": "nobody"}, "nobody is neither the transit"),
        ({"ipv4": FLEET.lab.clients["direct"].ipv4}, "overlaps"),
    ):
        lab = FLEET.lab.model_copy(update={"crowds": {"crowd": crowd.model_copy(update=changed)}})
        found = [finding.what for finding in check(FLEET.model_copy(update={"lab": lab}))]
        assert any(said in message for message in found), (changed, found)


def test_a_crowd_is_a_client_to_its_router_and_no_client_to_a_drill() -> None:
    plans = wiring.plan(FLEET, prepare.cables(topology.load(PATH)))
    assert plans["crowd"].role == "crowd"
    assert ("eth5", "198.51.100.97/28") in plans["transit"].addresses
    assert FLEET.lab is not None
    assert "crowd" not in FLEET.lab.clients
