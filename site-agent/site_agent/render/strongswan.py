"""What charon and swanctl read, made of a gateway's document. Pure.

strongswan.conf is the daemon's own settings, swanctl.conf its one connection. Both name our sockets and files only, so a
charon of the operator's on the same machine has other ones; only the pid file's place is compiled into charon.
"""

from __future__ import annotations

from pathlib import PurePath

from anycast.document import Document
from anycast.policy import protection
from site_agent.render.templating import render
from site_agent.sync import ha_wire, numbers

PLUGINS = (
    # random numbers, nonces; certificates, keys and their files
    "random", "nonce", "x509", "constraints", "revocation", "pubkey", "pem", "pkcs8",
    # every cipher, hash and curve (OpenSSL 3); key derivation, which strongSwan 5.9.8 cannot do with Debian's OpenSSL 3.0.19
    "openssl", "kdf",
    # the kernel, the sockets, the control socket
    "kernel-netlink", "socket-default", "vici",
)  # fmt: skip
"""Everything charon may load. What is not here cannot be negotiated or attacked: no IKEv1 parts, no EAP, no fetchers."""

MIRROR_PLUGINS = ("ha",)
"""Loaded besides where the site has a mirror; Debian's libcharon-extra-plugins has it."""
HA_LOCAL, HA_REMOTE = "127.0.0.1", "127.0.0.2"
"""charon's end of the plugin's datagrams, and the sync process's, which takes them to the other gateway."""

CANARY_CONF = "canary/strongswan.conf"
"""The canary's charon has settings of its own; everything else it is told by VICI."""

SWANCTL_FOLDERS = (
    "x509", "x509ca", "x509ocsp", "x509aa", "x509ac", "x509crl",
    "pubkey", "private", "rsa", "ecdsa", "bliss", "pkcs8", "pkcs12",
)  # fmt: skip
"""Folders that swanctl looks into, and complains about where they are not there. `x509crl` takes revocation lists."""

FOLDERS = (*(f"swanctl/{folder}" for folder in (*SWANCTL_FOLDERS, "conf.d")), "strongswan.d")
"""Folders below `etc_dir` that are made, and what lies in them is the operator's."""


def render_strongswan(document: Document, *, run_dir: PurePath) -> dict[str, str]:
    """strongSwan's files by their path below the agent's etc_dir. charon's socket and log lie in `run_dir`.

    Start charon with ``STRONGSWAN_CONF=<etc_dir>/strongswan.conf``; load with ``SWANCTL_DIR=<etc_dir>/swanctl`` too.
    Raises ConfigError where the document holds text that cannot stand in these files.
    """
    values = {
        "document": document,
        "service": document.service,
        "run_dir": run_dir,
        "ignored": [interface.name for interface in (document.inside, document.management) if interface is not None],
        "plugins": PLUGINS if document.sync is None else (*PLUGINS, *MIRROR_PLUGINS),
        "protection": protection,
        "ha": {"local": HA_LOCAL, "remote": HA_REMOTE, "buflen": ha_wire.MAX_BYTES},
        "numbers": numbers,
    }
    canary = {CANARY_CONF: render("canary-strongswan.conf.j2", **values)} if document.service.checks.canary else {}
    return {
        **canary,
        "strongswan.conf": render("strongswan.conf.j2", **values),
        "swanctl/swanctl.conf": render("swanctl.conf.j2", **values),
    }


def strongswan_links(document: Document) -> dict[str, str]:
    """Symbolic links below `etc_dir` that go with the files: swanctl takes private keys from its own folder only."""
    return {"swanctl/private/gateway.key": document.service.private_key}
