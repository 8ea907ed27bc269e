"""Documents for tests, made of the two-site fleet that the labs run, with files where a test may put them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anycast.document import Bfd, Document, SharedChecks
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import load

TREE = Path(__file__).resolve().parents[2]
TWO_SITE = TREE / "labs" / "topologies" / "two-site.fleet.yaml"


def document(
    gateway: str = "fra-gw1",
    *,
    secrets: Path | None = None,
    checks: SharedChecks | None = None,
    bfd: Bfd | None = None,
    **agent: Any,
) -> Document:
    """The document of `gateway`; its secrets lie in `secrets`, and `agent` replaces fields of its agent part.

    `checks`, where given, replaces the fleet's of what lies outside the gateway; `bfd` runs beside each BGP session.
    """
    made = compile_gateway(load(TWO_SITE), gateway)
    if checks is not None:
        made = made.model_copy(update={"service": made.service.model_copy(update={"checks": checks})})
    if bfd is not None:
        neighbors = tuple(neighbor.model_copy(update={"bfd": bfd}) for neighbor in made.bgp.neighbors)
        made = made.model_copy(update={"bgp": made.bgp.model_copy(update={"neighbors": neighbors})})
    if secrets is not None:
        data = made.model_dump(mode="json")
        for field in ("certificate", "private_key", "client_ca"):
            data["service"][field] = str(secrets / Path(data["service"][field]).name)
        canary = data["service"]["checks"]["canary"]
        for field in ("certificate", "private_key", "gateway_ca") if canary is not None else ():
            canary[field] = str(secrets / Path(canary[field]).name)
        for neighbor in data["bgp"]["neighbors"]:
            if neighbor["md5_key_file"] is not None:
                neighbor["md5_key_file"] = str(secrets / Path(neighbor["md5_key_file"]).name)
        made = Document.model_validate(data)
    return made.model_copy(update={"agent": made.agent.model_copy(update=agent)})
