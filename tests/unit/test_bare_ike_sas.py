"""Which IKE_SAs a takeover has left without a CHILD_SA, and which only look so."""

from __future__ import annotations

from typing import Any

from site_agent.ike.mirror_view import CharonView
from site_agent.sync.bare_ike_sas import MOST, SETTLED_S, WATCH_S, BareIkeSas

AT = 1000.0
VIP = "203.0.113.1"


def seen(*sas: dict[str, Any]) -> CharonView:
    view = CharonView(frozenset({VIP}))
    for sa in sas:
        view.take({"vpn": sa})
    return view


def sa(number: int, *, spi: int = 0, children: int = 1, port: int = 4500, **changes: bytes) -> dict[str, Any]:
    child = {
        "name": b"vpn", "uniqueid": b"7", "reqid": b"9", "state": b"INSTALLED", "protocol": b"ESP", "spi-in": b"00001234",
        "spi-out": b"c2",
    }  # fmt: skip
    return {
        "uniqueid": str(number).encode(), "state": b"ESTABLISHED", "local-host": VIP.encode(),
        "remote-host": b"198.51.100.66", "remote-port": str(port).encode(),
        "initiator-spi": f"{spi or number:016x}".encode(), "responder-spi": b"42", "remote-id": f"client-{port}".encode(),
        "established": b"1", "child-sas": {f"vpn-{n}": child for n in range(children)},
    } | changes  # fmt: skip


def promoted(*, carries: bool = True) -> BareIkeSas:
    """As Backup it had a look at tunnels, or at clients without any."""
    bare = BareIkeSas()
    assert bare.looked(seen(sa(99, port=9999, children=carries)), AT - 60) == []
    bare.promoted(AT)
    return bare


def test_where_nobody_ever_had_a_tunnel_nobody_lacks_one() -> None:
    bare = promoted(carries=False)
    for at in (0, 3, 6):
        assert bare.looked(seen(sa(1, children=0)), AT + at) == []


def test_one_without_a_tunnel_in_two_looks_is_ended() -> None:
    bare = promoted()
    assert bare.looked(seen(sa(1), sa(2, port=4501)), AT + 0.1) == [] and not bare.suspects
    assert bare.looked(seen(sa(1, children=0), sa(2, port=4501)), AT + 3) == [] and bare.suspects
    assert bare.looked(seen(sa(1, children=0), sa(2, port=4501)), AT + 3 + SETTLED_S) == ["1"]


def test_one_whose_tunnel_comes_back_is_not() -> None:
    bare = promoted()
    for at, children in ((0, 0), (1, 1), (2, 0), (3, 0)):
        assert bare.looked(seen(sa(1, children=children)), AT + at) == []
    assert bare.looked(seen(sa(1, children=0)), AT + 2 + SETTLED_S) == ["1"]


def test_a_tunnel_on_its_way_out_is_none() -> None:
    going = sa(1)
    going["child-sas"]["vpn-0"] = going["child-sas"]["vpn-0"] | {"state": b"DELETING"}
    bare = promoted()
    bare.looked(seen(going), AT)
    assert bare.looked(seen(going), AT + SETTLED_S) == ["1"]


def test_who_rekeys_or_is_passive_is_left_alone() -> None:
    for changes in ({"state": b"REKEYING"}, {"state": b"PASSIVE"}, {"state": b"CONNECTING"}, {"state": b"DELETING"}):
        one = sa(1, children=0, **changes)
        if changes["state"] == b"PASSIVE":
            del one["established"]
        bare = promoted()
        bare.looked(seen(one), AT)
        assert bare.looked(seen(one), AT + 10) == []


def test_a_client_that_came_after_the_takeover_may_have_none() -> None:
    bare = promoted()
    bare.looked(seen(sa(1)), AT)
    for at in (5, 10):
        assert bare.looked(seen(sa(1), sa(2, port=4501, children=0)), AT + at) == []


def test_a_rekey_of_the_ike_sa_makes_no_new_client_of_it() -> None:
    bare = promoted()
    bare.looked(seen(sa(1, children=0)), AT)
    assert bare.looked(seen(sa(2, spi=99, children=0)), AT + 2) == []
    assert bare.looked(seen(sa(2, spi=99, children=0)), AT + 2 + SETTLED_S) == ["2"]


def test_only_for_a_while_after_a_takeover_and_only_by_looks_after_it() -> None:
    bare = promoted()
    assert bare.looked(seen(sa(1, children=0)), AT - 0.1) == []
    bare.looked(seen(sa(1, children=0)), AT + WATCH_S - 1)
    assert bare.looked(seen(sa(1, children=0)), AT + WATCH_S + 1.5) == []
    assert bare.looked(seen(sa(1, children=0)), AT + WATCH_S + 10) == []
    for bare in (BareIkeSas(), promoted()):
        bare.stopped()
        bare.looked(seen(sa(1, children=0)), AT)
        assert bare.looked(seen(sa(1, children=0)), AT + 10) == []


def test_what_is_nothing_but_keys_is_ended_at_once() -> None:
    stub = sa(1, children=0, **{"state": b"CONNECTING", "local-host": b"%any"})
    shaking_hands = sa(2, children=0, port=4501, state=b"CONNECTING")
    bare = promoted()
    assert bare.looked(seen(stub, shaking_hands, sa(3, port=4502)), AT - 1) == []
    assert bare.looked(seen(stub, shaking_hands, sa(3, port=4502)), AT + 0.1) == ["1"]


def test_not_more_than_a_few_at_once() -> None:
    all_bare = seen(*(sa(n, port=4500 + n, children=0) for n in range(1, 3 * MOST)))
    bare = promoted()
    bare.looked(all_bare, AT)
    assert len(bare.looked(all_bare, AT + SETTLED_S)) == MOST
