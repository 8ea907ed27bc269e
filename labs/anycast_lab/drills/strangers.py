"""What strangers did to a lab's gateways, and what they got: plain data."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flooded:
    """What a flood came to at one gateway."""

    gateway: str
    sent_per_s: float
    received_per_s: float
    """By the IP layer's own counters in the gateway's kernel."""
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """What somebody without a tunnel got from the VIP."""

    echo: bool
    ike: str
    """`cookie`, `answered`, or `silent`."""

    @property
    def refused(self) -> bool:
        """Nothing came back."""
        return not self.echo and self.ike == "silent"

    @property
    def served(self) -> bool:
        """Both questions were answered."""
        return self.echo and self.ike != "silent"

    def __str__(self) -> str:
        return f"echo {'answered' if self.echo else 'silent'}, IKE {self.ike}"
