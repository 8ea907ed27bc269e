"""The canary's tunnels, one to each VIP: what its charon is told, what it says, and when to connect anew. Pure.

Connecting is the agent's alone: charon tries once (`keyingtries`), takes down what fails (`clear`) and starts nothing by
itself. So there is one pace, `Reconnect`, and a gateway in trouble meets one handshake a minute and family.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from anycast.document import Canary, Service
from anycast.errors import PeerError
from anycast.reasons import Reason
from site_agent.checks.base import Finding, failing, passing

NAME = "canary"
FIRST_RETRY_S, LONGEST_RETRY_S = 4.0, 60.0
SILENT_LOOKS = 2
"""After so many in which no target answered the tunnel is made anew: its other end may have lost it, and only a client
whose user gives up would notice."""

Address = IPv4Address | IPv6Address
Section = Mapping[str, object]


@dataclasses.dataclass(frozen=True, slots=True)
class Tunnel:
    """One IKE_SA as the canary's charon has it."""

    unique_id: str
    established: bool
    installed: bool
    """Its CHILD_SA is in the kernel."""
    inner: tuple[Address, ...]
    """What the gateway gave us from its pools."""

    def complete(self, *, esp: bool) -> bool:
        """Nothing is left to be made; without ESP in the kernel that is an IKE_SA."""
        return self.established and (self.installed or not esp)


@dataclasses.dataclass(frozen=True, slots=True)
class Echo:
    """One target asked through one tunnel."""

    tunnel: str
    target: str
    rtt_ms: float | None


def tunnel_name(vip: Address) -> str:
    """Of the connection and of its CHILD_SA: the address family outside."""
    return f"canary-ipv{vip.version}"


def connection(
    service: Service, canary: Canary, vip: Address, *, certificate: bytes, gateway_ca: bytes
) -> dict[str, object]:
    """The message of ``load-conn`` for one VIP: what docs/clients.md tells a client to do."""
    pools = {ip_network(pool.prefix).version for pool in service.pools}
    child = {
        "remote_ts": list(service.inside),
        "esp_proposals": list(service.esp_proposals),
        "rekey_time": "1h",
        "replay_window": "2048",
        "start_action": "none",
        "dpd_action": "clear",
        "close_action": "none",
    }
    name = tunnel_name(vip)
    settings = {
        "version": "2",
        "remote_addrs": [str(vip)],
        "local_port": "4500",
        "remote_port": "4500",
        "encap": "yes",
        "mobike": "no",  # it never moves
        "fragmentation": "yes",
        "proposals": list(service.ike_proposals),
        "vips": [anywhere for version, anywhere in ((4, "0.0.0.0"), (6, "::")) if version in pools],
        "dpd_delay": "10s",
        "keyingtries": "1",
        "rekey_time": "4h",
        "reauth_time": "0s",
        "local": {"auth": "pubkey", "id": canary.identity, "certs": [certificate]},
        "remote": {"auth": "pubkey", "id": service.identity, "cacerts": [gateway_ca]},
        "children": {name: child},
    }
    return {name: settings}


def read_tunnels(events: Iterable[Section]) -> dict[str, Tunnel]:
    """The best tunnel of each name in the ``list-sa`` events of one list. Raises PeerError."""
    found: dict[str, Tunnel] = {}
    try:
        for event in events:
            for name, ike_sa in event.items():
                tunnel = _read(ike_sa)
                if name not in found or _rank(tunnel) > _rank(found[name]):
                    found[name] = tunnel
    except (KeyError, ValueError, AttributeError, TypeError) as exc:
        raise PeerError("canary", f"list-sas: cannot be understood: {exc!r}") from exc
    return found


def _read(ike_sa: object) -> Tunnel:
    if not isinstance(ike_sa, Mapping):
        raise ValueError("no section")
    children = ike_sa.get("child-sas", {}).values()
    return Tunnel(
        unique_id=ike_sa["uniqueid"].decode(),
        established=ike_sa["state"] == b"ESTABLISHED",
        installed=any(child["state"] == b"INSTALLED" for child in children),
        inner=tuple(ip_address(address.decode()) for address in ike_sa.get("local-vips", ())),
    )


def _rank(tunnel: Tunnel) -> tuple[bool, bool]:
    return tunnel.established and tunnel.installed, tunnel.established


@dataclasses.dataclass(slots=True)
class Reconnect:
    """When one tunnel may be made (again). Times are CLOCK_BOOTTIME seconds."""

    _retry_s: float = FIRST_RETRY_S
    _not_before: float = 0.0
    _silent: int = 0

    def due(self, now: float) -> bool:
        """Whether a missing tunnel may be tried now."""
        return now >= self._not_before

    def tried(self, now: float) -> None:
        self._not_before, self._silent = now + self._retry_s, 0
        self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)

    def renew(self) -> None:
        """What a tunnel is made with has changed: one that stands proves nothing of it, and an attempt waits for nothing."""
        self._retry_s, self._not_before, self._silent = FIRST_RETRY_S, 0.0, SILENT_LOOKS

    def looked(self, *, answered: bool) -> None:
        """After a look through a tunnel that stands."""
        if answered:
            self._retry_s, self._not_before, self._silent = FIRST_RETRY_S, 0.0, 0
        else:
            self._silent += 1

    def given_up(self, now: float) -> bool:
        """Whether a tunnel that stands carries nothing, and may be replaced now."""
        return self._silent >= SILENT_LOOKS and self.due(now)


def judge(names: Sequence[str], tunnels: Mapping[str, Tunnel], echoes: Sequence[Echo], last_words: str) -> Finding:
    """All tunnels of one look together; `last_words` is what the canary's charon said of its last failure."""
    problems, reached = [], []
    for name in names:
        tunnel = tunnels.get(name)
        if tunnel is None or not tunnel.complete(esp=True):
            lacks = "CHILD_SA" if tunnel is not None and tunnel.established else "IKE_SA"
            problems.append(f"{name}: no {lacks}{f' ({last_words})' if last_words else ''}")
            continue
        mine = [echo for echo in echoes if echo.tunnel == name]
        silent = [echo.target for echo in mine if echo.rtt_ms is None]
        if silent:
            problems.append(f"{name}: no answer from {', '.join(silent)}")
        elif not mine:
            problems.append(f"{name}: no inner address of any target's family")
        reached += [echo.rtt_ms for echo in mine if echo.rtt_ms is not None]
    worst = max(reached, default=None)
    if problems:
        return failing(NAME, Reason.CANARY_FAILING, "; ".join(problems), worst)
    return passing(NAME, f"{len(echoes)} answers through {', '.join(names)}", worst)


def states(names: Sequence[str], tunnels: Mapping[str, Tunnel]) -> str:
    """How far each came, for people."""
    said = []
    for name in names:
        tunnel = tunnels.get(name)
        state = "no IKE_SA" if tunnel is None or not tunnel.established else "IKE_SA established"
        said.append(f"{name}: {state}")
    return ", ".join(said)
