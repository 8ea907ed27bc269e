"""Which SAs an Active wants rekeyed, from one look at its charon: what it took over, and what nears an end of its own. Pure.

An SA nears its end by

* its lifetime: a CHILD_SA whose soft mark passed while this charon was PASSIVE, which ignores it; an IKE_SA whose age over
  all gateways (`ages`) has passed the time at which its maker would have rekeyed it. Its hard mark is `over_s` later;
* its numbers: the kernel told that three quarters of a block are used (`numbers.RekeySa`);
* its takeovers: after the next one no block would be left (`numbers.spent`).

The last two have no time of their own: they may come any moment, so they go first. The kernel's own limits end them.
"""

from __future__ import annotations

from collections.abc import Collection

from anycast.reasons import Reason
from site_agent.ike.mirror_view import IKE_NAME_BYTES, CharonView, IkeSa, Tunnel, ike_sa_name
from site_agent.ike.rekey_queue import Looked, SaId, Wish, Wished
from site_agent.sync.ages import Ages

SPI_BYTES = 4


def sa_of(tunnel: Tunnel) -> SaId:
    return SaId("child", tunnel.child_id)


def looked_of(view: CharonView, began: float) -> Looked:
    rekeying = {SaId("ike", ike_sa.ike_id): ike_sa.rekeying for ike_sa in view.ike.values()}
    rekeying |= {sa_of(tunnel): tunnel.rekeying for tunnel in view.tunnels if tunnel.carrying}
    return Looked(rekeying=rekeying, began=began)


def taken_over(view: CharonView, outbound: Collection[bytes], began: float) -> Wished:
    """`outbound`: SPIs of the SAs that the peer made or sent on before us."""
    wanted = frozenset(outbound)
    wishes = (_wish(tunnel, began) for tunnel in view.tunnels if tunnel.carrying and spi_out(tunnel) in wanted)
    return Wished(reason=Reason.TAKEN_OVER, wishes=tuple(wishes))


def overdue(
    view: CharonView, spent: Collection[bytes], ages: Ages, began: float, *, rekey_s: float, over_s: float
) -> Wished:
    """`spent`: outbound SPIs that near the end of their numbers. `rekey_s`, `over_s`: of IKE_SAs, as rendered."""
    near, wishes = frozenset(spent), list[Wish]()
    for tunnel in view.tunnels:
        if not tunnel.carrying:
            continue
        if spi_out(tunnel) in near:
            wishes.append(_wish(tunnel, began, deadline=began))
        elif tunnel.rekey_in_s is not None and tunnel.rekey_in_s <= 0:
            wishes.append(_wish(tunnel, began))
    for record, ike_sa in view.ike.items():
        made_at = ages.made_at(record[:IKE_NAME_BYTES])
        if made_at is not None and began - made_at >= rekey_s:
            mark = made_at + rekey_s + over_s
            wishes.append(_wish_of_ike(ike_sa, mark))
    return Wished(reason=Reason.REKEY_OVERDUE, wishes=tuple(wishes))


def every_ike_sa(view: CharonView) -> Wished:
    """After messages of the `ha` plugin were lost: message IDs begin anew, on both gateways, whatever the mirror has missed
    of them. One that it did not hear of is seen by nobody: VICI does not tell it, and no digest has it."""
    wishes = tuple(
        _wish_of_ike(ike_sa)
        for ike_sa in view.ike.values()
        if ike_sa.established_s is not None
    )
    return Wished(reason=Reason.MESSAGES_LOST, wishes=wishes, more=True)


def spi_out(tunnel: Tunnel) -> bytes:
    return tunnel.ends[1][:SPI_BYTES]


def _wish_of_ike(ike_sa: IkeSa, mark: float = float("inf")) -> Wish:
    return Wish(
        sa=SaId("ike", ike_sa.ike_id),
        ike=ike_sa.ike_id,
        name=ike_sa_name(ike_sa.identity),
        client=ike_sa.identity,
        deadline=mark,
        end_at=mark,
    )


def _wish(tunnel: Tunnel, began: float, *, deadline: float | None = None) -> Wish:
    if deadline is None:
        deadline = float("inf") if tunnel.life_in_s is None else began + tunnel.life_in_s
    return Wish(sa=sa_of(tunnel), ike=tunnel.ike_id, name=tunnel.name, client=tunnel.identity, deadline=deadline)
