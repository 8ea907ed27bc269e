"""Reads what `judge/sync.py` judges: the machine's own management identity, and what charon says of itself.

The private key is loaded as the channel would load it, and forgotten; nothing of it is kept or shown.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from anycast.errors import ConfigError
from anycast.pki import certificates
from anycast.pki.machine_folder import DEFAULT, MachineFolder
from anycast.pki.names import Identity, Role
from anycast.pki.trust import Accepted, judge
from site_agent.doctor.judge.connections import ConnectionsReading
from site_agent.doctor.judge.sync import IdentityReading, SyncReading
from site_agent.doctor.read.patient import Patient
from site_agent.doctor.read.sight import Sight
from site_agent.sync import identity


def read_sync(
    sight: Sight, patient: Patient, connections: ConnectionsReading | None, *, now: datetime.datetime, folder: Path = DEFAULT
) -> SyncReading | None:
    """None where the site has no mirror."""
    document, answers = patient.document, patient.answers
    if document is None or document.sync is None:
        return None
    return SyncReading(
        gateway=document.gateway,
        peer=document.sync.peer,
        identity=read_identity(sight, folder, Identity(document.fleet, Role.GATEWAY, document.gateway), now),
        plugins=None if answers is None else answers.plugins,
        version="" if answers is None else answers.version,
        connections=connections,
    )


def read_identity(sight: Sight, folder: Path, me: Identity, now: datetime.datetime) -> IdentityReading | None:
    """As the sync process will read it; None where it may not be looked at."""
    machine = MachineFolder(folder)
    try:
        installed = machine.identity_file.exists()
        permitted = not installed or os.access(machine.identity_file, os.R_OK, effective_ids=True)
    except PermissionError:
        installed, permitted = False, False
    if not permitted:
        sight.miss(f"{folder} may not be read: whether this gateway can prove to the other one who it is", "root")
        return None
    try:
        own = identity.load(machine, me).own
    except ConfigError as exc:
        return IdentityReading(folder=str(folder), problem=str(exc.problems[0]), installed=installed)
    found = judge(certificates.der(own.certificate), own.trust, me, None, now)
    if isinstance(found, Accepted):
        return IdentityReading(folder=str(folder), installed=True, not_after=found.not_after)
    return IdentityReading(folder=str(folder), installed=True, refusal=found.cause, detail=found.detail)
