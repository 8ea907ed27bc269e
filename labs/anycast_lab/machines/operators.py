"""A lab's operator: what somebody does with `anycast operator` before the first content, at once.

    lab_dir/COORD/etc/operator/alice.key   /etc/anycast/operator: her folder, mode 700, at the coordinator's machine
    lab_dir/COORD/etc/fleet.yaml           what she plans from
    lab_dir/NODE/etc/operators.json        the list, at the coordinator and every gateway

In production the key is on no machine of the fleet (docs/content.md); a lab has no other machine for her. It is not
encrypted, and gone with the lab.
"""

from __future__ import annotations

from pathlib import Path

from anycast.content import signature
from anycast.content.operators import Operator, none_yet
from anycast.fleet.schema import Fleet
from anycast.pki import files

NAME = "alice"
FOLDER = "operator"
KEYS = f"/etc/anycast/{FOLDER}"
"""Of `--dir` and ANYCAST_OPERATOR, at the coordinator's machine."""
FLEET_FILE = "/etc/anycast/fleet.yaml"


def signs(fleet: Fleet) -> str | None:
    """The machine where contents are signed; None where the fleet takes none: it has no coordinator or no budget."""
    if fleet.lab is None or fleet.lab.coordinator is None or fleet.budget is None:
        return None
    return fleet.lab.coordinator.node


def write(fleet: Fleet, fleet_path: Path, lab_dir: Path) -> None:
    """Make the key and the list that trusts it; nothing where the fleet takes no contents."""
    if (node := signs(fleet)) is None:
        return
    key, home = signature.new_key(), lab_dir / node / "etc"
    operator = Operator(name=NAME, public=signature.public_of(key))
    files.make_folder(home / FOLDER)
    files.write(home / FOLDER / f"{NAME}.key", signature.key_pem(key, None), files.SECRET)
    files.write(home / FOLDER / f"{NAME}.pub", operator.line.encode() + b"\n", files.PUBLIC)
    files.write(home / "fleet.yaml", fleet_path.read_bytes(), files.PUBLIC)
    trusted = none_yet(fleet.fleet).trusting(operator)
    gateways = [name for site in fleet.sites.values() for name in site.gateways]
    for each in (node, *gateways):
        files.write(lab_dir / each / "etc" / "operators.json", trusted.data, files.PUBLIC)
