"""What charon and swanctl read, made of a gateway's document. Pure.

strongswan.conf is the daemon's own settings, swanctl.conf its one connection. Both name our sockets and files only, so a
charon of the operator's on the same machine has other ones; only the pid file's place is compiled into charon.
"""

from __future__ import annotations

import dataclasses
from pathlib import PurePath

from anycast.document import Document
from site_agent.render.templating import render

PLUGINS = (
    # random numbers, nonces; certificates, keys and their files
    "random", "nonce", "x509", "constraints", "revocation", "pubkey", "pem", "pkcs8",
    # every cipher, hash and curve (OpenSSL 3)
    "openssl",
    # the kernel, the sockets, the control socket
    "kernel-netlink", "socket-default", "vici",
)  # fmt: skip
"""Everything charon may load. What is not here cannot be negotiated or attacked: no IKEv1 parts, no EAP, no fetchers."""


@dataclasses.dataclass(frozen=True, slots=True)
class RenderPaths:
    """Where the rendered files and the daemons' sockets lie on the gateway."""

    run_dir: PurePath
    etc_dir: PurePath

    @property
    def vici_socket(self) -> PurePath:
        """charon's control socket."""
        return self.run_dir / "charon.vici"


def render_strongswan(document: Document, paths: RenderPaths) -> dict[str, str]:
    """strongSwan's files by their path below `paths.etc_dir`.

    Start charon with ``STRONGSWAN_CONF=<etc_dir>/strongswan.conf``; load with ``SWANCTL_DIR=<etc_dir>/swanctl`` too.
    Raises ConfigError where the document holds text that cannot stand in these files.
    """
    values = {"document": document, "service": document.service, "paths": paths, "plugins": PLUGINS}
    return {
        "strongswan.conf": render("strongswan.conf.j2", **values),
        "swanctl/swanctl.conf": render("swanctl.conf.j2", **values),
    }


def strongswan_links(document: Document) -> dict[str, str]:
    """Symbolic links below `etc_dir` that go with the files: swanctl takes private keys from its own folder only."""
    return {"swanctl/private/gateway.key": document.service.private_key}
