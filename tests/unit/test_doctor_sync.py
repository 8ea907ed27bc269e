"""The doctor on a gateway with a mirror: real certificates in real folders, and what charon would say."""

from __future__ import annotations

import dataclasses
import datetime
import os
import subprocess
from pathlib import Path

import pytest

from anycast.document import Document
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import load
from anycast.pki.names import Role
from site_agent.doctor.finding import Finding
from site_agent.doctor.judge import certificates
from site_agent.doctor.judge.connections import Child, Connection, ConnectionsReading
from site_agent.doctor.judge.sync import KINDS, TRIED, IdentityReading, SyncReading, judge
from site_agent.doctor.read.patient import Answers, Patient
from site_agent.doctor.read.sight import Sight
from site_agent.doctor.read.sync import read_sync
from site_agent.ike.settings_file import parse
from site_agent.sync import channel
from tests.support.documents import TREE
from tests.support.sync_pair import DAY, FLEET, OTHER, Root, now

DOCUMENT = compile_gateway(load(TREE / "tests" / "data" / "pair-mirrored.fleet.yaml"), "fra-gw1")
GOOD = IdentityReading(folder="/etc/anycast/pki", installed=True, not_after=now() + 300 * DAY)


def patient(document: Document | None = DOCUMENT, answers: Answers | None = None) -> Patient:
    made = None if document is None else document.model_copy(update={"fleet": FLEET})
    return Patient(
        document=made, source="", etc_dir=Path("/etc/site-agent"), pids=(), uncertain=(), conf=None, swanctl=None,
        answers=answers, vips=(),
    )  # fmt: skip


def identity(folder: Path, at: datetime.datetime | None = None) -> Finding:
    sight = Sight()
    moment = at or now()
    reading = read_sync(sight, patient(), None, now=moment, folder=folder)
    assert reading is not None and not sight.unseen
    (found,) = judge(reading, moment)
    assert found.id == "sync_identity"
    return found


def test_without_a_mirror_nothing_is_looked_at(tmp_path: Path) -> None:
    plain = DOCUMENT.model_copy(update={"sync": None})
    for document in (None, plain):
        assert read_sync(sight := Sight(), patient(document), None, now=now(), folder=tmp_path) is None and not sight.unseen


def test_a_good_identity_needs_nothing(tmp_path: Path) -> None:
    Root(tmp_path / "root").equip(tmp_path / "pki", "fra-gw1")
    found = identity(tmp_path / "pki")
    assert found.severity == "ok" and not found.mend


def test_one_that_was_never_made_is_wrong(tmp_path: Path) -> None:
    found = identity(tmp_path / "pki")
    assert found.severity == "wrong" and "identity.pem: is not there" in found.seen
    assert found.mend[0].startswith("anycast pki request fra-gw1 >") and "anycast pki issue fra-gw1" in found.mend[0]


@pytest.mark.parametrize("fault", ["mode", "roots", "list", "garbage"])
def test_one_that_cannot_be_believed_is_wrong_until_it_is_made_anew(tmp_path: Path, fault: str) -> None:
    root, folder = Root(tmp_path / "root"), tmp_path / "pki"
    machine = root.equip(folder, "fra-gw1")
    match fault:
        case "mode":
            machine.identity_file.chmod(0o644)
        case "roots":
            machine.roots_file.unlink()
        case "list":
            machine.list_file.unlink()
        case _:
            machine.identity_file.write_bytes(b"garbage")
    found = identity(folder)
    assert found.severity == "wrong" and str(folder) in found.seen and "anycast pki renew fra-gw1" in found.mend[1]
    subprocess.run(["sh", "-c", found.mend[0]], check=True)
    root.equip(folder, "fra-gw1", renew=True)
    assert identity(folder).severity == "ok"


@pytest.mark.parametrize(("name", "role"), [(OTHER, Role.GATEWAY), ("fra-gw1", Role.COORDINATOR)])
def test_another_machines_is_wrong(tmp_path: Path, name: str, role: Role) -> None:
    Root(tmp_path / "root").equip(tmp_path / "pki", name, role=role)
    found = identity(tmp_path / "pki")
    assert found.severity == "wrong" and f"{role} {name}" in found.seen and "this is gateway fra-gw1" in found.seen


def test_a_revoked_one_is_wrong(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    root.revoke("fra-gw1", tell=root.equip(tmp_path / "pki", "fra-gw1"))
    found = identity(tmp_path / "pki")
    assert found.severity == "wrong" and "revoked" in found.seen


@pytest.mark.parametrize(("days", "seen"), [(-5, "has not begun"), (0, ""), (334, ""), (336, "good until"), (370, "ended")])
def test_by_its_time_it_is_risky(tmp_path: Path, days: int, seen: str) -> None:
    """A pair with both ends' certificates over goes on, as long as nothing is made anew."""
    Root(tmp_path / "root", at=now() - 100 * DAY).equip(tmp_path / "pki", "fra-gw1")
    found = identity(tmp_path / "pki", now() + days * DAY)
    assert (found.severity, seen in found.seen) == ("risky" if seen else "ok", True)


def test_the_doctor_warns_when_the_agent_does() -> None:
    assert certificates.SOON.days == channel.EXPIRING_DAYS


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives a folder away")
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_who_may_not_look_says_so(tmp_path: Path, mode: int) -> None:
    Root(tmp_path / "root").equip(tmp_path / "pki", "fra-gw1").path.chmod(mode)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    os.seteuid(65534)
    try:
        reading = read_sync(sight := Sight(), patient(), None, now=now(), folder=tmp_path / "pki")
    finally:
        os.seteuid(0)
    assert reading is not None and reading.identity is None
    assert [missed.needs for missed in sight.unseen] == ["root"]


def reading(**changed: object) -> SyncReading:
    well = SyncReading(
        gateway="fra-gw1", peer="fra-gw2", identity=GOOD, plugins=frozenset({"charon", "ha"}), version=TRIED[0],
        connections=connections(),
    )  # fmt: skip
    return dataclasses.replace(well, **changed)  # type: ignore[arg-type]


def connections(text: str = "", *, traps: tuple[str, ...] = (), remote: str = "%any", **actions: str) -> ConnectionsReading:
    child = Child(
        name="net", dpd_action=actions.get("dpd_action", "clear"), close_action=actions.get("close_action", "none")
    )
    return ConnectionsReading(
        connections=(Connection(name="vpn", local=(), remote=(remote,), children=(child,)),), traps=frozenset(traps),
        swanctl=parse("x", f"connections {{ vpn {{ children {{ net {{ {text}\n }} }} }} }}"),
        swanctl_file="/etc/site-agent/swanctl/swanctl.conf", drop_in="/etc/site-agent/swanctl/conf.d/zz-site-doctor.conf",
        settings=parse("x", ""), vips=frozenset(), planned=True,
    )  # fmt: skip


def bad(**changed: object) -> list[Finding]:
    return [found for found in judge(reading(**changed), now()) if found.severity != "ok"]


def test_a_healthy_mirror_needs_nothing_and_everything_was_looked_at() -> None:
    found = list(judge(reading(), now()))
    assert [(each.id, each.severity.value) for each in found] == [(kind.id, "ok") for kind in KINDS]


def test_what_was_not_seen_is_not_judged() -> None:
    assert not list(judge(reading(identity=None, plugins=None, version="", connections=None), now()))


def test_a_charon_without_the_plugin_is_wrong() -> None:
    (found,) = bad(plugins=frozenset({"charon", "vici"}))
    assert (found.id, found.severity) == ("sync_plugin", "wrong") and "libcharon-extra-plugins" in found.mend[0]


def test_a_version_that_nobody_tried_is_risky() -> None:
    (found,) = bad(version="6.0.1")
    assert (found.id, found.severity, found.seen) == ("sync_version", "risky", "strongSwan 6.0.1; tried with 5.9.8")


@pytest.mark.parametrize("value", ["yes", "auto", "crypto", "packet"])
def test_offload_is_wrong_and_its_mend_turns_it_off(value: str) -> None:
    (found,) = bad(connections=connections(f"hw_offload = {value}"))
    assert (found.id, found.severity, found.seen) == ("sync_offload", "wrong", f"vpn.net: hw_offload = {value}")
    assert found.mend[0].startswith("echo 'connections { vpn { children { net { hw_offload = no } } } }' >> ")
    assert not bad(connections=connections("hw_offload = no"))


@pytest.mark.parametrize(
    ("told", "option", "value"),
    [
        (connections("start_action = start"), "start_action", "start"),
        (connections("start_action = trap"), "start_action", "trap"),
        (connections(traps=("net",)), "start_action", "trap"),
        (connections("start_action = start", remote="198.51.100.77"), "start_action", "start"),
        (connections(close_action="start"), "close_action", "start"),
        (connections(dpd_action="restart"), "dpd_action", "restart"),
    ],
)
def test_what_a_backup_would_begin_too_is_risky(told: ConnectionsReading, option: str, value: str) -> None:
    (found,) = bad(connections=told)
    assert (found.id, found.severity) == ("sync_begins", "risky") and f"net: {option} = {value}" in found.seen
    assert f"{option} = {'clear' if option == 'dpd_action' else 'none'} " in found.mend[0]


def test_where_no_file_is_seen_it_says_that_start_action_is_not_known() -> None:
    told = dataclasses.replace(connections(), swanctl=None)
    assert [f.seen for f in judge(reading(connections=told), now()) if f.id == "sync_begins"] == [
        "vpn only answer; start_action is not known"
    ]
