"""IKE_SAs that are not whole after a takeover: what was made last was lost with the Active. Pure.

charon's plugin tells of a request's message ID as the request comes in, and of the CHILD_SA that it leads to a moment later
(ha_ike.c, ha_child.c). Power that goes in between leaves this gateway with a client whose request it believes answered: the
client goes over to its new CHILD_SA and deletes the one before, we obey, and from then on its dead peer detection is
answered for ever while no packet passes (measured: drill `mirror-in-flight`). Nobody else ends that. So an IKE_SA that was
there at the takeover and has no CHILD_SA in two looks is to be ended: its client hears a DELETE and connects anew.

Power that goes in the middle of an IKE_AUTH may leave less: keys, without identities or a configuration. charon answers dead
peer detection by these, too, until it gives the handshake up after half a minute (measured, by the same drill). They are to
be ended at once, in silence, as charon does with them.

A kernel without ESP leaves every client without a CHILD_SA: where none was ever seen, nobody lacks one.

Nothing is ended on one look, later than `WATCH_S` after a takeover, or more than `MOST` at once: a list that is wrong
ends no more than that before the next one.
"""

from __future__ import annotations

from collections.abc import Hashable

from site_agent.ike.mirror_view import IKE_NAME_BYTES, CharonView

WATCH_S = 60.0
SETTLED_S = 2.0
"""Between the two looks: a client that replaces its CHILD_SA may have none for a round trip."""
MOST = 16


class BareIkeSas:
    """Of one charon. `promoted`, then every look."""

    def __init__(self) -> None:
        self._carries = False
        """Somebody has had a CHILD_SA here."""
        self._promoted_at: float | None = None
        self._there: set[Hashable] | None = None
        """Whose IKE_SAs were there at the takeover: where each client is, and who. Their SPIs change with a rekey."""
        self._bare_since: dict[str, float] = {}

    @property
    def suspects(self) -> bool:
        """Another look would tell."""
        return bool(self._bare_since)

    def promoted(self, now: float) -> None:
        """charon is Active, which was read back."""
        self.stopped()
        self._promoted_at = now

    def stopped(self) -> None:
        """Not Active any more, or charon is another one."""
        self._promoted_at = self._there = None
        self._bare_since.clear()

    def looked(self, view: CharonView, began: float) -> list[str]:
        """In every role. The unique ids of those to end."""
        self._carries |= any(tunnel.carrying for tunnel in view.tunnels)
        if not self._carries or self._promoted_at is None or began < self._promoted_at:
            return []
        if began > self._promoted_at + WATCH_S:
            self.stopped()
            return []
        found = {record: one for record, one in view.ike.items() if one.established_s is not None and not one.rekeying}
        stubs = view.stubs[:MOST]
        clients = {one.ike_id: (record[IKE_NAME_BYTES:], one.identity) for record, one in found.items()}
        if self._there is None:
            self._there = set(clients.values())
        with_tunnel = {tunnel.ike_id for tunnel in view.tunnels if tunnel.carrying}
        bare = {ike_id for ike_id, client in clients.items() if client in self._there and ike_id not in with_tunnel}
        self._bare_since = {ike_id: self._bare_since.get(ike_id, began) for ike_id in sorted(bare)}
        return stubs + [ike_id for ike_id, since in self._bare_since.items() if began >= since + SETTLED_S][:MOST]
