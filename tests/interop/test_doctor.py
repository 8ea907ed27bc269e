"""`site-agent doctor` on a machine with real faults: it names each, its own command mends it, and then it is content."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from anycast_lab.machines import pki
from site_agent.doctor.finding import Severity
from site_agent.doctor.read.patient import _SECRET
from tests.support.namespace import in_namespace
from tests.support.sick_machine import SickMachine, bind, ip, mend, names_mends_and_is_content, sysctl

pytestmark = pytest.mark.root


def append(path: Path, text: str) -> Callable[[], object]:
    def write() -> None:
        with open(path, "a") as file:
            file.write(text)

    return write


@in_namespace
def test_a_clean_machine_has_nothing_wrong_and_is_left_as_it_was() -> None:
    def state() -> Iterable[str]:
        asked = ("ip address", "ip route show table all", "ip rule", "nft list ruleset", "sysctl -a --pattern ^net")
        for words in asked:
            said = subprocess.run(words.split(), check=True, capture_output=True, text=True).stdout
            yield re.sub(r"(?m)^.*(gc_|random|_count =|max_dst|lft).*$|expires \d+sec", "", said)
        for root in ("/run", "/etc"):
            for path in sorted(Path(root).rglob("*")):
                if path.is_file() and path.suffix not in (".log", ".out"):
                    yield f"{path} {path.stat().st_mtime_ns}"

    with SickMachine().running() as machine:
        before = list(state())
        answer = machine.examined()
        assert list(state()) == before
        assert answer["counts"]["wrong"] == 0, [f for f in answer["findings"] if f["severity"] == "wrong"]
        assert answer["pids"] == [machine.charon.pid if machine.charon else 0] and answer["gateway"] == "fra-gw1"
        risky = {finding["id"] for finding in answer["findings"] if finding["severity"] == "risky"}
        # A week of validity is what labs' certificates have; no clock is kept here; the firewall is not ours to write.
        assert risky <= {"mss", "certificate_dates", "clock_synchronised"}, risky
        assert answer["exit_status"] == 0
        told = machine.ask()
        assert (
            told.returncode == 0
            and "Nothing to mend" in told.stdout
            and "    $ nft -f /run/test/etc/nftables.conf" in told.stdout
        )


@in_namespace
def test_kernel_settings() -> None:
    with SickMachine().running() as machine:
        uplink, inside = machine.document.uplink.name, machine.document.inside.name

        def spoiled(*settings: tuple[str, int]) -> Callable[[], object]:
            return lambda: [sysctl(name, value) for name, value in settings]

        for kind, severity, fault in (
            ("rp_filter", "wrong", spoiled((f"net.ipv4.conf.{uplink}.rp_filter", 1))),
            # Its pools have addresses of both families, so both are needed.
            ("ip_forward", "wrong", spoiled(("net.ipv6.conf.all.forwarding", 0))),
            ("ip_forward", "wrong", spoiled(("net.ipv4.ip_forward", 0), ("net.ipv6.conf.all.forwarding", 0))),
            ("arp_ignore", "risky", spoiled((f"net.ipv4.conf.{uplink}.arp_ignore", 0))),
            ("arp_announce", "risky", spoiled((f"net.ipv4.conf.{uplink}.arp_announce", 0))),
            ("arp_announce", "risky", spoiled((f"net.ipv4.conf.{inside}.arp_announce", 0))),
            ("redirects", "risky", spoiled((f"net.ipv4.conf.{inside}.accept_redirects", 1))),
            ("accept_ra", "risky", spoiled((f"net.ipv6.conf.{inside}.accept_ra", 1))),
        ):
            names_mends_and_is_content(machine, kind, severity, fault)
        assert "rp_filter = 2" in Path("/etc/sysctl.d/zz-site-doctor.conf").read_text(), "and after the next boot"


@in_namespace
def test_connection_tracking_table_and_open_files() -> None:
    with SickMachine().running() as machine:
        if not Path("/proc/sys/net/netfilter/nf_conntrack_max").exists():
            pytest.skip("needs nf_conntrack in the kernel")
        names_mends_and_is_content(
            machine, "conntrack_max", "risky", lambda: bind("1000\n", "/proc/sys/net/netfilter/nf_conntrack_max")
        )

        def few_buckets() -> None:
            fake = bind("1024\n", "/proc/sys/net/netfilter/nf_conntrack_buckets")
            folder = Path("/sys/module/nf_conntrack/parameters")
            folder.mkdir(parents=True)
            (folder / "hashsize").symlink_to(fake)  # writing the one changes the other, as in the kernel

        names_mends_and_is_content(machine, "conntrack_hash", "risky", few_buckets)
        pid = str(machine.charon.pid) if machine.charon else ""
        limit = ["prlimit", "--pid", pid, "--nofile=100:"]
        names_mends_and_is_content(machine, "open_files", "risky", lambda: subprocess.run(limit, check=True))


@in_namespace
def test_routes_and_mtu() -> None:
    machine = SickMachine()
    # charon reads whether it adds routes when it starts.
    machine.conf.write_text(machine.conf.read_text().replace("install_routes = yes", "install_routes = no"))
    with machine.running():
        uplink = machine.document.uplink.name

        def no_way() -> None:
            ip("route", "del", "default")
            ip("-6", "route", "del", "default")

        names_mends_and_is_content(machine, "pool_route", "wrong", no_way)
        assert [finding.severity for finding in machine.found("default_route")] == ["risky", "risky"]
        for finding in machine.found("default_route"):
            mend(*finding.mend)
        assert not machine.found("default_route")
        names_mends_and_is_content(machine, "mtu", "risky", lambda: ip("link", "set", "dev", uplink, "mtu", "1300"))
        pool = next(pool.prefix for pool in machine.document.service.pools if "." in pool.prefix)
        back = ["route", "replace", pool, "dev", machine.document.inside.name]
        names_mends_and_is_content(machine, "pool_route", "risky", lambda: ip(*back))


@in_namespace
def test_firewall() -> None:
    def rules(text: str) -> None:
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

    strict = (
        "table inet t { chain i { type filter hook input priority 0; policy drop; tcp dport 22 accept; counter drop; }; }"
    )
    tracking = "table inet t { chain i { type filter hook input priority 0; ct state invalid drop; }; }"
    with SickMachine().running() as machine:
        for planned in (True, False):
            (finding,) = machine.found("mss", planned=planned)
            assert finding.severity is Severity.RISKY
            mend(*finding.mend)
            assert not machine.found("mss", planned=planned)
            rules("flush ruleset")
            names_mends_and_is_content(machine, "firewall_drops", "wrong", lambda: rules(strict), planned=planned)
            rules("flush ruleset")
            names_mends_and_is_content(machine, "ike_tracked", "risky", lambda: rules(tracking), planned=planned)
            assert not machine.found("firewall_drops", planned=planned)
            rules("flush ruleset")
        kept = Path("/etc/nftables.conf").read_text()
        assert kept.count("include") == 1, "included once, however many mends"
        rules(kept)
        assert "notrack" in Path("/etc/site_doctor.nft").read_text()
        assert not machine.found("ike_tracked", planned=False), "and after the next boot"


def signed(machine: SickMachine) -> Callable[[], object]:
    """What a person's authority does with the request that the mend made."""

    def sign() -> None:
        request = x509.load_pem_x509_csr(Path("/root/site-doctor.csr").read_bytes())
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(machine.vpn._name)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=90))
        )
        for extension in request.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        made = builder.sign(machine.vpn._key, hashes.SHA256())
        Path("/root/site-doctor.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))

    return sign


@in_namespace
def test_certificates() -> None:
    with SickMachine().running() as machine:
        service = machine.document.service

        def renew(kind: str, severity: str, fault: Callable[[], object]) -> None:
            fault()
            found = [finding for finding in machine.found(kind) if str(machine.certificate) in str(finding)]
            assert [finding.severity for finding in found] == [severity], f"{kind}: {machine.found(kind)}"
            request, place = found[0].mend
            mend(request)
            signed(machine)()
            mend(place)
            again = [finding for finding in machine.found(kind) if str(machine.certificate) in str(finding)]
            assert not again, f"{kind}: still there after its own mend: {again}"

        def issue(identity: str, lifetime: datetime.timedelta = pki.LIFETIME, root: pki.Root = machine.vpn) -> pki.Issued:
            usual, pki.LIFETIME = pki.LIFETIME, lifetime
            try:
                return root.issue(identity)
            finally:
                pki.LIFETIME = usual

        def put(issued: pki.Issued, *, key: bool = True) -> Callable[[], object]:
            def write() -> None:
                pki.write_secret(machine.certificate, issued.certificate)
                if key:
                    pki.write_secret(machine.key, issued.private_key)

            return write

        renew("certificate_dates", "wrong", put(issue(service.identity, datetime.timedelta(minutes=-1))))
        renew("certificate_dates", "risky", put(issue(service.identity, datetime.timedelta(days=20))))
        renew("certificate_key", "wrong", put(issue(service.identity), key=False))
        renew("certificate_identity", "wrong", put(issue("another.example.org")))
        authorities = machine.paths.etc_dir / "swanctl" / "x509ca"
        (authorities / "gateways.crt").write_bytes(machine.vpn.certificate)
        renew("certificate_chain", "wrong", put(issue(service.identity, root=pki.Root("gateways"))))
        renew("certificate_file", "wrong", lambda: machine.certificate.write_text("nothing"))

        leaf = issue("client.example.org", root=machine.clients).certificate
        machine.client_ca.write_bytes(leaf)
        (finding,) = machine.found("certificate_chain")
        assert finding.severity == "wrong" and str(machine.client_ca) in finding.seen
        machine.client_ca.unlink()
        (finding,) = machine.found("certificate_file")
        assert str(machine.client_ca) in finding.seen
        Path("/run/clients-root.crt").write_bytes(machine.clients.certificate)
        os.chdir("/run")
        mend(*finding.mend)
        assert not machine.found("certificate_file") and not machine.found("certificate_chain")


@in_namespace
def test_secrets_that_others_may_read() -> None:
    with SickMachine().running() as machine:
        for path in (machine.key, machine.md5_keys[0], machine.paths.exabgp_conf):
            names_mends_and_is_content(machine, "secret_mode", "wrong", lambda path=path: path.chmod(0o644))
        names_mends_and_is_content(machine, "secret_mode", "risky", lambda: machine.key.chmod(0o640))


@in_namespace
def test_a_secret_in_a_file_that_is_included() -> None:
    """What is told is the file that holds it, with its own mode, and no other."""
    secret = "secrets { ike-one { id = one\n secret = correct-horse } }\n"
    with SickMachine().running() as machine:
        conf_d = machine.swanctl_conf.parent / "conf.d"
        append(machine.swanctl_conf, "include conf.d/*.conf\n")()
        machine.swanctl_conf.chmod(0o644)
        assert not _SECRET.search(machine.swanctl_conf.read_text())
        (conf_d / "plain.conf").write_text("secrets { ike-one { id = two } } # secret = none\n")
        (conf_d / "plain.conf").chmod(0o644)

        def written() -> None:
            (conf_d / "rw.conf").write_text(secret)
            (conf_d / "rw.conf").chmod(0o644)
            (finding,) = machine.found("secret_mode")
            assert str(conf_d / "rw.conf") in finding.seen

        names_mends_and_is_content(machine, "secret_mode", "wrong", written)
        assert (conf_d / "rw.conf").stat().st_mode & 0o777 == 0o640


@in_namespace
def test_a_mend_wins_over_files_that_sort_after_the_usual_name() -> None:
    """Of several drop-ins the last one counts; the doctor's sorts after each of theirs, also after one that comes later."""
    machine = SickMachine()
    settings_d, conf_d = machine.paths.etc_dir / "strongswan.d", machine.swanctl_conf.parent / "conf.d"
    settings_d.mkdir(exist_ok=True)
    append(machine.conf, "include strongswan.d/*.conf\n")()
    append(machine.swanctl_conf, "include conf.d/*.conf\n")()
    name = machine.document.service.name
    with machine.running():
        for theirs in ("vpn.conf", "zzz-theirs.conf", "zzzz.conf"):

            def settings(theirs: str = theirs) -> None:
                (settings_d / theirs).write_text("charon { block_threshold = 5 }\n")

            def window(theirs: str = theirs) -> None:
                child = f"children {{ {name} {{ replay_window = 32 }} }}"
                (conf_d / theirs).write_text(f"connections {{ {name} {{ {child} }} }}\n")

            names_mends_and_is_content(machine, "half_open_limits", "risky", settings)
            names_mends_and_is_content(machine, "replay_window", "risky", window)
            for folder in (settings_d, conf_d):
                assert max(path.name for path in folder.glob("*.conf")).endswith("zz-site-doctor.conf")


@in_namespace
def test_an_interface_of_the_fleet_that_is_not_there() -> None:
    with SickMachine().running() as machine:
        uplink = machine.document.uplink.name
        ip("link", "del", uplink)
        answer = machine.examined()
        (finding,) = [each for each in answer["findings"] if each["id"] == "interface_missing"]
        assert finding["severity"] == "wrong" and uplink in finding["seen"] and answer["exit_status"] == 1
        assert any(uplink in missed["what"] for missed in answer["unseen"])
        lines = [line for each in answer["findings"] for line in each["mend"]]
        assert not [line for line in lines if re.search(rf"\b{uplink}\b", line)], "it cannot be done"


@in_namespace
def test_charons_settings() -> None:
    machine = SickMachine()
    machine.conf.write_text(machine.conf.read_text().replace("load = random", "load = ha random", 1))
    append(
        machine.conf, "charon { plugins { ha { local = 127.0.0.1\n remote = 127.0.0.2\n monitor = no\n resync = no } } }\n"
    )()
    with machine.running():
        for kind, text in (
            ("half_open_limits", "charon { dos_protection = no\n block_threshold = 5\n init_limit_half_open = 0 }\n"),
            ("roam_events", "charon { plugins { kernel-netlink { roam_events = yes } } }\n"),
            ("ha_plugin", "charon { plugins { ha { monitor = yes\n resync = yes\n segment_count = 2 } } }\n"),
        ):
            names_mends_and_is_content(machine, kind, "risky", append(machine.conf, text))
        notes = [f["id"] for f in machine.examined()["findings"] if f["severity"] == "note"]
        assert "settings_loaded" in notes, "charon runs by what the file said when it was started"


@in_namespace
def test_connections_that_begin_by_themselves_and_small_windows() -> None:
    with SickMachine().running() as machine:
        name = machine.document.service.name

        def loaded(text: str) -> Callable[[], object]:
            def write() -> None:
                append(machine.swanctl_conf, text)()
                machine.load()

            return write

        child = f"connections {{ {name} {{ children {{ {name} {{ %s }} }} }} }}\n"
        # In a file only, and only in charon: both are seen.
        names_mends_and_is_content(
            machine, "initiates", "wrong", append(machine.swanctl_conf, child % "start_action = start")
        )
        names_mends_and_is_content(machine, "initiates", "wrong", loaded(child % "dpd_action = restart"))
        names_mends_and_is_content(machine, "initiates", "wrong", loaded(child % "close_action = trap"))
        to_peer = f"connections {{ {name} {{ remote_addrs = 198.51.100.77 }} }}\n" + child % "start_action = trap"
        loaded(to_peer)()
        (finding,) = machine.found("initiates")
        assert "start_action = trap" in finding.seen and finding.severity == "risky", "its peer's address is fixed"
        mend(*finding.mend)
        assert not machine.found("initiates"), "its trap policy is gone, too"
        names_mends_and_is_content(machine, "replay_window", "risky", loaded(child % "replay_window = 32"))
        no_pieces = f"connections {{ {name} {{ fragmentation = no }} }}\n"
        names_mends_and_is_content(machine, "ike_fragmentation", "risky", loaded(no_pieces))
