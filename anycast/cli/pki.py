"""`anycast pki`: the management root of a fleet, and the certificates of its machines (docs/pki.md).

Commands of the operator's machine print what belongs on a gateway to standard output and what people read to standard error,
so that a gateway gets its certificate in one pipeline. A private key is never in an argument, an output or a message.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509

from anycast.cli import passphrase
from anycast.errors import ConfigError, Problem
from anycast.pki import certificates, files
from anycast.pki.certificates import LEAF_DAYS, ROOT_DAYS
from anycast.pki.machine_folder import DEFAULT as MACHINE
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Role
from anycast.pki.root_folder import RootFolder

app = typer.Typer(
    no_args_is_help=True,
    help="The management root: who is a machine of this fleet. init, issue, renew, revoke and crl run where the root is;"
    " request and install on a gateway; show on either.",
)

RootDir = Annotated[Path, typer.Option("--dir", envvar="ANYCAST_PKI", help="The root's folder.")]
MachineDir = Annotated[Path, typer.Option("--dir", help="This machine's folder.")]
Name = Annotated[str, typer.Argument(help="The machine's name, as in fleet.yaml.")]
RoleOption = Annotated[Role, typer.Option(help="What the machine is.")]
Days = Annotated[int, typer.Option(min=1, max=ROOT_DAYS, help="How long it is good for.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Its first line encrypts the root's key. Else asked for, where needed.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")]
ROOT = Path("pki")


@app.command()
def init(
    fleet: Annotated[str, typer.Argument(help="The fleet's name, as in fleet.yaml.")],
    folder: RootDir = ROOT,
    days: Days = ROOT_DAYS,
    passphrase_file: PassphraseFile = None,
    encrypt: Annotated[bool, typer.Option("--encrypt", help="Ask for a passphrase that encrypts the root's key.")] = False,
) -> None:
    """Make the management root of a fleet. Replaces none."""
    secret = passphrase.new("the root's") if encrypt and passphrase_file is None else None
    secret = secret if passphrase_file is None else passphrase.from_file(passphrase_file)
    root = RootFolder(folder).init(fleet, _now(), days, secret)
    until = f"{root.not_valid_after_utc:%Y-%m-%d}"
    typer.echo(f"{folder}: the root of fleet {fleet}, good until {until}; its key begins {_fingerprint(root)[:16]}.")
    typer.echo(f"{folder}/root.key can make any machine a gateway of yours: keep it off the gateways, and keep a backup.")


@app.command()
def request(name: Name, role: RoleOption = Role.GATEWAY, folder: MachineDir = MACHINE) -> None:
    """On a gateway: make a private key, which stays here, and print the request for its certificate.

    The certificate in use stays in use until `install`. A second `request` replaces the key that waits.
    """
    _say(certificates.pem(MachineFolder(folder).request(name, role)))
    _tell(f"{folder}: a new private key waits for its certificate")


@app.command()
def install(
    file: Annotated[Path | None, typer.Argument(help="What was sent. Without it, standard input.")] = None,
    folder: MachineDir = MACHINE,
) -> None:
    """On a gateway: take what `issue`, `renew`, `revoke` or `crl` printed. A running agent takes it by itself."""
    text = sys.stdin.buffer.read(certificates.LONGEST_PEM + 1) if file is None else _read(file)
    for done in MachineFolder(folder).install(text):
        _tell(f"{folder}: {done}")


@app.command()
def issue(
    name: Name,
    file: Annotated[Path | None, typer.Argument(help="The machine's request. Without it, standard input.")] = None,
    role: RoleOption = Role.GATEWAY,
    folder: RootDir = ROOT,
    days: Days = LEAF_DAYS,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign the first certificate of a machine: read its request, print what `install` takes."""
    _sign(name, file, role, folder, days, passphrase_file, renew=False)


@app.command()
def renew(
    name: Name,
    file: Annotated[Path | None, typer.Argument(help="The machine's request. Without it, standard input.")] = None,
    role: RoleOption = Role.GATEWAY,
    folder: RootDir = ROOT,
    days: Days = LEAF_DAYS,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign another certificate of a machine that has one, also an expired one. The old one is good until its end."""
    _sign(name, file, role, folder, days, passphrase_file, renew=True)


@app.command()
def revoke(
    name: Name,
    serial: Annotated[str | None, typer.Option(metavar="HEX", help="Only this certificate, not all of them.")] = None,
    folder: RootDir = ROOT,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Put a machine's certificates on the revocation list, and print the list: it counts where it is installed."""
    root = RootFolder(folder)
    new, revocations = root.revoke(name, _serial(serial), _now(), _passphrase(root, passphrase_file))
    for each in new:
        _tell(f"{name}: revoked {each.certificate.serial_number:040x}")
    if not new:
        _tell(f"{name}: was on the list already")
    _tell("It counts on each machine that installs this list: `| ssh root@GATEWAY anycast pki install`")
    _say(certificates.pem(revocations))


@app.command()
def crl(folder: RootDir = ROOT) -> None:
    """Print the revocation list as it is."""
    _say(certificates.pem(RootFolder(folder).revocations))


@app.command()
def show(
    folder: Annotated[
        Path | None, typer.Option("--dir", envvar="ANYCAST_PKI", help="A root's folder, or a machine's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a root has signed, or what this machine is and believes; never a key.

    Without --dir: ./pki where there is a root, else /etc/anycast/pki.
    """
    place = folder or (ROOT if (ROOT / "root.key").exists() else MACHINE)
    if (place / "root.key").exists():
        _show_root(RootFolder(place), as_json)
    else:
        _show_machine(MachineFolder(place), as_json)


def _sign(
    name: str, file: Path | None, role: Role, folder: Path, days: int, passphrase_file: Path | None, *, renew: bool
) -> None:
    root = RootFolder(folder)
    text = sys.stdin.buffer.read(certificates.LONGEST_PEM + 1) if file is None else _read(file)
    secret = _passphrase(root, passphrase_file)
    certificate = root.issue(name, role, text, _now(), days, secret, renew=renew)
    _say(certificates.pem(certificate, root.root, root.revocations))
    _tell(f"{certificates.identity_of(certificate)}: signed, good until {certificate.not_valid_after_utc:%Y-%m-%d}")


def _show_root(folder: RootFolder, as_json: bool) -> None:
    root, revocations, now = folder.root, folder.revocations, _now()
    rows = [
        {
            "name": each.identity.name,
            "role": str(each.identity.role),
            "state": each.state(now),
            "until": _utc(each.certificate.not_valid_after_utc),
            "days_left": (each.certificate.not_valid_after_utc - now).days,
            "serial": f"{each.certificate.serial_number:040x}",
            "key": _fingerprint(each.certificate)[:16],
        }
        for each in folder.issued()
    ]
    found: dict[str, Any] = {
        "root": str(folder.path),
        "fleet": folder.fleet,
        "until": _utc(root.not_valid_after_utc),
        "key": _fingerprint(root)[:16],
        "encrypted": folder.encrypted,
        "revocation_list": certificates.list_number(revocations),
        "certificates": rows,
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    key = f"{found['key']}{'' if found['encrypted'] else ' (not encrypted)'}"
    typer.echo(
        f"root of fleet {folder.fleet}, until {found['until'][:10]}, key {key}, revocation list {found['revocation_list']}"
    )
    if rows:
        _table(rows, ("name", "role", "state", "until", "days_left", "key", "serial"))


def _show_machine(folder: MachineFolder, as_json: bool) -> None:
    own, now = folder.own(), _now()
    found: dict[str, Any] = {
        "machine": str(folder.path),
        "fleet": own.identity.fleet,
        "role": str(own.identity.role),
        "name": own.identity.name,
        "until": _utc(own.certificate.not_valid_after_utc),
        "days_left": (own.certificate.not_valid_after_utc - now).days,
        "serial": f"{own.certificate.serial_number:040x}",
        "key": _fingerprint(own.certificate)[:16],
        "roots": [
            {"name": root.subject.rfc4514_string(), "until": _utc(root.not_valid_after_utc), "key": _fingerprint(root)[:16]}
            for root in own.trust.roots
        ],
        "revocation_lists": [certificates.list_number(each) for each in own.trust.lists],
        "key_waits": folder.waiting_file.exists(),
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    left = "EXPIRED" if found["days_left"] < 0 else f"{found['days_left']} days left"
    typer.echo(f"{own.identity}: {left}, until {found['until']}, key {found['key']}")
    for root, number in zip(found["roots"], found["revocation_lists"], strict=True):
        typer.echo(f"believes {root['name']}, until {root['until'][:10]}, key {root['key']}, revocation list {number}")
    if found["key_waits"]:
        typer.echo("a newer key waits for its certificate")


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    texts = [[column.replace("_", " ") for column in columns], *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in texts) for i in range(len(columns))]
    for line in texts:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _passphrase(root: RootFolder, file: Path | None) -> bytes | None:
    return passphrase.of_key("the root's", root.path / "root.key", file, encrypted=file is None and root.encrypted)


def _serial(text: str | None) -> int | None:
    try:
        return None if text is None else int(text, 16)
    except ValueError as exc:
        raise ConfigError([Problem("--serial", f"{text!r} is no serial number (hexadecimal, as `show` has it)")]) from exc


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise files.refused(path, exc) from exc


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificates.fingerprint(certificates.key_of(certificate)).hex()


def _say(text: bytes) -> None:
    sys.stdout.write(text.decode())
    sys.stdout.flush()


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def _utc(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
