"""One examination: look at every topic, judge what was seen, say what could not be. Changes nothing.

document, /proc, files, VICI, nft ──▶ read/*.py ──▶ typed readings ──▶ judge/*.py (pure) ──▶ findings
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from anycast.document import Document
from site_agent.doctor.finding import Finding, Severity, Unseen
from site_agent.doctor.judge import bgp as judge_bgp
from site_agent.doctor.judge import certificates, charon, clock, connections, firewall, kernel, routes, services
from site_agent.doctor.judge import sync as judge_sync
from site_agent.doctor.judge import vrrp as judge_vrrp
from site_agent.doctor.read import certificates as read_certificates
from site_agent.doctor.read.bgp import read_bgp, speaks_bgp
from site_agent.doctor.read.clock import read_clock
from site_agent.doctor.read.firewall import read_firewall
from site_agent.doctor.read.kernel import read_conntrack, read_esp, read_files, read_settings
from site_agent.doctor.read.patient import DEFAULT_CONF, DEFAULT_SWANCTL, Patient, meet
from site_agent.doctor.read.routes import Links, clients_of, families_of, pools_of, read_links, read_routes
from site_agent.doctor.read.services import read_hostname, read_profiles, read_services
from site_agent.doctor.read.sight import Sight
from site_agent.doctor.read.sync import read_sync
from site_agent.doctor.read.vrrp import read_vrrp
from site_agent.paths import Paths
from site_agent.procfs import started_at
from site_agent.render.sysctl import IPV6_FORWARDING, settings_of

DEFAULT_SOCKET = Paths().control_socket
_SWANCTL = re.compile(r"(^|&& )swanctl ")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What it came to."""

    pids: tuple[int, ...]
    """charons of our network namespace."""
    uncertain: tuple[int, ...]
    """charons of which it could not be told whose they are."""
    gateway: str
    """The document's; empty without one."""
    findings: tuple[Finding, ...]
    """Worst first."""
    unseen: tuple[Unseen, ...]

    @property
    def exit_status(self) -> int:
        """0 nothing is wrong, 1 something is, 2 nothing wrong was seen, but for a missing privilege not all was."""
        if any(finding.severity is Severity.WRONG for finding in self.findings):
            return 1
        return 2 if any(missed.needs for missed in self.unseen) else 0


def examine(
    *,
    document: Document | None,
    source: str,
    etc_dir: Path,
    vici: str | None,
    unseen: Iterable[Unseen] = (),
    control_socket: Path = DEFAULT_SOCKET,
) -> Examination:
    """Look at this machine. `source` is the fleet file that the document was made of; `unseen` was missed before;
    `control_socket` is where its agent listens."""
    sight = Sight()
    sight.unseen += unseen
    patient = asyncio.run(meet(sight, document=document, source=source, etc_dir=etc_dir, vici=vici))
    findings = [_with_environment(finding, patient) for finding in _findings(sight, patient, control_socket)]
    return Examination(
        pids=patient.pids,
        uncertain=patient.uncertain,
        gateway="" if document is None else document.gateway,
        findings=tuple(sorted(findings, key=lambda finding: finding.severity.rank)),
        unseen=tuple(sight.unseen),
    )


def _findings(sight: Sight, patient: Patient, control_socket: Path) -> Iterator[Finding]:
    links = read_links(patient)
    for name in links.missing:
        sight.miss(f"settings, routes and MTU of {name}: there is no such interface")
    yield from _kernel(sight, patient, links)
    yield from routes.judge(read_routes(sight, patient, links))
    sessions = read_bgp(sight, patient)
    rules = read_firewall(sight, patient, bgp=speaks_bgp(patient, sessions))
    if rules is not None:
        yield from firewall.judge(rules)
    if (time := read_clock(sight)) is not None:
        yield from clock.judge(time)
    identities, roots = read_certificates.read_identities(sight, patient)
    secrets = read_certificates.read_secrets(sight, patient)
    yield from certificates.judge(identities, roots, secrets, read_certificates.utc_now())
    connected = _connections(patient)
    yield from _charon(patient)
    if connected is not None:
        yield from connections.judge(connected)
    yield from services.judge(read_services(sight, patient))
    yield from services.judge_profiles(read_profiles(sight, patient))
    if sessions is not None:
        yield services.judge_hostname(read_hostname())
        yield from judge_bgp.judge(sessions)
    if (router := read_vrrp(sight, patient.document, control_socket)) is not None:
        yield from judge_vrrp.judge(router)
    now = read_certificates.utc_now()
    if (mirror := read_sync(sight, patient, connected, now=now)) is not None:
        yield from judge_sync.judge(mirror, now)


def _kernel(sight: Sight, patient: Patient, links: Links) -> Iterator[Finding]:
    if links.uplink:
        mirrored = patient.document is not None and patient.document.sync is not None
        wanted = settings_of(links.uplink, links.inside or links.uplink, mirrored=mirrored)
        if not any(":" in prefix for _, prefix in pools_of(patient)):
            # Clients that get no IPv6 address have no packet of it to be forwarded.
            wanted = tuple(setting for setting in wanted if setting.name != IPV6_FORWARDING)
        readings = read_settings(sight, wanted)
        yield from kernel.judge_settings(readings, planned=patient.document is not None)
    else:
        sight.miss("which interface is the uplink: there is no default route and no document")
    if (table := read_conntrack(sight, clients_of(patient))) is not None:
        yield from kernel.judge_conntrack(table)
    lab = patient.document is not None and patient.document.environment == "lab"
    if (esp := read_esp(sight, families_of(patient), lab=lab)) is not None:
        yield kernel.judge_esp(esp)
    if patient.pid is not None and (files := read_files(sight, patient.pid)) is not None:
        yield kernel.judge_files(files)


def _charon(patient: Patient) -> Iterator[Finding]:
    answers, conf = patient.answers, patient.conf
    if conf is not None:
        began = None if patient.pid is None else started_at(patient.pid)
        yield from charon.judge(
            charon.CharonReading(
                settings=conf.settings,
                file=str(conf.file),
                drop_in=conf.drop_in,
                plugins=answers.plugins if answers is not None else frozenset(),
                clients=clients_of(patient),
                changed_after_start=began is not None and conf.newest > began,
            )
        )


def _connections(patient: Patient) -> connections.ConnectionsReading | None:
    answers, swanctl = patient.answers, patient.swanctl
    if answers is None and swanctl is None:
        return None
    return connections.ConnectionsReading(
        connections=answers.connections if answers is not None else (),
        traps=answers.traps if answers is not None else frozenset(),
        swanctl=swanctl.settings if swanctl is not None else None,
        swanctl_file=str(swanctl.file) if swanctl is not None else str(DEFAULT_SWANCTL / "swanctl.conf"),
        drop_in=swanctl.drop_in if swanctl is not None else "",
        settings=patient.settings,
        vips=frozenset(patient.vips),
        planned=patient.document is not None,
    )


def _with_environment(finding: Finding, patient: Patient) -> Finding:
    """swanctl finds another socket and folder than Debian's only by its environment."""
    words = []
    if patient.conf is not None and patient.conf.file != DEFAULT_CONF:
        words.append(f"STRONGSWAN_CONF={patient.conf.file}")
    if patient.swanctl is not None and patient.swanctl.file.parent != DEFAULT_SWANCTL:
        words.append(f"SWANCTL_DIR={patient.swanctl.file.parent}")
    if not words:
        return finding
    prefix = " ".join(words)
    return dataclasses.replace(finding, mend=tuple(_SWANCTL.sub(rf"\1{prefix} swanctl ", line) for line in finding.mend))
