"""Every gateway of a lab's pair can show the other one who it is, and nobody else in the lab has anything of it."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest

from anycast.pki import certificates
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from anycast.pki.trust import Accepted, judge
from anycast_lab.machines import management, prepare
from anycast_lab.topology import definitions, load

TOPOLOGIES = Path(__file__).resolve().parents[2] / "labs" / "topologies"
PAIRS = {"two-site-pairs": ["fra-gw1", "fra-gw2", "sin-gw1", "sin-gw2"], "site-pair": ["gw1", "gw2"]}


def prepared(name: str, folder: Path) -> None:
    prepare.prepare(load(TOPOLOGIES / f"{name}.clab.yml"), folder)


@pytest.fixture(params=PAIRS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    prepared(request.param, tmp_path)
    return request.param, tmp_path


def test_each_gateway_is_accepted_by_each_other_one(lab: tuple[str, Path]) -> None:
    name, folder = lab
    now, machines = datetime.datetime.now(datetime.UTC), [MachineFolder(folder / gw / "etc/pki") for gw in PAIRS[name]]
    for machine, gateway in zip(machines, PAIRS[name], strict=True):
        assert machine.own().identity == Identity(name, Role.GATEWAY, gateway)
        for other in machines:
            found = judge(certificates.der(machine.own().certificate), other.own().trust, machine.own().identity, None, now)
            assert isinstance(found, Accepted), found


def test_files_and_modes_are_those_of_the_documentation(lab: tuple[str, Path]) -> None:
    name, folder = lab
    for gateway in PAIRS[name]:
        pki = folder / gateway / "etc" / "pki"
        assert stat.S_IMODE(pki.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in pki.iterdir()}
        assert modes == {"identity.pem": 0o600, "roots.pem": 0o644, "crl.pem": 0o644}


def test_no_key_is_in_a_second_place(lab: tuple[str, Path]) -> None:
    """The root's key in the root's folder, each gateway's in its own `etc/pki`, and no request's key anywhere."""
    name, folder = lab
    holders = {}
    for path in folder.rglob("*.pem"):
        if b"PRIVATE KEY" in path.read_bytes():
            holders[str(path.relative_to(folder))] = path.read_bytes()
    assert set(holders) == {f"{gateway}/etc/pki/identity.pem" for gateway in PAIRS[name]}
    assert len(set(holders.values())) == len(holders)
    root = folder / management.ROOT
    assert stat.S_IMODE(root.stat().st_mode) == 0o700 and stat.S_IMODE((root / "root.key").stat().st_mode) == 0o600
    assert [path for path in folder.rglob("root.key")] == [root / "root.key"]


@pytest.mark.parametrize("name", ["two-site", "pair", "lone-gateways"])
def test_where_nobody_is_spoken_to_there_is_no_root(name: str, tmp_path: Path) -> None:
    prepared(name, tmp_path)
    assert not (tmp_path / management.ROOT).exists() and not list(tmp_path.glob("*/etc/pki"))


def test_no_node_can_have_the_roots_folder_as_its_own() -> None:
    assert definitions.NAME.fullmatch(management.ROOT) is None


def test_coordinator_and_gateways_believe_each_other_by_their_roles(tmp_path: Path) -> None:
    prepared("six-site", tmp_path)
    now = datetime.datetime.now(datetime.UTC)
    coordinator = MachineFolder(tmp_path / "coord/etc/pki").own()
    assert coordinator.identity == Identity("six-site", Role.COORDINATOR, "coord")
    for site in ("fra", "sin", "ams", "lon", "nyc", "tyo"):
        gateway = MachineFolder(tmp_path / f"{site}-gw1/etc/pki").own()
        assert gateway.identity == Identity("six-site", Role.GATEWAY, f"{site}-gw1")
        for one, other in ((gateway, coordinator), (coordinator, gateway)):
            found = judge(certificates.der(one.certificate), other.trust, one.identity, None, now)
            assert isinstance(found, Accepted), found
    assert {path.parent.parent.parent.name for path in tmp_path.glob("*/etc/pki/identity.pem")} == {
        "coord", *(f"{site}-gw1" for site in ("fra", "sin", "ams", "lon", "nyc", "tyo"))
    }  # fmt: skip
