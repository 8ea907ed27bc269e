"""What a `rollout_world` begins with, and how its shell calls what never waits there."""

from __future__ import annotations

import functools
from collections.abc import Coroutine
from typing import Any

from anycast.content.content import Content
from tests.support.contents import SITES, made


@functools.cache
def base_content(sites: int, pairs: int, min_sites: int) -> Content:
    of = made(SITES[:sites], budget=f"{{min_sites: {min_sites}}}").content
    named = {}
    for n, name in enumerate(SITES[:sites]):
        (gateway,) = of.sites[name].gateways.values()
        gateways = {f"s{n}-gw{g + 1}": gateway for g in range(2 if n < pairs else 1)}
        named[f"s{n}"] = of.sites[name].model_copy(update={"gateways": gateways})
    return of.model_copy(update={"sites": named})


def at_once(what: Coroutine[Any, Any, None]) -> None:
    try:
        what.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for somebody")
