"""Whose machine this is: the document, the charon that runs, the files it was started with, and what it says of itself.

charon's settings are in the file that `STRONGSWAN_CONF` names in its own environment, otherwise in /etc/strongswan.conf;
`swanctl` looks for its folder beside it in the same way (`SWANCTL_DIR`, otherwise /etc/swanctl).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path

from anycast.document import Document
from anycast.errors import DecodeError, PeerError
from site_agent.doctor.judge.connections import Child, Connection
from site_agent.doctor.read.sight import Sight
from site_agent.ike.settings_file import Section as SettingsSection
from site_agent.ike.settings_file import Settings, parse
from site_agent.ike.vici_client import Section, ViciClient
from site_agent.observe.discovery import DEFAULT_SOCKET, find_charons, find_vici, is_service_address

DEFAULT_CONF = Path("/etc/strongswan.conf")
DEFAULT_SWANCTL = Path("/etc/swanctl")
VICI_LIMIT_S = 3.0
_LAST_INCLUDE = re.compile(r"^[ \t]*include[ \t][^\n]*$", re.MULTILINE)
DROP_IN = "zz-site-doctor.conf"
_SECRET = re.compile(r"^[^#\n]*?(?<![\w-])(?:secret|pin)[ \t]*=[ \t]*[^\s#}]", re.MULTILINE)
"""swanctl's `secrets` and strongswan.conf's plugins (eap-radius, ha) name what is secret by the same two words."""
_COMMENT = re.compile(r"#[^\n]*")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    name: str
    base: str
    size: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What charon says through VICI."""

    connections: tuple[Connection, ...] = ()
    pools: tuple[Pool, ...] = ()
    plugins: frozenset[str] = frozenset()
    version: str = ""
    """strongSwan's."""
    ike_sas: int = 0
    traps: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conf:
    """A file of strongSwan's and what it includes."""

    file: Path
    settings: Settings
    drop_in: str
    """A file of the doctor's that is read after everything else, so that what it says counts; empty where there is no folder
    for one."""
    secret: tuple[Path, ...]
    """Those of the files that hold a secret, or cannot be read: they may hold one."""
    newest: float
    """Modification time of the youngest of them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    document: Document | None
    source: str
    """The fleet file that was given; empty without one."""
    etc_dir: Path
    pids: tuple[int, ...]
    """charons that certainly are of our network namespace."""
    uncertain: tuple[int, ...]
    """charons that may be of our network namespace or of another; nothing is judged by them, and none is ended."""
    conf: Conf | None
    swanctl: Conf | None
    answers: Answers | None
    vips: tuple[str, ...]

    @property
    def pid(self) -> int | None:
        return self.pids[0] if self.pids else None

    @property
    def settings(self) -> Settings:
        """strongswan.conf, or none of it: then everything has its default."""
        return self.conf.settings if self.conf is not None else Settings(SettingsSection())


async def meet(sight: Sight, *, document: Document | None, source: str, etc_dir: Path, vici: str | None) -> Patient:
    """Look at charon and its files. What cannot be seen is in `sight`."""
    charons = find_charons()
    pids = charons.ours
    for pid in charons.uncertain:
        sight.miss(f"could not tell whose network namespace charon (pid {pid}) is in", "CAP_SYS_PTRACE")
    if not pids and not charons.uncertain:
        sight.miss("no charon runs in this network namespace: only files are judged (hidepid hides processes from users)")
    answers = await _ask(
        sight,
        ViciClient(vici or find_vici(pids[0] if pids else None) or DEFAULT_SOCKET),
        running=bool(pids or charons.uncertain),
    )
    conf = read_conf(sight, _conf_file(sight, pids, etc_dir, ours=document is not None))
    folder = _swanctl_folder(conf)
    swanctl = read_conf(sight, folder / "swanctl.conf")
    vips = document.service.ends if document is not None else _service_addresses(answers)
    return Patient(
        document=document, source=source, etc_dir=etc_dir, pids=pids, uncertain=charons.uncertain, conf=conf,
        swanctl=swanctl, answers=answers, vips=tuple(vips),
    )  # fmt: skip


def read_conf(sight: Sight, file: Path) -> Conf | None:
    """Parse a file of strongSwan's with what it includes; None where there is none or it means nothing to us."""
    text = sight.text_of(file)
    if text is None:
        return None
    seen = [file]
    secret = [file] if _SECRET.search(text) else []
    folders = []

    def include(pattern: str, including: str) -> Iterable[tuple[str, str]]:
        target = Path(pattern) if pattern.startswith("/") else Path(including).parent / pattern
        if target.name == "*.conf" and including == str(file):
            folders.append(target.parent)
        for path in sorted(target.parent.glob(target.name)):
            content = sight.text_of(path)
            if content is None or _SECRET.search(content):
                secret.append(path)
            if content is not None:
                seen.append(path)
                yield str(path), content

    try:
        settings = parse(str(file), text, include)
    except DecodeError as exc:
        sight.miss(f"{exc}")
        return None
    newest = max((path.stat().st_mtime for path in seen if path.exists()), default=0.0)
    # Only what is read last counts: a folder that nothing follows but comments.
    rest = _LAST_INCLUDE.split(text)[-1] if folders else ""
    drop_in = _last_in(folders[-1]) if folders and not _COMMENT.sub("", rest).strip() else ""
    return Conf(file=file, settings=settings, drop_in=drop_in, newest=newest, secret=tuple(secret))


def _last_in(folder: Path) -> str:
    """The doctor's own file: one that sorts after all others, or what it says would not count."""
    last = max((path.name for path in folder.glob("*.conf") if not path.name.endswith(DROP_IN)), default="")
    mine = max((path.name for path in folder.glob(f"*{DROP_IN}")), default=DROP_IN)
    # `z` sorts after the dot of the other's `.conf`.
    return str(folder / (mine if mine > last else f"{last.removesuffix('.conf')}z-{DROP_IN}"))


def _conf_file(sight: Sight, pids: tuple[int, ...], etc_dir: Path, *, ours: bool) -> Path:
    if pids:
        try:
            environment = Path(f"/proc/{pids[0]}/environ").read_bytes()
        except PermissionError:
            sight.miss(
                f"which strongswan.conf charon (pid {pids[0]}) was started with is taken to be Debian's", "CAP_SYS_PTRACE"
            )
        except OSError:
            return DEFAULT_CONF
        else:
            for variable in environment.split(b"\0"):
                if variable.startswith(b"STRONGSWAN_CONF="):
                    return Path(os.fsdecode(variable.partition(b"=")[2]))
            return DEFAULT_CONF
    return etc_dir / "strongswan.conf" if ours else DEFAULT_CONF


def _swanctl_folder(conf: Conf | None) -> Path:
    if (named := os.environ.get("SWANCTL_DIR")) is not None:
        return Path(named)
    if conf is not None and conf.file != DEFAULT_CONF and (beside := conf.file.with_name("swanctl")).is_dir():
        return beside
    return DEFAULT_SWANCTL


def _service_addresses(answers: Answers | None) -> Iterable[str]:
    local = (address for connection in (answers.connections if answers else ()) for address in connection.local)
    return dict.fromkeys(address for address in local if is_service_address(address))


async def _ask(sight: Sight, vici: ViciClient, *, running: bool) -> Answers | None:
    connections: list[Connection] = []
    traps: set[str] = set()

    def take_connection(section: Section) -> None:
        for name, each in section.items():
            children = tuple(
                Child(name=child, dpd_action=_word(options, "dpd_action"), close_action=_word(options, "close_action"))
                for child, options in each.get("children", {}).items()
            )
            local = tuple(address.decode(errors="replace") for address in each.get("local_addrs", []))
            remote = tuple(address.decode(errors="replace") for address in each.get("remote_addrs", []))
            connections.append(Connection(name=name, local=local, remote=remote, children=children))

    def take_policy(section: Section) -> None:
        traps.update(_word(policy, "child") for policy in section.values())

    try:
        await vici.stream("list-conns", "list-conn", take_connection, timeout_s=VICI_LIMIT_S)
        await vici.stream("list-policies", "list-policy", take_policy, {"trap": "yes"}, timeout_s=VICI_LIMIT_S)
        pools = await vici.request("get-pools", timeout_s=VICI_LIMIT_S)
        stats = await vici.request("stats", timeout_s=VICI_LIMIT_S)
        version = await vici.request("version", timeout_s=VICI_LIMIT_S)
        return Answers(
            connections=tuple(connections),
            pools=tuple(
                Pool(name=name, base=_word(pool, "base"), size=int(_word(pool, "size"))) for name, pool in pools.items()
            ),
            plugins=frozenset(plugin.decode(errors="replace") for plugin in stats.get("plugins", [])),
            version=_word(version, "version"),
            ike_sas=int(_word(stats.get("ikesas", {}), "total") or 0),
            traps=frozenset(traps),
        )
    except TimeoutError:
        sight.miss(
            f"{vici.path}: charon does not answer within {VICI_LIMIT_S:g} s: connections, pools and plugins are not seen"
        )
    except PeerError as exc:
        needs = "root, or charon's group (`charon.group`)" if os.geteuid() != 0 else ""
        if running or needs:
            sight.miss(f"{vici.path}: {exc}: connections, pools and plugins are not seen", needs)
    except (AttributeError, ValueError) as exc:
        sight.miss(f"{vici.path}: an answer cannot be understood: {exc!r}")
    finally:
        vici.close()
    return None


def _word(section: Section, key: str) -> str:
    value = section.get(key, b"")
    return value.decode(errors="replace") if isinstance(value, bytes) else ""
