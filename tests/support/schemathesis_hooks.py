"""Loaded by schemathesis (SCHEMATHESIS_HOOKS): whose credential it shows, and that what is refused changes nothing.

ANYCAST_TEST_CREDENTIAL and ANYCAST_TEST_STORE are paths: no secret stands in arguments or environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import schemathesis

from tests.support.coordinator import digest

STORE = Path(os.environ["ANYCAST_TEST_STORE"])
_known = digest(STORE)


@schemathesis.auth()
class Credential:
    """An admin's."""

    def get(self, case: Any, context: Any) -> str:
        return Path(os.environ["ANYCAST_TEST_CREDENTIAL"]).read_text().strip()

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {data}"}


@schemathesis.check
def refused_changes_nothing(ctx: Any, response: Any, case: Any) -> None:
    """Every line of the store is as it was, unless something that writes was done."""
    global _known
    before, _known = _known, digest(STORE)
    if response.status_code >= 400 or case.method == "GET":
        assert _known == before, f"answered {response.status_code}, and the store has changed"


@schemathesis.check
def one_sentence(ctx: Any, response: Any, case: Any) -> None:
    """A refusal is one, and shows nothing of what is inside."""
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error and "\n" not in error and "Traceback" not in response.text
