"""Steps of a drill file that take something away under daemons that live on (`kernel_faults` does them)."""

from __future__ import annotations

from typing import Literal

from anycast_lab.drills.limits import Strict


class FlushStates(Strict):
    """Take every SA out of a gateway's kernel, under a charon that goes on believing in them."""

    do: Literal["flush_states"]
    at: Literal["victim", "peer"] = "victim"


class FlushPolicies(Strict):
    """Take every policy out of the victim's kernel."""

    do: Literal["flush_policies"]


class DeleteState(Strict):
    """Take both SAs of one client out of the victim's kernel."""

    do: Literal["delete_state"]


class LinkDown(Strict):
    """Pull the victim's cable at its far end: the victim loses carrier."""

    do: Literal["link_down"]
    interface: Literal["uplink", "inside", "management"]


class LinkUp(Strict):
    do: Literal["link_up"]
    interface: Literal["uplink", "inside", "management"]


class MuteClients(Strict):
    """Drop every packet from and to the clients: out of coverage, all of them."""

    do: Literal["mute_clients"]


class UnmuteClients(Strict):
    do: Literal["unmute_clients"]


KernelStep = FlushStates | FlushPolicies | DeleteState | LinkDown | LinkUp | MuteClients | UnmuteClients
