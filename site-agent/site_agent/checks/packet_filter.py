"""Loads our nftables table, and asks: is it in force, and whole?

Load, not a fact: it is protection and comfort (connection tracking, MSS), and tunnels work without it. It is lost by an
operator's own doing, above all by a firewall whose file begins with `flush ruleset`; so the alarm says how to include
ours there. And their rules may live by the tracking that ours ends (`untracking.py`): then it is in force without those
rules, and the alarm has the commands after which it can be whole.

The first look loads it, after the agent has said READY, because nothing that may hang stands between an agent's start and
its first renewal. Later looks cost two messages whatever the ruleset: one asks for an empty chain whose name is the
digest of the rendered text (`render/nftables.py`), the other for the ruleset's generation. Only where that has changed
are all rules read and judged anew; so a firewall that begins to drop what is not tracked is answered at the next look,
and one that was mended, too. A table that somebody removed is not loaded again: they may have meant it.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path

from anycast.document import Document
from anycast.errors import KernelError, PeerError
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from site_agent.checks.base import Finding, Timing, failing, passing, unknown
from site_agent.netlink.nftables import (
    GET_GENERATION,
    NETLINK_NETFILTER,
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETGEN,
    decode_generation,
    encode_get_chain,
)
from site_agent.netlink.transport import request
from site_agent.packet_filter import PacketFilter, judge, load_packet_filter
from site_agent.patience import OneAtATime
from site_agent.render.nftables import TABLE, marker, tracked
from site_agent.untracking import Obstacle

NAME = "packet_filter"
LIMIT_S = 15.0
"""Five answers of nft, each with a limit of its own."""


class PacketFilterCheck:
    """Reports `packet_filter`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.LOAD}
    timing = Timing(interval_s=5.0, timeout_s=LIMIT_S + 1.0, rise=1, fall=1)

    def __init__(self, path: Path, document: Document) -> None:
        """`path` is the rendered file; the packets to be judged are the document's."""
        self._path, self._document = path, document
        self._nft = OneAtATime("nft")
        self._loaded: PacketFilter | None = None
        self._generation: int | None = None
        """The one that was judged last."""

    async def look(self) -> Sequence[Finding]:
        loaded = self._loaded or await self._load()
        if not loaded.available:
            return [unknown(NAME, Reason.CHECK_UNAVAILABLE, "this kernel has no nftables tables of the inet family")]
        if (now := await _generation()) != self._generation:
            loaded = await self._judge_anew(loaded)
            self._generation = now  # as it was before the judgement: what came meanwhile is judged at the next look
        if not await _in_force(loaded.marker):
            return [failing(NAME, Reason.PACKET_FILTER_MISSING, loaded.refused or self._advice)]
        if loaded.obstacles:
            return [failing(NAME, Reason.PACKET_FILTER_PARTIAL, _partial(loaded.obstacles))]
        return [passing(NAME, f"table inet {TABLE}, {loaded.marker}")]

    async def reload(self) -> str:
        """Replace the table by the rendered one. Returns what was done. Raises PeerError where nft refuses it."""
        loaded = await self._load()
        if not loaded.available:
            return "this kernel has no tables of the inet family"
        if loaded.refused:
            raise PeerError("nft", loaded.refused)
        if loaded.obstacles:
            raise PeerError("nft", _partial(loaded.obstacles))
        return f"table inet {TABLE} is as rendered"

    async def _load(self) -> PacketFilter:
        self._loaded = await self._nft.run(lambda: load_packet_filter(self._path, self._document), limit_s=LIMIT_S)
        return self._loaded

    async def _judge_anew(self, loaded: PacketFilter) -> PacketFilter:
        """Rules have changed, ours or others: change between whole and partial where a table of ours is there."""
        try:
            obstacles, text = await self._nft.run(lambda: (judge(self._document), self._path.read_text()), limit_s=LIMIT_S)
        except OSError as exc:
            if isinstance(exc, TimeoutError):
                raise
            return PacketFilter(marker=loaded.marker, refused=f"{self._path}: {exc.strerror}", obstacles=loaded.obstacles)
        wanted, other = marker(text), marker(tracked(text))
        if obstacles:
            wanted, other = other, wanted
        if obstacles == loaded.obstacles and wanted == loaded.marker and not await _in_force(other):
            return loaded
        if await _in_force(wanted):
            self._loaded = PacketFilter(marker=wanted, obstacles=obstacles)
            return self._loaded
        # Somebody's file may have included the whole one: then that is what has to be replaced.
        return await self._load() if await _in_force(other) else loaded

    @property
    def _advice(self) -> str:
        return (
            f"somebody removed or changed table inet {TABLE}: `site-agent apply` loads it; where a firewall flushes "
            f'the ruleset, include "{self._path}" at its end'
        )


def _partial(obstacles: Sequence[Obstacle]) -> str:
    why = "; ".join(dict.fromkeys(each.seen for each in obstacles))
    mends = "; ".join(dict.fromkeys(each.mend for each in obstacles))
    return (
        f"IKE, ESP and BGP stay in connection tracking, because your rules need it: {why}. "
        f"Mend (also in the file that your firewall is loaded from): {mends}"
    )


async def _in_force(chain: str) -> bool:
    try:
        await request(NETLINK_NETFILTER, NFT_MSG_GETCHAIN, encode_get_chain(TABLE, chain))
    except KernelError as exc:
        if exc.errno != errno.ENOENT:
            raise
        return False
    return True


async def _generation() -> int:
    return decode_generation((await request(NETLINK_NETFILTER, NFT_MSG_GETGEN, GET_GENERATION))[0])
