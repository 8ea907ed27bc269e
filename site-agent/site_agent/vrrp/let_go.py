"""What is done in place of an Active vrrp process that has ended: its addresses go, and priority 0 is sent.

The other gateway then takes over at once, and nobody answers for an address that it has. Blocks for as long as the kernel
needs, so it belongs into a thread.
"""

from __future__ import annotations

from site_agent.vrrp.addresses import Addresses
from site_agent.vrrp.boot_mark import begin
from site_agent.vrrp.ears import Ears
from site_agent.vrrp.plan import Plan
from site_agent.vrrp.seal import Flag, Path, newest, pack_fields


def let_go(plan: Plan, *, boot: int) -> tuple[list[str], int]:
    """By the plan that the process ran by; `boot` is its last. Returns what was refused, in words, and the boot used."""
    ears, addresses = Ears(plan), Addresses(plan)
    ears.look()
    addresses.encode(ears.interfaces)
    refused = addresses.remove()
    addresses.close()
    boot, unmarked = begin(plan.boot_mark, after=boot)
    fields = pack_fields(plan.key_in_use, Flag.ACTIVE, Path(0), plan.router_id, boot, 1, newest(plan.keys))
    for voice in ears.voices:
        voice.send(0, fields)
        voice.close()
    return [*ears.faults, *refused, *unmarked], boot
