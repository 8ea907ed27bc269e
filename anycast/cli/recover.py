"""`anycast recover`: have a coordinator whose store is behind take what the gateways have (docs/coordinator.md)."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from anycast.cli.coordinator_client import DEFAULT, Target, ask
from anycast.cli.options import AsJson, Credential, Root, Url


def recover(
    reason: Annotated[str, typer.Option(help="Why; for the history.")],
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="GATEWAY", help="One whose word does not count: it lies, or is gone for good. May come again."),
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
) -> None:
    """Of a coordinator that is read-only: take the contents that gateways have, and go on from there.

    Each content counts by its operator's signature. Generations go on above the highest that is known. Who did it and why
    stands in the history. Refused, with every reason, where two contents came under one generation, a content is handed over
    by nobody or signed by nobody, or a gateway has not been heard.

    Exit status: 0 done; 1 refused; 2 the command line or a file cannot be used; 3 the coordinator does not answer.
    """
    if sys.stderr.isatty():
        print("asking the gateways for what they have …", file=sys.stderr)
    body = {"reason": reason, "without": without or []}
    found = ask(Target(url, credential, root), "POST", "/v1/recovery", body)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for each in found["contents"]:
        numbers = ", ".join(map(str, each["generations"]))
        who = ", ".join(each["handed_over_by"])
        print(f"content {each['hash'][:12]}, generation {numbers}, signed by {each['signed_by']}: from {who}")
    print(f"the store knows what {len(found['heard'])} gateways have; the next generation is above {found['generation']}")
