"""`anycast lab` as it is typed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anycast_lab import cli
from anycast_lab.containerlab import prepared
from anycast_lab.runner import LabError


class Lab:
    """Remembers what it was asked to run."""

    def __init__(self) -> None:
        self.argv: list[list[str]] = []

    def ask(self, _question: str, **fields: Any) -> dict[str, int]:
        self.argv.append(fields["argv"])
        return {"rc": 0}


@pytest.mark.parametrize(
    ("typed", "run"),
    [
        (["ip", "-br", "link"], ["ip", "-br", "link"]),
        (["--", "ip", "-br", "link"], ["ip", "-br", "link"]),
        (["sh", "-c", "--", "true"], ["sh", "-c", "--", "true"]),
    ],
)
def test_two_dashes_before_a_command_are_not_the_command(
    typed: list[str], run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab()

    @contextlib.contextmanager
    def client(_topology: Path, _name: str) -> Iterator[Lab]:
        yield lab

    monkeypatch.setattr(cli, "_client", client)
    done = CliRunner().invoke(cli.app, ["exec", "fra-gw1", *typed])
    assert (done.exit_code, lab.argv) == (0, [run]), done.output


def test_two_dashes_alone_are_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_client", lambda *_: pytest.fail("nothing to run"))
    assert CliRunner().invoke(cli.app, ["exec", "fra-gw1", "--"]).exit_code == 2


@pytest.mark.parametrize(
    "typed", [["-t"], ["-t", "labs/topologies/two-site.clab.yml", "charon-sigkill"], ["--topology", "x"]]
)
def test_a_drill_that_is_given_a_topology_says_that_it_has_its_own(
    typed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_borrowed", lambda *_: pytest.fail("nothing to run"))
    done = CliRunner().invoke(cli.app, ["drill", *typed], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
    assert done.exit_code == 2
    assert "a drill names its own topology" in done.output
    assert "--topology" not in CliRunner().invoke(cli.app, ["drill", "--help"]).output


def test_an_impairment_is_asked_for_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Impaired:
        def ask(self, verb: str, **fields: Any) -> None:
            asked.append((verb, fields["impairment"]))

    @contextlib.contextmanager
    def client(_topology: Path, _name: str) -> Iterator[Impaired]:
        yield Impaired()

    monkeypatch.setattr(cli, "_client", client)
    for options in (["--delay-ms", "20", "--loss", "0.5"], []):
        assert CliRunner().invoke(cli.app, ["impair", "fra-gw1", "eth1", *options]).exit_code == 0
    assert asked == [("impair", {"delay_ms": 20.0, "jitter_ms": 0.0, "loss_percent": 0.5}), ("impair", None)]


def test_there_are_two_runners() -> None:
    done = CliRunner().invoke(cli.app, ["up", "--runner", "podman"])
    assert done.exit_code == 2 and "embedded, containerlab" in done.output


@pytest.mark.parametrize("lacks", [True, False])
def test_containers_on_this_machines_own_kernel_are_refused_with_what_it_lacks(
    lacks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_KERNEL", "native")
    monkeypatch.setattr(cli.kernel, "has_esp", lambda: not lacks)
    monkeypatch.setattr(prepared, "MODULES", tmp_path / ("nowhere" if lacks else ""))
    with pytest.raises(LabError) as told:
        cli.up(runner="containerlab")
    assert str(told.value).startswith("the containerlab runner has User Mode Linux only")
    assert ("has no ESP and no" in str(told.value)) is lacks


def test_a_runner_that_is_not_prepared_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "BINARY", tmp_path / "containerlab")
    monkeypatch.setattr(prepared, "DISK", tmp_path / "images.ext4")
    with pytest.raises(LabError, match=r"labs/containerlab install.*labs/images/build --disk"):
        prepared.disk()
    prepared.BINARY.touch()
    with pytest.raises(LabError) as told:
        prepared.disk()
    assert "containerlab install" not in str(told.value)
