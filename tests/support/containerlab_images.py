"""What the containerlab runner needs, prepared once on a machine, or there already."""

from __future__ import annotations

import subprocess

from anycast_lab.containerlab import prepared
from anycast_lab.control.launch import CHECKOUT


def prepare() -> None:
    subprocess.run([str(CHECKOUT / "labs/containerlab"), "install"], check=True, timeout=900)
    if not prepared.is_current():
        subprocess.run([str(CHECKOUT / "labs/images/build"), "--disk"], check=True, timeout=1800)
