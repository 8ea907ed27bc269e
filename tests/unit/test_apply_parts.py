"""`site-agent apply`: whatever one part runs into is a sentence of its own, and the other parts are tried all the same."""

from __future__ import annotations

import asyncio
import types
from pathlib import Path
from typing import Any, cast

import pytest

from anycast.errors import PeerError
from site_agent.apply import apply


def part(raises: BaseException | None) -> Any:
    async def reload() -> str:
        if raises is not None:
            raise raises
        return "done"

    return cast(Any, types.SimpleNamespace(reload=reload))


def unreadable(path: Path) -> OSError:
    """What reading a log that is a folder gives."""
    try:
        path.read_bytes()
    except OSError as exc:
        return exc
    raise AssertionError(f"{path} can be read")


@pytest.mark.parametrize("place", range(3))
def test_a_file_that_cannot_be_read_is_a_sentence_and_keeps_no_other_part_from_being_tried(
    place: int, tmp_path: Path
) -> None:
    names = ("charon", "nftables", "exabgp")
    parts = [part(unreadable(tmp_path) if number == place else None) for number in range(3)]
    said = asyncio.run(apply(parts[0], parts[1], parts[2], None))
    assert said["refused"] == {names[place]: f"Is a directory: {tmp_path}"}
    assert said["applied"] == {name: "done" for name in names if name != names[place]}


def test_silence_and_refusal_are_sentences_too() -> None:
    said = asyncio.run(apply(part(TimeoutError()), part(PeerError("nft", "no")), part(None), None))
    assert said["refused"]["charon"] == "did not answer"
    assert "no" in said["refused"]["nftables"]
    assert said["applied"] == {"exabgp": "done"}
