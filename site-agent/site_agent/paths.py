"""Where an agent keeps its files. Three directories, so that a test or a second gateway can have its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    run_dir: Path = Path("/run/site-agent")
    """Sockets and process records; on tmpfs, gone with the boot."""
    state_dir: Path = Path("/var/lib/site-agent")
    """The event log and the last good document; survives a boot."""
    etc_dir: Path = Path("/etc/site-agent")
    """Rendered files. Everything in it is ours."""
    pki_dir: Path = Path("/etc/anycast/pki")
    """This machine's management certificate and whom it believes (docs/pki.md)."""

    @property
    def control_socket(self) -> Path:
        return self.run_dir / "control.sock"

    @property
    def bridge_socket(self) -> Path:
        return self.run_dir / "bridge" / "lease.sock"

    @property
    def vici_socket(self) -> Path:
        """charon's control socket, where the rendered strongswan.conf puts it."""
        return self.run_dir / "charon.vici"

    @property
    def charon_heard(self) -> Path:
        """What the charon of now has said to agents before this one (`ike/heard_before.py`)."""
        return self.run_dir / "charon.heard"

    @property
    def offers(self) -> Path:
        """What the charon of now hands out inner addresses from (`ike/pool_keeper.py`)."""
        return self.run_dir / "charon.pools"

    @property
    def pid_file(self) -> Path:
        return self.run_dir / "agent.pid"

    @property
    def events(self) -> Path:
        return self.state_dir / "events.jsonl"

    @property
    def clients(self) -> Path:
        """Who had which inner address (`client_history.py`); apart from the events, which it would push out."""
        return self.state_dir / "clients.jsonl"

    @property
    def document(self) -> Path:
        return self.state_dir / "document.json"

    @property
    def operators(self) -> Path:
        """Whose signatures count (`anycast operator install`); beside the management certificate, by the same hand."""
        return self.pki_dir.parent / "operators.json"

    @property
    def contents(self) -> Path:
        """What was taken from a coordinator: staged, active, and active before (`content_store.py`)."""
        return self.state_dir / "contents.json"

    @property
    def announced_mark(self) -> Path:
        """There: in this boot somebody was allowed to announce by what was taken from a coordinator (`cold_start.py`)."""
        return self.run_dir / "announced"

    @property
    def hold(self) -> Path:
        """The operator's hold, written by `site-agent hold`."""
        return self.state_dir / "hold.json"

    @property
    def hold_for_this_boot(self) -> Path:
        """Where a hold goes that the state directory has no room for. Takes precedence: it is the younger one."""
        return self.run_dir / "hold.json"

    @property
    def drain(self) -> Path:
        """The drain that goes on, begun by `site-agent drain start` and kept by the agent."""
        return self.state_dir / "drain.json"

    @property
    def boot_mark(self) -> Path:
        """What orders the seals of this gateway over its boots (`vrrp/boot_mark.py`)."""
        return self.state_dir / "vrrp.boot"

    @property
    def peer_pin(self) -> Path:
        """The key that the other gateway is known by (`sync/identity.py`)."""
        return self.state_dir / "peer.pin"

    @property
    def nftables_conf(self) -> Path:
        return self.etc_dir / "nftables.conf"

    @property
    def exabgp_conf(self) -> Path:
        return self.etc_dir / "exabgp.conf"
