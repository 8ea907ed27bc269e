"""`anycast operator`: who may decide what the fleet does, by an Ed25519 key of one's own (docs/content.md).

The private key is made on the operator's machine and stays there: it is in no argument, no output and no message.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anycast.cli import passphrase
from anycast.content import signature
from anycast.content.operators import Operator, Operators, decode_line, none_yet
from anycast.errors import ConfigError, DecodeError, PeerError, Problem
from anycast.model import NAME
from anycast.operators_file import INSTALLED, OperatorsFile
from anycast.pki import files
from anycast.pki.names import EXPECTED

app = typer.Typer(
    no_args_is_help=True,
    help="Whose signature counts. `new` runs on an operator's machine; `trust` and `revoke` where the fleet's list is kept,"
    " beside the management root; `install` as root on each gateway; `show` anywhere.",
)

LIST = Path("operators.json")
LONGEST = 1 << 20
Keys = Annotated[
    Path | None,
    typer.Option("--dir", envvar="ANYCAST_OPERATOR", help="The folder of one's own keys. Default: ~/.config/anycast"),
]
ListFile = Annotated[Path, typer.Option("--list", envvar="ANYCAST_OPERATORS", help="The fleet's list.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Its first line is the key's passphrase. Else the terminal is asked.")
]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The operator's name: small letters, digits, hyphens.")],
    folder: Keys = None,
    passphrase_file: PassphraseFile = None,
    plain: Annotated[bool, typer.Option("--plain", help="Do not encrypt the key; its file is still mode 600.")] = False,
) -> None:
    """Make a key of one's own, encrypted, and print its public half for `trust`. Replaces none."""
    if not NAME.fullmatch(name):
        raise ConfigError([Problem("name", f"{name!r} is not of {EXPECTED}")])
    if plain and passphrase_file is not None:
        raise ConfigError([Problem("--plain", "and --passphrase-file are for two different keys; nothing was made")])
    place = key_file(folder, name)
    if place.exists():
        raise PeerError(str(place), "is there already; nothing was changed")
    secret = None
    if not plain:
        secret = passphrase.new(f"{name}'s") if passphrase_file is None else passphrase.from_file(passphrase_file)
    files.make_folder(place.parent)
    key = signature.new_key()
    operator = Operator(name=name, public=signature.public_of(key))
    files.write(place, signature.key_pem(key, secret), files.SECRET)
    files.write(place.with_suffix(".pub"), operator.line.encode() + b"\n", files.PUBLIC)
    _tell(f"{place}: key {operator.key} of {name}{'' if secret else ', not encrypted'}; keep a backup")
    typer.echo(operator.line)


@app.command()
def trust(
    file: Annotated[Path | None, typer.Argument(help="What `new` printed. Without it, standard input.")] = None,
    list_: ListFile = LIST,
    fleet: Annotated[str | None, typer.Option(help="Begin a list, of this fleet.")] = None,
) -> None:
    """Put an operator's key on the fleet's list, and print the list: it counts where it is installed."""
    if fleet is not None and not NAME.fullmatch(fleet):
        raise ConfigError([Problem("fleet", f"{fleet!r} is not of {EXPECTED}")])
    try:
        operator = decode_line(_given(file).decode())
    except (DecodeError, UnicodeDecodeError) as exc:
        what = exc.what if isinstance(exc, DecodeError) else "is not text"
        raise PeerError("the key", f"{what}; nothing was changed") from exc
    begun = None if fleet is None else none_yet(fleet)
    after = OperatorsFile(list_).change(lambda before: before.trusting(operator), begun)
    _tell(f"{list_}: list {after.number} of fleet {after.fleet} trusts {operator.name}, key {operator.key}")
    _tell(_WHERE)
    sys.stdout.write(after.data.decode())


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The operator, as in the list.")],
    key: Annotated[str | None, typer.Option(metavar="HEX", help="Only the key that begins so, not all of them.")] = None,
    list_: ListFile = LIST,
) -> None:
    """End the trust in an operator's keys, for good, and print the list. What is active stays active."""
    ended: tuple[Operator, ...] = ()
    now = datetime.datetime.now(datetime.UTC)

    def without(before: Operators) -> Operators:
        nonlocal ended
        after, ended = before.revoking(name, key, now)
        return after

    after = OperatorsFile(list_).change(without)
    for each in ended:
        _tell(f"{name}: key {each.key} is revoked")
    if not ended:
        _tell(f"{name}: was revoked already")
    if all(each.revoked for each in after.operators):
        _tell(f"Nobody is trusted now: fleet {after.fleet} stays as it is until somebody is")
    _tell(_WHERE)
    sys.stdout.write(after.data.decode())


@app.command()
def install(
    file: Annotated[Path | None, typer.Argument(help="What `trust` or `revoke` printed. Without it, standard input.")] =
    None, list_: Annotated[Path, typer.Option("--list", help="This machine's list.")] = INSTALLED,
) -> None:
    """On a gateway, as root: take the fleet's list; no older one, no other fleet's, none that forgets a revocation."""
    after = OperatorsFile(list_).install(_given(file))
    trusted = ", ".join(f"{each.name} ({each.key[:8]})" for each in after.operators if each.revoked is None) or "nobody"
    _tell(f"{list_}: list {after.number} of fleet {after.fleet} trusts {trusted}")


@app.command()
def show(
    list_: Annotated[
        Path | None, typer.Option("--list", envvar="ANYCAST_OPERATORS", help="A fleet's list, or a machine's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Who is trusted, and who no longer. Without --list: ./operators.json where it is, else this machine's."""
    place = list_ or (LIST if LIST.exists() else INSTALLED)
    found = OperatorsFile(place).read()
    rows = [{"name": each.name, "key": each.key, "revoked": each.revoked} for each in found.operators]
    if as_json:
        said = {"list": str(place), "fleet": found.fleet, "number": found.number, "operators": rows}
        typer.echo(json.dumps(said, indent=2))
        return
    typer.echo(f"list {found.number} of fleet {found.fleet}" + ("" if rows else ": nobody is trusted"))
    width = max((len(each.name) for each in found.operators), default=0)
    for each in found.operators:
        typer.echo(f"{each.name.ljust(width)}  {each.key}  {f'revoked {each.revoked}' if each.revoked else 'trusted'}")


def key_file(folder: Path | None, name: str) -> Path:
    return (folder or Path.home() / ".config" / "anycast") / f"{name}.key"


def has_key(folder: Path | None, name: str) -> None:
    """That an operator has a key, before anything else is asked. Raises ConfigError."""
    _key_text(folder, name)


def _key_text(folder: Path | None, name: str) -> tuple[Path, bytes]:
    place = key_file(folder, name)
    return place, files.read(place, f"`anycast operator new {name}` makes one", secret=True)


def open_key(folder: Path | None, name: str, passphrase_file: Path | None) -> Ed25519PrivateKey:
    """An operator's own key. Raises ConfigError."""
    place, pem = _key_text(folder, name)
    secret = passphrase.of_key(f"{name}'s", place, passphrase_file, encrypted=b"ENCRYPTED" in pem)
    try:
        return signature.read_key(pem, secret)
    except DecodeError as exc:
        raise ConfigError([Problem("", exc.what, str(place))]) from exc


_WHERE = "It counts on each machine that installs this list: `| ssh root@GATEWAY anycast operator install`"


def _given(file: Path | None) -> bytes:
    if file is None:
        return sys.stdin.buffer.read(LONGEST)
    try:
        return file.read_bytes()
    except OSError as exc:
        raise files.refused(file, exc) from exc


def _tell(text: str) -> None:
    typer.echo(text, err=True)
