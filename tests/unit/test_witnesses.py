"""What a drill's witnesses read of BIRD, and that a look at all gateways is one command a router."""

from __future__ import annotations

from anycast_lab.drills.witnesses import import_withdraws

SHOWN = """\
BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
kernel4    Kernel     master4    up     10:00:01.000
gw1_ipv4   BGP        ---        up     10:00:02.000  Established
  BGP state:          Established
  Channel ipv4
    Routes:         1 imported, 0 filtered, 1 exported, 1 preferred
    Route change stats:     received   rejected   filtered    ignored   accepted
      Import updates:              3          0          0          0          3
      Import withdraws:            2          0        ---          0          2
      Export withdraws:            9        ---        ---        ---          9
  Channel ipv6
      Import withdraws:            1          0        ---          0          1
gw2_ipv4   BGP        ---        start  10:00:02.000  Idle
  BGP state:          Idle
  Channel ipv4
      Import withdraws:            0          0        ---          0          0
"""


def test_withdraws_are_counted_by_protocol_over_its_channels() -> None:
    assert import_withdraws(SHOWN) == {"gw1_ipv4": 3, "gw2_ipv4": 0}


def test_nothing_shown_is_nothing_counted() -> None:
    assert import_withdraws("") == {}
