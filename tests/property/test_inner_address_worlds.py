"""No inner address is given to a client while another one has it, whatever happens; ranges are sets; any bytes."""

from __future__ import annotations

import inspect
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.ike import inner_address_words as words
from site_agent.ike import inner_addresses as module
from site_agent.ike.address_ranges import MAPPED, Range, Ranges, address_text, decode_ranges, encode_ranges, parse_range
from tests.support.addresses_world import GivenTwice, run

SEEDS = range(60)


@pytest.mark.parametrize("seed", [*range(20), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(20, 200))])
def test_no_address_is_given_twice_whatever_happens(seed: int) -> None:
    world = run(seed)
    assert world.given > 20, "nothing was tried"


def test_the_simulation_reaches_what_it_is_about() -> None:
    worlds = [run(seed) for seed in range(10)]
    assert sum(world.borrowed for world in worlds) > 100, "shares run short"
    assert sum(world.refused for world in worlds) < sum(world.given for world in worlds) / 3, "and clients are served"
    assert sum(world.kept for world in worlds) > 100, "tunnels outlive the gateway they were built on"


MUTANTS: dict[str, tuple[str, str, str]] = {
    "everybody hands out of everything": ("_allowed", "(self._own - self._lent) | self._borrowed", "self._all"),
    "what closes is free": ("_conclude", "self._closed.append((None, closed))", "pass"),
    "the other's use is ignored": ("_recount", "known if self._peer is None else known | self._peer.uses", "known"),
    "what is lent is handed out": ("_allowed", "(self._own - self._lent)", "self._own"),
    "borrows what is not lent": ("_allowed", "self._borrowed", "self._last_word.asks"),
    "gone at once": ("_forgets_at", "+ self._limits.forget_s", "+ 1"),
}
"""By what is broken: a method of the core, what stands there, what takes its place. Rarer ones: tests/unit."""


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_core_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, stands, instead = MUTANTS[name]
    source = textwrap.dedent(inspect.getsource(getattr(module.InnerAddresses, method)))
    assert source.count(stands) == 1, "the mutant has nothing to break"
    namespace = dict(vars(module))
    exec("from __future__ import annotations\n" + source.replace(stands, instead), namespace)
    monkeypatch.setattr(module.InnerAddresses, method, namespace[method])
    with pytest.raises(GivenTwice):
        for seed in SEEDS:
            run(seed)


NUMBERS = st.integers(0, 40) | st.integers(MAPPED - 3, MAPPED + 40)
SETS = st.sets(NUMBERS, max_size=30)


@given(SETS, SETS)
def test_ranges_are_sets(one: set[int], other: set[int]) -> None:
    a, b = Ranges.of(one), Ranges.of(other)
    for ours, theirs in ((a | b, one | other), (a - b, one - other), (a & b, one & other)):
        assert {number for part in ours for number in range(part.first, part.last + 1)} == theirs
        assert ours == Ranges.of(theirs) and hash(ours) == hash(Ranges.of(theirs)) and ours.count() == len(theirs)
    assert all((number in a) == (number in one) for number in one | other)
    assert decode_ranges(encode_ranges(a), "test") == a


@given(NUMBERS, st.integers(0, 5))
def test_a_range_is_read_as_it_is_written(first: int, more: int) -> None:
    one = Range(first, first + more)
    if (first < MAPPED) == (one.last < MAPPED):
        assert parse_range(str(one)) == one
        assert address_text(first) == str(one).partition("-")[0]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_word_or_refused(data: bytes) -> None:
    for candidate in (data, b"\x01" + data[1:]):
        try:
            word = words.decode_word(candidate)
        except DecodeError:
            continue
        assert words.encode_word(word) == candidate
