"""Where to ask, the same for all commands that ask a coordinator.

`--coordinator`, `--credential` and `--root`, or ANYCAST_COORDINATOR, ANYCAST_CREDENTIAL and ANYCAST_ROOT. Without any, the
unix socket of a coordinator on this machine, as root.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[
    str,
    typer.Option("--coordinator", envvar="ANYCAST_COORDINATOR", metavar="URL", help="unix:PATH, or https://HOST:PORT."),
]
Credential = Annotated[
    Path | None, typer.Option(envvar="ANYCAST_CREDENTIAL", metavar="FILE", help="File with what `access add` printed.")
]
Root = Annotated[
    Path | None, typer.Option(envvar="ANYCAST_ROOT", metavar="FILE", help="root.pem of the management root; for https.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
