"""Which kernel a lab runs on: this machine's, where it can do ESP, else User Mode Linux.

`LAB_KERNEL=native` or `uml` in the environment decides instead. Native without ESP is useful for everything but tunnels.
"""

from __future__ import annotations

import os
import subprocess
from typing import Literal

from anycast.errors import ConfigError, Problem

Kernel = Literal["native", "uml"]

_PROBE = (
    "unshare",
    "--net",
    "ip",
    "xfrm",
    "state",
    "add",
    "src",
    "192.0.2.1",
    "dst",
    "192.0.2.2",
    "proto",
    "esp",
    "spi",
    "0x100",
    "mode",
    "tunnel",
    "aead",
    "rfc4106(gcm(aes))",
    "0x" + "00" * 20,
    "128",
)


def has_esp() -> bool:
    """Ask this kernel, by adding an SA in a network namespace that ends with the question. Needs root and iproute2."""
    return subprocess.run(_PROBE, capture_output=True, check=False).returncode == 0


def choose(*, esp: bool) -> Kernel:
    """`esp`: what `has_esp` said."""
    match os.environ.get("LAB_KERNEL", ""):
        case "native":
            return "native"
        case "uml":
            return "uml"
        case "":
            return "native" if esp else "uml"
        case other:
            raise ConfigError([Problem("LAB_KERNEL", f"`{other}` is neither `native` nor `uml`")])
