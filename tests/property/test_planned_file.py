"""Any text is planned, or refused with a sentence; and whatever was done to a lock file, it is read or refused."""

from __future__ import annotations

import datetime
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.errors import ConfigError
from anycast.fleet.loading import loads
from anycast.prefixes.lock import decode_lock, encode_lock
from anycast.prefixes.planning import plan_file
from tests.support.documents import TREE

DAY = datetime.date(2026, 11, 29)
TEXT = (TREE / "docs" / "fleet-planned.yaml").read_text()
LOCK = encode_lock(plan_file(TEXT, None, DAY).after)
WORDS = st.sampled_from(
    [
        *("", "no", "0", "7", "{}", "[]", "[a]", "x: y", "fra", "sin", "ipv4", "anycast", "pools", "/24", "25 %", "30 d"),
        *("203.0.113.0/24", "203.0.113.7", "203.0.113.7/32", "192.0.2.0/24", "192.0.2.64/26", "198.51.100.1", "0.0.0.0/0"),
        *('"2001:db8::/32"', '"2001:db8:1000::1"', '"::/0"', '"2001:db8:1000:100::/56"', "4095", "lab", "production"),
    ]
)
KINDS = st.sampled_from(["drop", "twice", "value", "word", "indent", *["clients", "name", "pin", "fewer"] * 4])
"""The last four mostly leave a file that can be planned."""
edits = st.lists(st.tuples(KINDS, st.integers(0, 10**6), WORDS), min_size=1, max_size=4)


def edited(text: str, changes: list[tuple[str, int, str]]) -> str:
    lines = text.splitlines()
    for what, at, word in changes:
        number = at % len(lines)
        line = lines[number]
        match what:
            case "drop":
                del lines[number]
            case "twice":
                lines.insert(number, line)
            case "value":
                lines[number] = f"{line.partition(': ')[0]}: {word}"
            case "word":
                words = line.split(" ")
                words[at // 7 % len(words)] = word
                lines[number] = " ".join(words)
            case "clients":
                lines = [re.sub(r"clients: \d+", f"clients: {at % 40 + 1}", each) for each in lines]
            case "name":
                lines = [each.replace("sin", f"s{at % 3}") for each in lines]
            case "pin":
                lines = [each.replace("asn: 64502", f"asn: 64502\n    spi_label: {at % 4 + 1}") for each in lines]
            case "fewer":
                lines = [each.replace("use: [anycast, unicast]", "use: [anycast]") for each in lines]
            case _:
                lines[number] = f"  {line}"
        if not lines:
            lines = [""]
    return "\n".join(lines) + "\n"


@given(edits, st.booleans())
@settings(max_examples=250)
def test_any_fleet_file_is_planned_or_refused_with_a_sentence(changes: list[tuple[str, int, str]], planned: bool) -> None:
    text, lock = edited(TEXT, changes), decode_lock(LOCK) if planned else None
    try:
        made = plan_file(text, lock, DAY)
    except ConfigError as exc:
        assert exc.problems and all(problem.what for problem in exc.problems)
    else:
        again = plan_file(text, decode_lock(encode_lock(made.after)), DAY)
        assert not again.changed and again.fleet == made.fleet
        assert loads(text, lock=made.after) == made.fleet, "what is planned is what everybody reads"
    try:
        loads(text, lock=lock)
    except ConfigError as exc:
        assert exc.problems


@given(edits)
@settings(max_examples=100)
def test_any_lock_file_is_read_or_refused_with_its_line(changes: list[tuple[str, int, str]]) -> None:
    text = edited(LOCK, changes)
    try:
        lock = decode_lock(text)
    except ConfigError as exc:
        assert exc.problems and all(problem.line for problem in exc.problems)
        return
    assert decode_lock(encode_lock(lock)) == lock
    try:
        made = plan_file(TEXT, lock, DAY)
    except ConfigError as exc:
        assert exc.problems
    else:
        assert not plan_file(TEXT, made.after, DAY).changed
