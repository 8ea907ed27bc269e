"""The canary with a real gateway: a second charon in namespaces of its own, that leaves nothing behind however it ends.

Without ESP in the kernel its tunnels come as far as IKE; the rest is the drill's (canary-failing-everywhere).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from site_agent import priority
from site_agent.canary import plan
from site_agent.checks.canary import Echoes
from tests.support.gateway import WITH_CANARY, Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = pytest.mark.root

PATIENCE_S = 20.0
UNIT_CAPABILITIES = ("net_admin", "net_bind_service", "net_raw", "setuid", "setgid", "kill", "sys_ptrace", "chown")
"""As in site-agent.service."""
NETWORK = ("ip -j addr", "ip -j rule", "ip -j -6 rule", "ip -j -4 route show table all", "ip -j -6 route show table all",
           "ip -j neigh show nud permanent", "ip netns", "nft -s list ruleset", "ip xfrm policy")  # fmt: skip


def caged() -> list[int]:
    """The charons that live in another network namespace than ours, and are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if os.readlink(entry / "exe").endswith("/charon") and os.readlink(entry / "ns/net") != os.readlink(
                    "/proc/self/ns/net"
                ):
                    found.append(int(entry.name))
    return found


def status_of(gateway: Gateway) -> dict[str, Any]:
    """Without `checks` where no agent answers yet."""
    said: dict[str, Any] = json.loads(gateway.ask("status", "--json").stdout)
    return said


def seen(gateway: Gateway) -> dict[str, Any]:
    """The row of the check in `status`."""
    rows = status_of(gateway).get("checks", [])
    return next((row for row in rows if row["check"] == "canary"), {})


def cables() -> list[str]:
    shown = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    return [line.split("@")[0].split()[0] for line in shown.splitlines() if line.startswith(plan.INTERFACE)]


def gone() -> bool:
    return not caged() and not cables()


def picture() -> dict[str, str]:
    """What a canary could leave in the machine's network, settings included."""
    until(lambda: b"tentative" not in subprocess.check_output(["ip", "-6", "addr"]), "addresses that settled", within_s=10)
    said = {what: subprocess.run(what.split(), capture_output=True, text=True, check=False).stdout for what in NETWORK}
    for path in Path("/proc/sys/net").rglob("*"):
        name = str(path)
        if path.is_file() and "/neigh/" not in name and "nf_conntrack_count" not in name:
            with contextlib.suppress(OSError):
                said[name] = path.read_text()
    return said


def configure(gateway: Gateway, *, canary: bool) -> None:
    """What the next agent runs by."""
    data = gateway.document.model_dump(mode="json")
    if not canary:
        data["service"]["checks"]["canary"] = None
    (gateway.base / "document.json").write_text(json.dumps(data))


def stop(gateway: Gateway) -> None:
    gateway.signal_agent(signal.SIGTERM)
    assert gateway.agent is not None
    assert gateway.agent.wait(timeout=10) == 0


def connected(gateway: Gateway) -> bool:
    """By both families, as far as this kernel can."""
    row = seen(gateway)
    if row.get("status") == "passing":
        return True
    return row.get("reason") == "check_unavailable" and row["detail"].count("IKE_SA established") == 2


@in_namespace
def test_it_connects_to_both_vips_without_a_privilege_and_goes_without_a_trace() -> None:
    gateway = Gateway(checks=WITH_CANARY, recovery_ms=0)
    configure(gateway, canary=False)
    gateway.start()
    gateway.announced()
    stop(gateway)
    before = picture()  # with everything that an agent does to a machine but for the canary

    configure(gateway, canary=True)
    gateway.start()
    gateway.announced()
    until(lambda: connected(gateway), "the canary's IKE_SAs", within_s=PATIENCE_S)
    (pid,) = caged()
    status = Path(f"/proc/{pid}/status").read_text()
    assert "\nUid:\t65534\t65534\t65534\t65534\n" in status, "nobody outside its user namespace"
    assert "\nNoNewPrivs:\t1\n" in status
    assert gateway.agent is not None and os.getpriority(os.PRIO_PROCESS, gateway.agent.pid) == priority.HOLDS_THE_LEASE
    assert os.getpriority(os.PRIO_PROCESS, pid) == priority.ORDINARY
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    capabilities = next(line for line in status.splitlines() if line.startswith("CapEff"))
    assert int(capabilities.split()[1], 16) == 1 << 12, "CAP_NET_ADMIN over its own network, and no other"
    with_it = picture()

    stop(gateway)
    until(gone, "its end with the agent", within_s=5)
    after = picture()
    assert not {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}, "a trace"
    different = {name for name in with_it.keys() | after.keys() if with_it.get(name) != after.get(name)}
    network = {name for name in different if plan.INTERFACE not in name}
    assert network <= {NETWORK[0], NETWORK[3], NETWORK[4], NETWORK[5]}, "no setting and no rule but of its own interface"
    for name in network & {NETWORK[3], NETWORK[4]}:
        routes = [{route["dst"] for route in json.loads(part[name])} for part in (with_it, after)]
        extra = {route for route in routes[0] - routes[1] if not route.startswith(("fe80", "ff00"))}
        assert len(extra) <= 1, f"one host route a family: {extra}"


@in_namespace
def test_the_agents_credentials_stay_as_they_are_with_the_units_capabilities_too() -> None:
    gateway = Gateway(checks=WITH_CANARY, recovery_ms=0)
    gateway.wrapper = ["setpriv", f"--bounding-set=-all,{','.join(f'+{name}' for name in UNIT_CAPABILITIES)}"]
    gateway.start()
    gateway.announced()
    until(lambda: connected(gateway), "the canary's IKE_SAs", within_s=PATIENCE_S)
    assert gateway.agent is not None
    agent, ours = (
        {line.partition(":")[0]: line for line in Path(f"/proc/{pid}/status").read_text().splitlines()}
        for pid in (gateway.agent.pid, "self")
    )
    assert [agent[field] for field in ("Uid", "Gid", "Groups")] == [ours[field] for field in ("Uid", "Gid", "Groups")]


@pytest.mark.long
@in_namespace
def test_a_killed_agent_takes_it_along_and_the_next_one_has_one_again() -> None:
    gateway = Gateway(checks=WITH_CANARY, recovery_ms=0)
    gateway.start()
    until(lambda: connected(gateway), "the canary's IKE_SAs", within_s=PATIENCE_S)
    charon, (first,) = gateway.pid("charon"), caged()
    gateway.signal_agent(signal.SIGKILL)
    assert gateway.agent is not None
    gateway.agent.wait()
    until(lambda: first not in caged(), "its end, by the kernel", within_s=5)
    gateway.start()
    until(lambda: connected(gateway), "the next one's IKE_SAs", within_s=PATIENCE_S)
    (second,) = caged()
    assert second != first
    running, gateway.agent = gateway.agent, None
    gateway.start()  # another one beside it
    assert gateway.agent is not None
    assert gateway.agent.wait(timeout=30) == 1, "refused: it is running already"
    assert caged() == [second], "and no second canary"
    assert running.poll() is None
    assert len(cables()) == 1
    assert gateway.pid("charon") == charon, "the gateway's own charon was adopted meanwhile"


@in_namespace
def test_a_killed_canary_is_replaced_and_the_route_stays() -> None:
    gateway = Gateway(checks=WITH_CANARY, recovery_ms=0)
    gateway.start()
    gateway.announced()
    until(lambda: connected(gateway), "the canary's IKE_SAs", within_s=PATIENCE_S)
    (first,) = caged()
    os.kill(first, signal.SIGKILL)
    until(lambda: caged() and caged() != [first], "another canary", within_s=PATIENCE_S)
    until(lambda: len(caged()) == len(cables()) == 1 and connected(gateway), "its IKE_SAs", within_s=PATIENCE_S)
    assert gateway.upstream.withdrawals() == 0
    assert gateway.upstream.prefixes() >= gateway.all_prefixes


@in_namespace
def test_a_certificate_of_a_strangers_root_is_refused_and_its_charon_says_so() -> None:
    from anycast_lab.machines.pki import Root, write_secret

    gateway = Gateway(checks=WITH_CANARY, recovery_ms=0)
    canary = gateway.document.service.checks.canary
    assert canary is not None
    own = {path: Path(path).read_bytes() for path in (canary.certificate, canary.private_key)}
    gateway.start()
    gateway.announced()
    until(lambda: connected(gateway), "the canary's IKE_SAs", within_s=PATIENCE_S)
    stranger = Root("strangers").issue(canary.identity)
    write_secret(Path(canary.certificate), stranger.certificate)
    write_secret(Path(canary.private_key), stranger.private_key)
    until(lambda: "no IKE_SA" in seen(gateway).get("detail", ""), "the refusal", within_s=PATIENCE_S)
    row = seen(gateway)
    assert row["status"] in ("unknown", "failing"), "unknown where the kernel has no ESP anyway"
    for path, content in own.items():
        write_secret(Path(path), content)
    until(lambda: connected(gateway), "its own certificate found", within_s=PATIENCE_S)
    assert gateway.upstream.withdrawals() == 0


@in_namespace
def test_a_canary_that_cannot_be_made_is_an_alarm_and_nothing_else() -> None:
    subprocess.run(["ip", "link", "add", plan.INTERFACE, "type", "bridge"], check=True)
    gateway = Gateway(checks=WITH_CANARY, recovery_ms=0)
    gateway.start()
    gateway.announced()
    until(lambda: seen(gateway).get("reason") == "check_refused", "the refusal", within_s=PATIENCE_S)
    assert f"an interface {plan.INTERFACE} that is not the canary's" in seen(gateway)["detail"]
    assert cables() == [plan.INTERFACE], "somebody else's stays"
    subprocess.run(["ip", "link", "del", plan.INTERFACE], check=True)
    until(lambda: connected(gateway), "a canary after that", within_s=PATIENCE_S)


@pytest.mark.long
@in_namespace
def test_an_address_that_a_peer_may_have_is_not_taken_away() -> None:
    gateway = Gateway(checks=WITH_CANARY, recovery_ms=0)
    theirs = str(plan.unique_local(gateway.document))
    for add, take_away, said in (
        ("ip route add 169.254.0.212/30 dev lo", "ip route del 169.254.0.212/30", "the route to 169.254.0.212/30 on lo"),
        ("ip addr add 169.254.0.214/30 dev lo", "ip addr del 169.254.0.214/30 dev lo", "169.254.0.214/30 on lo"),
        (f"ip -6 route add {theirs[:4]}::/16 dev lo", f"ip -6 route del {theirs[:4]}::/16 dev lo", "::/16 on lo"),
    ):
        subprocess.run(add.split(), check=True)
        gateway.start()
        gateway.announced()
        until(lambda: seen(gateway).get("reason") == "check_refused", "the refusal", within_s=PATIENCE_S)
        assert "would take" in seen(gateway)["detail"]
        assert said in seen(gateway)["detail"], seen(gateway)["detail"]
        assert seen(gateway)["status"] == "unknown"
        assert not cables()
        stop(gateway)
        subprocess.run(take_away.split(), check=True)
    subprocess.run(["ip", "route", "add", "default", "dev", "lo"], check=True)  # covers everything, and belongs to nobody
    gateway.start()
    until(lambda: connected(gateway), "a canary after that", within_s=PATIENCE_S)


@in_namespace
def test_without_its_key_it_says_so_and_without_configuration_there_is_none() -> None:
    gateway = Gateway(checks=WITH_CANARY, recovery_ms=0)
    canary = gateway.document.service.checks.canary
    assert canary is not None
    Path(canary.private_key).unlink()
    gateway.start()
    gateway.announced()
    until(lambda: seen(gateway).get("reason") == "check_refused", "the refusal", within_s=PATIENCE_S)
    assert canary.private_key in seen(gateway)["detail"]
    stop(gateway)

    configure(gateway, canary=False)
    until(gone, "the old one's end", within_s=5)
    gateway.start()
    gateway.announced()
    until(lambda: status_of(gateway).get("verdict", {}).get("serving"), "a verdict", within_s=5)
    assert seen(gateway) == {}
    assert gone()


@in_namespace
def test_an_echo_is_answered_or_not_and_a_strangers_answer_is_none() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "addr", "add", "192.0.2.1/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "-6", "addr", "add", "2001:db8::1/128", "dev", "lo"], check=True)
    sockets = {
        4: socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP),
        6: socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6),
    }
    local4, local6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
    pairs = [(local4, local4), (local4, ip_address("198.51.100.1")), (local6, local6)]
    answered, silent, also = asyncio.run(Echoes(sockets).ask(pairs))
    assert answered is not None and also is not None and 0 < max(answered, also) < 1000
    assert silent is None, "no route: no answer, and no error"
