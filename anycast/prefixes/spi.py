"""What a site's SPI label makes of the SPIs that its charon hands out, so that any gateway can tell whose a stray packet is.

The label is the topmost 12 bits of an ESP SPI (RFC 4303 section 2.1: 32 bits, 0 to 255 reserved, which no label but 0 would
reach) and of an IKE SPI (RFC 7296 section 3.1: 64 bits). So ESP's are one range, as strongSwan's ``charon.spi_min`` and
``spi_max`` want it, of a million SPIs a site; IKE's are ``charon.spi_label`` under ``spi_mask``, with 52 bits left to
chance. Pure.
"""

from __future__ import annotations

import dataclasses

LABEL_BITS = 12
LABELS = range(1, 1 << LABEL_BITS)
"""Every label that a site can have."""


@dataclasses.dataclass(frozen=True, slots=True)
class SpiLabel:
    """One site's."""

    number: int
    """Of `LABELS`."""

    @property
    def esp(self) -> range:
        """The ESP SPIs that the site may hand out."""
        shift = 32 - LABEL_BITS
        return range(self.number << shift, (self.number + 1) << shift)

    @property
    def esp_mask(self) -> int:
        return ((1 << LABEL_BITS) - 1) << (32 - LABEL_BITS)

    @property
    def ike(self) -> int:
        """The bits that each of the site's IKE SPIs has under `ike_mask`, in network order."""
        return self.number << (64 - LABEL_BITS)

    @property
    def ike_mask(self) -> int:
        return ((1 << LABEL_BITS) - 1) << (64 - LABEL_BITS)

    def __str__(self) -> str:
        esp = self.esp
        return f"ESP 0x{esp.start:08x} to 0x{esp.stop - 1:08x}, IKE 0x{self.ike:016x}/{LABEL_BITS}"
