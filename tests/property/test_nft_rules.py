"""Any rules: an answer comes, and what is not known never turns it round."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from site_agent.doctor.judge.nft_rules import Packet, Ruleset

DPORT = {"payload": {"protocol": "udp", "field": "dport"}}
LEFTS = st.sampled_from(
    [DPORT, {"meta": {"key": "l4proto"}}, {"meta": {"key": "mark"}}, {"ct": {"key": "state"}}, "odd", None]
)
VALUES = st.sampled_from(
    [500, 4500, "udp", "esp", "new", "@s", {"range": [1, 600]}, {"set": [500, "udp"]}, {"odd": 1}, None]
)
MATCH = st.fixed_dictionaries({"op": st.sampled_from(["==", "!=", "in", "<"]), "left": LEFTS, "right": VALUES})
MATCHES = st.fixed_dictionaries({"match": MATCH})
VERDICTS = st.sampled_from(
    [
        {"accept": None},
        {"drop": None},
        {"return": None},
        {"jump": {"target": "c1"}},
        {"goto": {"target": "c2"}},
        {"xt": None},
    ]
)
RULES = st.tuples(st.lists(MATCHES, max_size=2), VERDICTS).map(lambda rule: [*rule[0], rule[1]])
CHAINS = st.lists(RULES, max_size=4)
PACKETS = st.sampled_from(
    [
        Packet(name="", family="ip", protocol="udp", dport=500),
        Packet(name="", family="ip6", protocol="esp", state="untracked"),
    ]
)
UNKNOWN = {"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 1}}


def ruleset(policy: str, chains: list[list[list[dict[str, Any]]]]) -> Ruleset:
    place = {"family": "inet", "table": "t"}
    listing: list[dict[str, Any]] = [{"chain": {**place, "name": "c0", "hook": "input", "policy": policy}}]
    for number, rules in enumerate(chains):
        listing += [{"rule": {**place, "chain": f"c{number}", "expr": rule}} for rule in rules]
    return Ruleset({"nftables": listing})


@given(st.sampled_from(["accept", "drop"]), st.lists(CHAINS, min_size=3, max_size=3), PACKETS)
def test_an_answer_comes_and_less_knowledge_never_turns_it_round(
    policy: str, chains: list[list[list[dict[str, Any]]]], packet: Packet
) -> None:
    ruleset(policy, chains).dropped(packet, "input")
    clouded = [[[UNKNOWN, *rule] for rule in rules] for rules in chains]
    vaguer, _ = ruleset(policy, clouded).dropped(packet, "input")
    # Every rule may now be passed over as well: the policy's verdict is always among what is possible.
    assert vaguer is None or vaguer is (policy == "drop")


@given(st.lists(CHAINS, min_size=3, max_size=3), PACKETS)
def test_accepted_first_is_accepted(chains: list[list[list[dict[str, Any]]]], packet: Packet) -> None:
    first = [[[{"accept": None}], *chains[0]], *chains[1:]]
    assert ruleset("drop", first).dropped(packet, "input") == (False, "")
