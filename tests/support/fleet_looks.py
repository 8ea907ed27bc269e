"""What a test of a whole fleet looks for in status and history."""

from __future__ import annotations

from typing import Any, Protocol


class Asked(Protocol):
    """Who has a coordinator to ask."""

    async def ask(self, *words: str) -> Any: ...


def state(status: Any, site: str) -> str:
    return str(next(each["state"] for each in status["sites"] if each["site"] == site))


async def slots(made: Asked) -> list[str]:
    """Ids of what was entered for fra and has not returned, by history."""
    open_: dict[str, None] = {}
    for line in (await made.ask("history"))["lines"]:
        if line["action"] == "slot.taken" and line["body"]["site"] == "fra":
            open_[line["body"]["id"]] = None
        elif line["action"] == "slot.returned":
            open_.pop(line["body"]["id"], None)
    return list(open_)


async def begun(made: Asked) -> list[Any]:
    return [line for line in (await made.ask("history"))["lines"] if line["action"] == "rollout.begin"]
