"""The description of the REST interface against a real coordinator: schemathesis asks it whatever the description allows,
and what it does not. Every answer is documented and of the shape that is, none is a 5xx, no refusal changes the store.

`POST /v1/rollouts` takes the one canonical spelling of a signed text, which a schema cannot say: it is only refused here.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast.cli.coordinator_client import Target, fetch
from tests.support.coordinator import Coordinator, kill
from tests.support.gateway import ENVIRONMENT
from tests.support.tree import TREE

pytestmark = pytest.mark.daemons

STREAM = "/v1/watch"
"""Never ends."""
SIGNED = """
[[operations]]
include-operation-id = "begin_rollout"
[operations.checks.positive_data_acceptance]
enabled = false
"""


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path, "--operators", "127.0.0.1:0")
    made.start()
    yield made
    kill(made.process)


def explored(coordinator: Coordinator, *options: str, limit_s: float) -> subprocess.CompletedProcess[str]:
    """What schemathesis came to, with an admin's credential."""
    credential = coordinator.base / "credential"
    credential.write_text(coordinator.run("access", "add", "explorer", "--role", "admin").stdout)
    settings = coordinator.base / "schemathesis.toml"
    settings.write_text(SIGNED)
    description = coordinator.base / "openapi.json"
    description.write_bytes(fetch(Target(f"unix:{coordinator.base}/run/coordinator.sock"), "/v1/openapi.json"))
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(settings), "run", str(description),
        "--url", f"http://127.0.0.1:{coordinator.operators_port}", "--exclude-path", STREAM,
        "--request-timeout", "20", "--suppress-health-check", "all", *options,
    ]  # fmt: skip
    environment = {
        **ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(TREE), ENVIRONMENT["PYTHONPATH"]]), "COLUMNS": "120",
        "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "ANYCAST_TEST_CREDENTIAL": str(credential),
        "ANYCAST_TEST_STORE": str(coordinator.store),
    }  # fmt: skip
    return subprocess.run(
        command, env=environment, cwd=coordinator.base, capture_output=True, text=True, check=False, timeout=limit_s
    )


def holds(coordinator: Coordinator, *options: str, limit_s: float) -> None:
    process = coordinator.process
    assert process is not None and process.stderr is not None
    said: list[str] = []
    reading = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
    reading.start()
    done = explored(coordinator, *options, limit_s=limit_s)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert tested is not None and tested[1] == tested[2] and int(tested[1]) > 100, done.stdout
    assert process.poll() is None
    assert coordinator.run("history", "verify").stdout.startswith("history is whole;")
    kill(process)
    reading.join(10)
    assert not [line for line in said if "Traceback" in line or "ERROR" in line], ''.join(said)


def test_every_answer_is_as_it_is_described(coordinator: Coordinator) -> None:
    holds(coordinator, "--max-examples", "8", "--seed", "1", "--phases", "examples,coverage", limit_s=200)


@pytest.mark.long
def test_every_answer_is_as_it_is_described_at_length(coordinator: Coordinator) -> None:
    seed = str(random.randrange(2**32))
    print(f"--seed {seed}")
    holds(coordinator, "--max-examples", "400", "--seed", seed, limit_s=3000)
