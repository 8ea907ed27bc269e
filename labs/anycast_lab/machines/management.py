"""A lab's management root, and what each gateway of a pair has of it: what operators do with `anycast pki`, done at once.

    lab_dir/.management/          the root's folder, as docs/pki.md has it; no node can be named so, and none sees it
    lab_dir/NODE/etc/pki/         the machine's: /etc/anycast/pki in the node, mode 700

Each key is made in its own machine's folder and nowhere else. All of it is gone with the lab.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

from anycast.fleet.schema import Fleet
from anycast.pki import certificates
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Role
from anycast.pki.root_folder import RootFolder

ROOT = ".management"
LIFETIME = datetime.timedelta(days=90)
"""Longer than the alarm of a certificate that ends soon (`sync.channel.EXPIRING_DAYS`)."""


def of_pairs(fleet: Fleet) -> Iterator[str]:
    """The gateways that have another one to speak to, by a management network."""
    for site in fleet.sites.values():
        if len(site.gateways) == 2 and all(gateway.management is not None for gateway in site.gateways.values()):
            yield from site.gateways


def write(fleet: Fleet, lab_dir: Path) -> None:
    """Make the root and a certificate for every gateway of `of_pairs`; nothing where there is none. Raises AnycastError."""
    if not (names := list(of_pairs(fleet))):
        return
    root, now = RootFolder(lab_dir / ROOT), datetime.datetime.now(datetime.UTC)
    root.init(fleet.fleet, now, LIFETIME.days, None)
    for name in names:
        machine = MachineFolder(lab_dir / name / "etc" / "pki")
        request = certificates.pem(machine.request(name, Role.GATEWAY))
        signed = root.issue(name, Role.GATEWAY, request, now, LIFETIME.days, None, renew=False)
        machine.install(certificates.pem(signed, root.root, root.revocations))
