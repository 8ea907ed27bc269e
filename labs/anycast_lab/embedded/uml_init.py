"""PID 1 of User Mode Linux until it is the lab server: kernel file systems, modules, the lab's root.

Runs from hostfs with the standard library only: an import costs a hundred times of what it costs outside.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from anycast_lab.embedded import root, syscalls

END = "--end"
"""Ends our arguments; User Mode Linux appends some of its own."""
SERIAL = "/dev/ttyS0"
MODULES = (
    "esp4", "esp6", "ah4", "ah6", "xfrm_user", "xfrm4_tunnel", "xfrm6_tunnel", "tunnel4", "tunnel6", "ipip", "ip6_tunnel",
    "authenc", "authencesn", "cbc", "ctr", "gcm", "ccm", "ghash_generic", "seqiv", "echainiv", "cmac", "xcbc",
    "chacha20poly1305", "chacha_generic", "poly1305_generic", "aes_generic", "sha256_generic", "sha512_generic", "hmac",
    "af_packet", "af_key", "veth", "bridge", "dummy", "tun", "macvlan",
    "sch_netem", "sch_ingress", "cls_u32", "cls_flower", "act_mirred", "act_gact",
    "nf_conntrack", "nf_conntrack_netlink", "nf_nat", "iptable_nat", "iptable_filter", "iptable_mangle", "xt_MASQUERADE",
    "xt_nat", "xt_conntrack", "xt_policy", "overlay", "unix",
)  # fmt: skip
CIPHERS = {"rfc4106(gcm(aes))": 36, "rfc7539esp(chacha20,poly1305)": 36}
"""The lab's clients' AEAD transforms, with key and salt in bytes. The kernel puts each together at its first SA, and asks
modprobe for what it has already: beside daemons that start, that kept a charon for 6 s in the middle of its first IKE_AUTH,
which a client does not wait for."""


def _first_sas() -> None:
    """One SA of each cipher, before any node is there."""
    ends = ("src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp", "spi", "0x100")
    for cipher, length in CIPHERS.items():
        words = ("mode", "tunnel", "aead", cipher, "0x" + length * "00", "128")
        if not subprocess.run(["ip", "xfrm", "state", "add", *ends, *words], check=False, capture_output=True).returncode:
            subprocess.run(["ip", "xfrm", "state", "delete", *ends], check=False, capture_output=True)


def main() -> None:
    checkout, modules, variables, *server = sys.argv[1 : sys.argv.index(END)]
    # The kernel itself mounted devtmpfs (CONFIG_DEVTMPFS_MOUNT).
    for fstype, target in (("proc", "/proc"), ("sysfs", "/sys")):
        syscalls.mount(fstype, target, fstype)
    for fstype, target in (("devpts", "/dev/pts"), ("tmpfs", "/dev/shm")):
        os.makedirs(target, exist_ok=True)
        syscalls.mount(fstype, target, fstype)
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    base = Path(modules).parents[2]
    subprocess.run(["modprobe", "--dirname", base, "--all", "--quiet", *MODULES], check=False)  # some are built in
    _first_sas()
    # Or the tunnel modules put a tunl0 and an ip6tnl0 into every node, which no other kernel does.
    Path("/proc/sys/net/core/fb_tunnels_only_for_init_net").write_text("2")
    told = {root.VARIABLES: Path(variables).read_text()}
    links = {f"/lib/modules/{os.uname().release}": modules}
    root.enter(Path(checkout), links=links, containers="containerlab" in server)
    argv = [str(root.PYTHON), "-m", "anycast_lab.control.server", "--serial", SERIAL, *server]
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": "/root", "PYTHONUNBUFFERED": "1"}
    os.execve(argv[0], argv, environment | told)


if __name__ == "__main__":
    main()
