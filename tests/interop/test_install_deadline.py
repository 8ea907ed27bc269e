"""What an agent does before its first renewal has an end: an ExaBGP that reads a changed file for ever changes nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from anycast.document import Document
from anycast.reasons import Reason
from site_agent.document_source import READING_LIMIT_S, Choice, put_in_place
from site_agent.installation import make_directories
from site_agent.paths import Paths
from tests.support.gateway import Gateway
from tests.support.namespace import in_namespace

pytestmark = pytest.mark.root


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}


@in_namespace
def test_a_file_that_exabgp_does_not_read_in_time_leaves_everything_as_it_was_and_says_so() -> None:
    gateway = Gateway(recovery_ms=0)
    paths = Paths(run_dir=gateway.base / "run", state_dir=gateway.base / "state", etc_dir=gateway.base / "etc")
    make_directories(paths)
    put_in_place(Choice(document=gateway.document), paths)
    before = files(paths.etc_dir)
    data = gateway.document.model_dump(mode="json")
    data["bgp"]["neighbors"][0]["name"] = "renamed"
    data["service"]["inside"] = ["192.0.2.0/29"]
    changed = Document.model_validate(data)
    slow = gateway.base / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 300\n")
    slow.chmod(0o755)
    with mock.patch.object(sys, "executable", str(slow)):
        began = time.monotonic()
        choice = put_in_place(Choice(document=changed), paths)
        assert time.monotonic() - began < READING_LIMIT_S + 2, "a third of the restart grace"
    assert changed.lease.grace_ms / 3000 >= READING_LIMIT_S
    assert choice.document == gateway.document
    (alarm,) = choice.alarms
    assert alarm.reason is Reason.CONFIG_REFUSED and "a restart tries again" in alarm.detail
    assert files(paths.etc_dir) == before, "not half of the new ones, and no scratch file"
    # Read in time, it is taken.
    assert put_in_place(Choice(document=changed), paths) == Choice(document=changed)
    assert files(paths.etc_dir) != before
