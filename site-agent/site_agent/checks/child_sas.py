"""Do the client tunnels that charon believes in exist in the kernel?

Two views of one thing, so a fact only when they disagree completely: *every* client CHILD_SA, and at least one, lacks
kernel state in two looks. That is a flushed SAD, and no outsider can cause it. When some lack it, it is `load`: an alarm
(and later a repair by rekey). No CHILD_SA at all is an idle gateway, which is healthy. Orphans in the kernel are not
counted here: a dead charon leaves them, and it has its own check.

charon and the kernel differ for a moment in every rekey and every MOBIKE move: what is missing is looked for a second
time, and only what is missing both times, by the same unique id, counts.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

from anycast.errors import PeerError
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from site_agent.checks.base import Finding, failing, passing, unknown
from site_agent.ike.vici_client import Section, ViciClient
from site_agent.netlink import xfrm
from site_agent.netlink.messages import NETLINK_XFRM, Message
from site_agent.netlink.transport import dump

NAME = "sa_state"
PARTIAL = "sa_state_partial"
SECOND_LOOK_S = 0.3
"""A rekey is one exchange and a MOBIKE move one more: tens of milliseconds, plus the client's round trip."""
LIST_LIMIT_S = 3.0
PROTOCOLS = {"ESP": 50, "AH": 51}

SaKey = tuple[str, int, int]
"""Destination address, IP protocol, SPI: what identifies an SA in the SAD (RFC 4301 section 4.1)."""


@dataclasses.dataclass(frozen=True, slots=True)
class ChildSa:
    """One client CHILD_SA as charon sees it."""

    unique_id: str
    ike_id: str
    """Unique id of the IKE_SA that it belongs to."""
    name: str
    keys: tuple[SaKey, SaKey]
    """The inbound and the outbound SA that must be in the kernel."""


class ChildSaCheck:
    """Reports `sa_state` and `sa_state_partial`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.FACT, PARTIAL: EvidenceClass.LOAD}
    interval_s = 1.0
    timeout_s = 2 * LIST_LIMIT_S + SECOND_LOOK_S + 2.0

    def __init__(self, vici: ViciClient, vips: Iterable[str]) -> None:
        self._vici = vici
        self._vips = frozenset(str(ip_address(vip)) for vip in vips)

    async def look(self) -> Sequence[Finding]:
        try:
            children = await self._children()
            first = await self._missing(children)
            if not first:
                return judge(children, frozenset())
            await asyncio.sleep(SECOND_LOOK_S)
            children = await self._children()
            return judge(children, first & await self._missing(children))
        except PeerError as exc:
            reason, detail = Reason.VICI_REFUSED, str(exc)
        except TimeoutError:
            reason, detail = Reason.VICI_SILENT, f"no list of SAs within {LIST_LIMIT_S:g} s"
        return [unknown(name, reason, detail) for name in self.reports]

    async def lost(self) -> list[ChildSa]:
        """The client CHILD_SAs without kernel state, by one look. Raises PeerError, KernelError, TimeoutError."""
        children = await self._children()
        missing = await self._missing(children)
        return [child for child in children if child.unique_id in missing]

    async def _children(self) -> list[ChildSa]:
        children: list[ChildSa] = []
        await self._vici.stream(
            "list-sas",
            "list-sa",
            lambda section: children.extend(client_child_sas(section, self._vips)),
            {"noblock": "yes"},  # skip IKE_SAs that are busy rather than wait for them
            timeout_s=LIST_LIMIT_S,
        )
        return children

    async def _missing(self, children: Sequence[ChildSa]) -> frozenset[str]:
        """Unique ids of those without kernel state. An idle gateway asks the kernel nothing."""
        if not children:
            return frozenset()
        present: set[SaKey] = set()

        def take(message: Message) -> None:
            sa = xfrm.decode_sa(message.payload)
            present.add((str(sa.daddr), sa.proto, sa.spi))

        await dump(NETLINK_XFRM, xfrm.XFRM_MSG_GETSA, take)
        return frozenset(child.unique_id for child in children if not present.issuperset(child.keys))


def judge(children: Sequence[ChildSa], missing: frozenset[str]) -> list[Finding]:
    """What it means that those of `children` in `missing` lack kernel state in two looks."""
    lacking = [child for child in children if child.unique_id in missing]
    if not lacking:
        seen = f"{len(children)} client CHILD_SAs in the kernel" if children else "idle: no client CHILD_SA"
        return [passing(NAME, seen), passing(PARTIAL, seen)]
    detail = f"{len(lacking)} of {len(children)} client CHILD_SAs without kernel state, e.g. {lacking[0].name}"
    if len(lacking) == len(children):
        return [failing(NAME, Reason.SA_STATE_LOST, detail), passing(PARTIAL, detail)]
    return [passing(NAME, detail), failing(PARTIAL, Reason.SA_STATE_PARTIAL, detail)]


def client_child_sas(event: Section, vips: frozenset[str]) -> list[ChildSa]:
    """The installed CHILD_SAs in one `list-sa` event whose tunnels end at a VIP. Raises PeerError."""
    found = []
    try:
        for ike_sa in event.values():
            local, remote = (str(ip_address(ike_sa[end].decode())) for end in ("local-host", "remote-host"))
            if local not in vips:
                continue
            for child in ike_sa.get("child-sas", {}).values():
                if child["state"] != b"INSTALLED":
                    continue
                proto = PROTOCOLS[child["protocol"].decode()]
                spis = int(child["spi-in"], 16), int(child["spi-out"], 16)
                found.append(
                    ChildSa(
                        unique_id=child["uniqueid"].decode(),
                        ike_id=ike_sa["uniqueid"].decode(),
                        name=f"{child['name'].decode()}-{child['uniqueid'].decode()}",
                        keys=((local, proto, spis[0]), (remote, proto, spis[1])),
                    )
                )
    except (KeyError, ValueError, AttributeError) as exc:
        raise PeerError("charon", f"list-sas: cannot be understood: {exc!r}") from exc
    return found
