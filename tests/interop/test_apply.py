"""A changed document on a gateway that runs: what is told, and what `render` and `apply` do. BIRD is the witness."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from vici import Session

from anycast.document import Document
from site_agent.render.sysctl import settings
from tests.support.gateway import MD5_KEY, Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = pytest.mark.root


def render(gateway: Gateway, *words: str) -> Any:
    document = ("--document", str(gateway.base / "document.json"), "--etc-dir", str(gateway.base / "etc"))
    return gateway.ask("render", *document, *words)


def alarms(gateway: Gateway) -> set[str]:
    return {alarm["reason"] for alarm in json.loads(gateway.ask("status", "--json").stdout)["alarms"]}


def restarted_with(gateway: Gateway, change: Any) -> None:
    data = gateway.document.model_dump(mode="json")
    change(data)
    (gateway.base / "document.json").write_bytes(Document.model_validate(data).canonical())
    gateway.signal_agent(signal.SIGTERM)
    assert gateway.agent is not None
    assert gateway.agent.wait(timeout=10) == 0
    started = len(gateway.events("HolderStarted"))
    gateway.start()
    until(lambda: len(gateway.events("HolderStarted")) == started + 2, "both adopted", within_s=20)


def since(gateway: Gateway, name: str) -> str:
    """When BIRD saw the session come up, to the millisecond."""
    found = re.search(rf"{name} .* up +(\S+)", gateway.upstream.ask("show protocols"))
    return found[1] if found else ""


@in_namespace
def test_a_changed_session_is_an_alarm_until_apply_and_the_others_stay_up() -> None:
    gateway = Gateway(recovery_ms=0)
    gateway.start()
    gateway.announced()
    same = render(gateway, "--diff")
    assert (same.returncode, same.stdout) == (0, ""), same.stderr
    ipv4, ipv6 = gateway.upstream.sessions
    before, exabgp, charon = since(gateway, ipv4), gateway.pid("exabgp"), gateway.pid("charon")

    def ipv6_only(data: dict[str, Any]) -> None:
        data["bgp"]["neighbors"][1]["gtsm"] = True
        data["bgp"]["neighbors"][1]["name"] = "renamed"
        data["service"]["inside"] = ["192.0.2.0/29"]

    restarted_with(gateway, ipv6_only)
    until(lambda: "exabgp_outdated" in alarms(gateway), "the alarm", within_s=10)
    assert gateway.upstream.withdrawals() == 0, "installing costs nothing"
    done = gateway.ask("apply")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exabgp: has read the installed file" in done.stdout
    assert "nftables: table inet anycast is as rendered" in done.stdout
    until(lambda: "exabgp_outdated" not in alarms(gateway), "the end of the alarm", within_s=10)
    gateway.announced()
    assert since(gateway, ipv4) == before, "a session that did not change stays up"
    assert (gateway.pid("exabgp"), gateway.pid("charon")) == (exabgp, charon)
    again = gateway.ask("apply")
    assert "exabgp: runs by the installed file" in again.stdout
    restarted_with(gateway, ipv6_only)
    assert "exabgp_outdated" not in alarms(gateway), "the record has what it read"
    assert ipv6


@in_namespace
def test_render_shows_the_difference_and_never_a_key() -> None:
    gateway = Gateway(recovery_ms=0)
    gateway.start()
    gateway.announced()
    key = Path(next(n.md5_key_file for n in gateway.document.bgp.neighbors if n.md5_key_file))
    key.write_text("another key")
    told = render(gateway, "--diff")
    assert told.returncode == 1
    assert re.search(r'^-.*md5-password "\(key \d, not shown\)";$', told.stdout, re.MULTILINE)
    assert re.search(r'^\+.*md5-password "\(key \d, not shown\)";$', told.stdout, re.MULTILINE)
    whole = render(gateway)
    as_json = render(gateway, "--json")
    for secret in (MD5_KEY, "another key"):
        for form in (secret, base64.b64encode(secret.encode()).decode()):
            assert form not in told.stdout + whole.stdout + as_json.stdout
    answer = json.loads(as_json.stdout)
    states = {Path(file["path"]).name: file["state"] for file in answer["files"]}
    assert states.pop("exabgp.conf") == "differs" and set(states.values()) == {"same"}
    assert answer["same"] is False
    out = gateway.base / "out"
    assert render(gateway, "--output", str(out)).returncode == 0
    assert (out / "exabgp.conf").stat().st_mode & 0o777 == 0o600, "it has the keys"
    assert (out / "nftables.conf").read_text() == (gateway.base / "etc" / "nftables.conf").read_text()
    (gateway.base / "document.json").write_text("{}")
    broken = render(gateway, "--diff")
    assert broken.returncode == 2 and "Traceback" not in broken.stderr


@in_namespace
def test_a_file_that_exabgp_refuses_does_not_replace_the_old_one() -> None:
    gateway = Gateway(recovery_ms=0)
    gateway.start()
    gateway.announced()
    installed = {path: path.read_text() for path in (gateway.base / "etc").glob("*.conf")}

    def refused(data: dict[str, Any]) -> None:
        data["bgp"]["neighbors"][0]["asn"] = 2**40
        data["service"]["identity"] = "other.example.org"

    restarted_with(gateway, refused)
    assert {path: path.read_text() for path in installed} == installed
    assert {"config_refused"} <= alarms(gateway)
    assert "exabgp_outdated" not in alarms(gateway)
    assert gateway.upstream.withdrawals() == 0


THEIRS = """
connections { to-branch { remote_addrs = 192.0.2.77
    local { auth = psk
        id = hq }
    remote { auth = psk
        id = branch }
    children { lan { local_ts = 192.0.2.128/28 } } } }
secrets { ike-branch { id = branch
    secret = theirs } }
"""


def charon_has(gateway: Gateway) -> set[str]:
    """Connections and shared secrets, in charon's own words."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(gateway.run_dir / "charon.vici"))
        session = Session(sock)
        return {item.decode() for item in [*session.get_conns()["conns"], *session.get_shared()["keys"]]}


@in_namespace
def test_an_operators_files_are_loaded_after_ours_and_hold_nothing_up() -> None:
    gateway = Gateway(recovery_ms=0)
    conf_d = gateway.base / "etc" / "swanctl" / "conf.d"
    conf_d.mkdir(parents=True)
    (conf_d / "branch.conf").write_text("connections { oops {\n")
    kernel = {setting.path: Path(setting.path).read_text() for setting in settings(gateway.document)}
    gateway.start()
    gateway.announced()
    until(lambda: any("syntax error" in e["detail"] for e in gateway.events("AlarmRaised")), "swanctl's words", within_s=10)
    assert charon_has(gateway) == {"vpn"}, "swanctl itself would have unloaded it, and called that a success"
    assert {setting: Path(setting).read_text() for setting in kernel} == kernel, "the agent changes no kernel setting"
    refused = gateway.ask("apply")
    assert refused.returncode == 1 and "swanctl: " in refused.stderr and "syntax error" in refused.stderr
    (conf_d / "branch.conf").write_text("connections { odd { proposals = nonsense\n } }\n")
    assert "odd: charon: load-conn: invalid value for: proposals" in gateway.ask("apply").stderr
    with ThreadPoolExecutor(4) as at_once:
        for each in [at_once.submit(gateway.ask, "apply") for _ in range(4)]:
            assert "odd: charon: load-conn: invalid value for: proposals" in each.result().stderr, "one took another's files"
    (conf_d / "branch.conf").write_text(THEIRS)
    assert "charon: has the installed connections" in gateway.ask("apply").stdout
    everything = {"vpn", "to-branch", "ike-branch"}
    assert charon_has(gateway) == everything

    def resolvers(data: dict[str, Any]) -> None:
        data["service"]["inside"] = ["192.0.2.0/29"]

    # Taken out of the folder, it is still theirs to unload: a restart with a changed document does not.
    (conf_d / "branch.conf").unlink()
    restarted_with(gateway, resolvers)
    assert charon_has(gateway) == everything
    assert gateway.upstream.withdrawals() == 0
