"""Ours are loaded into a real charon beside an operator's own, replaced under running tunnels, and refused without harm."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from anycast.document import Document
from anycast.errors import PeerError
from anycast_lab.machines.pki import Root
from site_agent.ike.own_connections import OwnConnections
from site_agent.ike.vici_client import Section, ViciClient
from site_agent.render.strongswan import render_strongswan
from tests.interop.test_rendered_strongswan import CHARON, Host, client_host, gateway_host, until
from tests.support.namespace import in_namespace
from tests.unit.test_rendered_files import changed

pytestmark = [pytest.mark.root, pytest.mark.skipif(not CHARON.exists(), reason="missing: charon")]

FOREIGN = {
    "to-branch": {
        "remote_addrs": ["192.0.2.77"],
        "local": {"auth": "psk", "id": "hq"},
        "remote": {"auth": "psk", "id": "branch"},
        "children": {"lan": {"local_ts": ["192.0.2.128/28"]}},
    }
}
SECRET = {"id": "theirs", "type": "IKE", "data": "an operator's own secret", "owners": ["hq", "branch"]}
POOL = {"their-pool": {"addrs": "192.0.2.160/28"}}
PROCESS = "1 1"


class Loader:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.path = str(host.run / "charon.vici")

    def ask(self, command: str, message: Section | None = None) -> Section:
        return asyncio.run(ViciClient(self.path).request(command, message, timeout_s=5))

    def load(self, made: Document, process: str = PROCESS) -> list[str]:
        for name, text in render_strongswan(made, run_dir=self.host.run).items():
            (self.host.etc / name).write_text(text)

        async def run() -> list[str]:
            vici = ViciClient(self.path)
            own = OwnConnections(vici, swanctl_dir=self.host.etc / "swanctl", record=self.host.run / "charon.loaded")
            try:
                return await own.load(process)
            finally:
                vici.close()

        return asyncio.run(run())

    def connections(self) -> dict[str, Section]:
        async def run() -> dict[str, Section]:
            listed: dict[str, Section] = {}
            await ViciClient(self.path).stream("list-conns", "list-conn", listed.update, timeout_s=5)
            return listed

        return asyncio.run(run())

    def everything(self) -> tuple[object, ...]:
        keys, shared = self.ask("get-keys")["keys"], self.ask("get-shared")["keys"]
        return self.connections(), sorted(keys), sorted(shared), sorted(self.ask("get-pools"))


@in_namespace
def test_it_loads_what_swanctl_would_load() -> None:
    host, made = gateway_host(Root("gateways"), Root("clients"))
    with host.charon(host.run / "charon.vici"):
        loader = Loader(host)
        assert loader.load(made) == []
        ours = loader.everything()
    with host.charon(host.run / "charon.vici"):
        host("swanctl", "--load-all", "--noprompt")
        assert loader.everything() == ours


@in_namespace
def test_an_operators_own_connection_secret_pool_and_key_stay() -> None:
    host, made = gateway_host(Root("gateways"), Root("clients"))
    with host.charon(host.run / "charon.vici"):
        loader = Loader(host)
        theirs = Root("theirs").issue("hq").private_key
        loader.ask("load-conn", FOREIGN)
        loader.ask("load-shared", SECRET)
        loader.ask("load-pool", POOL)
        key = loader.ask("load-key", {"type": "any", "data": theirs})["id"]
        before = loader.connections()["to-branch"]
        for document in (made, changed(made, "service", "name", to="other"), made):
            assert loader.load(document) == []
            assert sorted(loader.connections()) == sorted(["to-branch", document.service.name]), "ours of before is gone"
        assert loader.connections()["to-branch"] == before
        assert b"theirs" in loader.ask("get-shared")["keys"]
        assert key in loader.ask("get-keys")["keys"]
        assert "their-pool" in loader.ask("get-pools")
        pools = changed(made, "service", "pools", to=[made.service.pools[0].model_dump()])
        loader.load(pools)
        assert sorted(loader.ask("get-pools")) == sorted(["their-pool", made.service.pools[0].name])


@in_namespace
def test_a_name_that_another_process_had_is_not_ours_to_unload() -> None:
    host, made = gateway_host(Root("gateways"), Root("clients"))
    with host.charon(host.run / "charon.vici"):
        loader = Loader(host)
        loader.load(changed(made, "service", "name", to="branch"), process="0 0")
        loader.load(made)
        assert sorted(loader.connections()) == ["branch", "vpn"], "recorded for another charon: by now somebody else's"


@in_namespace
def test_what_charon_refuses_leaves_the_old_in_force_and_is_told_in_its_words() -> None:
    host, made = gateway_host(Root("gateways"), Root("clients"))
    with host.charon(host.run / "charon.vici"):
        loader = Loader(host)
        loader.load(made)
        before = loader.everything()
        for path, bad, words in (
            (("service", "esp_proposals"), ["nonsense256"], "load-conn: invalid value for: esp_proposals"),
            (("service", "certificate"), "/run/nothing.crt", "/run/nothing.crt: No such file"),
            (("service", "pools", 0, "prefix"), "nonsense/8", "load-pool"),
        ):
            with pytest.raises(PeerError, match=words):
                loader.load(changed(made, *path, to=bad))
            assert loader.everything() == before, f"{bad} changed something"
        key = Path(made.service.private_key)
        good = key.read_bytes()
        key.write_bytes(b"not a key\n")
        with pytest.raises(PeerError, match="load-key: parsing ANY private key failed"):
            loader.load(changed(made, "service", "name", to="other"))
        key.write_bytes(good)
        assert loader.everything() == before


@in_namespace
def test_a_revocation_list_that_is_none_is_told_and_holds_nothing_up() -> None:
    host, made = gateway_host(Root("gateways"), Root("clients"))
    (host.etc / "swanctl" / "x509crl" / "broken.crl").write_text("nonsense")
    with host.charon(host.run / "charon.vici"):
        loader = Loader(host)
        (complaint,) = loader.load(made)
        assert re.search(r"broken\.crl: charon: load-cert: .*failed", complaint)
        assert list(loader.connections()) == ["vpn"]


@in_namespace
def test_an_established_tunnel_survives_a_changed_configuration() -> None:
    gateways, clients = Root("gateways"), Root("clients")
    host, made = gateway_host(gateways, clients)
    client = client_host(gateways, clients)
    vip, pid = made.service.vips[0], client.enter[2]
    for command in (
        "ip link set lo up",
        f"ip address add {vip}/32 dev lo",
        f"ip link add eth1 type veth peer name eth0 netns {pid}",
        "ip address add 198.51.100.65/28 dev eth1",
        "ip link set eth1 up",
    ):
        host(*command.split())
    for command in ("link set lo up", "address add 198.51.100.66/28 dev eth0", "link set eth0 up"):
        client("ip", *command.split())
    client("ip", "route", "add", vip, "via", "198.51.100.65")
    with host.charon(host.run / "charon.vici"):
        loader = Loader(host)
        loader.load(made)
        with client.charon(Path("/run/charon.vici")):
            client("swanctl", "--load-all", "--noprompt")
            until(lambda: "ESTABLISHED" in client("swanctl", "--list-sas"), "an IKE_SA")

            def established() -> list[str]:
                return re.findall(r"#\d+, ESTABLISHED, IKEv2, \w+_i\*? \w+_r\*?", host("swanctl", "--list-sas"))

            before = established()
            assert len(before) == 1
            other = changed(made, "service", "inside", to=["192.0.2.0/29"])
            other = changed(other, "service", "dpd_delay_s", to=77)
            assert loader.load(other) == []
            listed = loader.connections()["vpn"]
            assert listed["dpd_delay"] == b"77", "the new one is in force for who comes now"
            assert listed["children"]["vpn"]["local-ts"] == [b"192.0.2.0/29"]
            renamed = changed(other, "service", "name", to="renamed")
            assert loader.load(renamed) == []
            assert list(loader.connections()) == ["renamed"]
            assert established() == before, "the same SPIs on both ends"


@in_namespace
def test_the_record_names_what_was_loaded_and_into_which_process() -> None:
    host, made = gateway_host(Root("gateways"), Root("clients"))
    with host.charon(host.run / "charon.vici"):
        Loader(host).load(made)
        record = json.loads((host.run / "charon.loaded").read_text())
        assert record["process"] == PROCESS
        assert (record["conns"], len(record["keys"])) == (["vpn"], 1)
        assert record["pools"] == [pool.name for pool in made.service.pools]
