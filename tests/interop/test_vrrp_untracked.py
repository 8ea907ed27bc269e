"""Two vrrp processes talk, and the kernel's connection table has nothing of it: a full one could drop no advertisement.

Nothing is filled and no limit is changed: what has no entry needs no place. Each time the same rules without tracking's
exceptions are loaded afterwards, and the entries that come show that they were looked for in the right place.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from anycast.document import Document
from site_agent.doctor.examination import examine
from site_agent.doctor.finding import Finding
from site_agent.render.nftables import render_nftables, tracked
from site_agent.vrrp.packet import PROTOCOL
from tests.support.namespace import in_namespace
from tests.support.vrrp_pair import KEYS, VRID, Lan, own, wait
from tests.unit.test_rendered_files import pair

OPERATOR = (
    "table inet filter { chain i { type filter hook input priority 0; policy accept; ct state established accept; }; }"
)
"""Any rule about a connection's state makes the kernel track."""


def table(n: int, *, group: bool) -> str:
    """What gateway `n`'s agent would load, with the addresses of `Lan`."""
    data = pair("pair", "fra-gw1").model_dump(mode="json")
    data["vrrp"]["vrid"] = VRID
    (outside,) = (path for path in data["vrrp"]["paths"] if path["path"] == "outside")
    for voice in outside["voices"]:
        family = 6 if ":" in voice["destination"] else 4
        to = {4: "224.0.0.18", 6: "ff02::12"}[family] if group else str(own(3 - n, family))
        voice.update(source="" if group and family == 6 else str(own(n, family)), destination=to)
    assert {":" in voice["destination"] for voice in outside["voices"]} == {True, False}
    return render_nftables(Document.model_validate(data))


def command(n: int, *words: str, text: str = "") -> str:
    where = ("ip", "netns", "exec", f"gw{n}")
    return subprocess.run([*where, *words], input=text, capture_output=True, text=True, check=True).stdout


def entries(n: int) -> list[str]:
    """Of protocol 112 in gateway `n`'s connection table: family, source and destination of the first packet."""
    lines = [line.split() for line in command(n, "cat", "/proc/net/nf_conntrack").splitlines()]
    return sorted(" ".join((words[0], *words[5:7])) for words in lines if words[3] == str(PROTOCOL))


def talk_leaves_no_entry(*, group: bool) -> None:
    with Lan() as lan:
        for n in (1, 2):
            command(n, "nft", "-f", "-", text=OPERATOR)
            command(n, "nft", "-c", "-f", "-", text=table(n, group=group))
            command(n, "nft", "-f", "-", text=table(n, group=group))
        both = lan.pair(multicast=True) if group else lan.pair(keys=KEYS)

        def goes_on() -> None:
            """Two reports of each: a second, ten advertisements."""
            for process in both:
                at = len(process.heard)
                process.wait("goes on", lambda status: len(process.heard) > at + 1)  # noqa: B023

        goes_on()
        assert [entries(n) for n in (1, 2)] == [[], []]
        for n in (1, 2):
            command(n, "nft", "-f", "-", text=tracked(table(n, group=group)))
        for n in (1, 2):
            wait(lambda: {e.split()[0] for e in entries(n)} == {"ipv4", "ipv6"}, "both families are tracked")  # noqa: B023
        assert [process.status.role for process in both if process.status] == ["active", "backup"]


@in_namespace
def test_between_two_sealed_gateways() -> None:
    talk_leaves_no_entry(group=False)


@in_namespace
def test_where_advertisements_go_to_a_group() -> None:
    talk_leaves_no_entry(group=True)


@in_namespace
def test_doctor_says_where_a_filter_drops_it_and_its_mend_lets_it_in() -> None:
    policy = "table inet t { chain i { type filter hook input priority 0; policy drop; }; }"
    subprocess.run(["nft", "-f", "-"], input=policy, text=True, check=True)
    made = pair("pair", "fra-gw1")

    def dropped() -> list[Finding]:
        seen = examine(document=made, source="", etc_dir=Path("/run/none"), vici=None).findings
        return [finding for finding in seen if finding.id == "firewall_drops" and "VRRP" in finding.seen]

    found = dropped()
    assert len(found) == 5, "both families outside and inside, and management"
    for finding in found:
        subprocess.run(["sh", "-c", finding.mend[0]], check=True)
    assert not dropped()
