"""A lab's management root, and what each machine has of it that is spoken to: what operators do with `anycast pki`, at once.

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


def machines(fleet: Fleet) -> Iterator[tuple[str, str, Role]]:
    """Node, name and role of each machine that shows another one who it is: gateways that have another one to speak to by a
    management network, or a coordinator; and that."""
    for site in fleet.sites.values():
        paired = len(site.gateways) == 2 and all(gateway.management is not None for gateway in site.gateways.values())
        if paired or fleet.coordinator is not None:
            yield from ((name, name, Role.GATEWAY) for name in site.gateways)
    if fleet.coordinator is not None and fleet.lab is not None and fleet.lab.coordinator is not None:
        yield fleet.lab.coordinator.node, fleet.coordinator.name, Role.COORDINATOR


def write(fleet: Fleet, lab_dir: Path) -> None:
    """Make the root and a certificate for every one of `machines`; nothing where there is none. Raises AnycastError."""
    if not (wanted := list(machines(fleet))):
        return
    root, now = RootFolder(lab_dir / ROOT), datetime.datetime.now(datetime.UTC)
    root.init(fleet.fleet, now, LIFETIME.days, None)
    for node, name, role in wanted:
        machine = MachineFolder(lab_dir / node / "etc" / "pki")
        request = certificates.pem(machine.request(name, role))
        signed = root.issue(name, role, request, now, LIFETIME.days, None, renew=False)
        machine.install(certificates.pem(signed, root.root, root.revocations))
