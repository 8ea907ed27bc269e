"""TLS between machines: what one proves itself with and whom it believes, as contexts made of a machine's folder.

TLS 1.3 only, a certificate from both ends, no session tickets (a resumed handshake would show no certificate and outlive
a revocation), an application protocol of its own for each kind of channel, because the same certificates speak on several.
OpenSSL checks that the peer has the key and that our root signed it for this use; it does *not* look at the clock, because
between two gateways an expired certificate of the pinned key must get as far as `anycast.pki.trust.judge`, which looks at
everything again. So no connection counts before `judge` has seen it, and there is no other way in.
"""

from __future__ import annotations

import dataclasses
import os
import ssl
from pathlib import Path

from anycast.errors import ConfigError, Problem
from anycast.pki import certificates
from anycast.pki.machine_folder import MachineFolder, Own
from anycast.pki.names import Identity

NO_CHECK_TIME = 0x20_0000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which `ssl` has no name for."""
VERIFY = ssl.VerifyFlags.VERIFY_X509_STRICT | ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST | NO_CHECK_TIME


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """What the files said when they were read."""

    own: Own
    called: ssl.SSLContext
    """For connections that the peer opens."""
    calling: ssl.SSLContext


def load(folder: MachineFolder, me: Identity, alpn: str) -> Loaded:
    """Raises ConfigError, in one sentence, where the files are not good for being `me`."""
    own = folder.own()
    if own.identity != me:
        what = f"is the certificate of {own.identity}, and this is {me}"
        raise ConfigError([Problem("", what, str(folder.identity_file))])
    roots = certificates.pem(*own.trust.roots).decode()
    try:
        sides = ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT
        contexts = [_context(each, folder.identity_file, roots, alpn) for each in sides]
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError([Problem("", f"TLS cannot use it: {exc.strerror or exc}", str(folder.identity_file))]) from exc
    return Loaded(own, *contexts)


def signature(folder: MachineFolder) -> tuple[object, ...]:
    """Changes whenever one of the files was replaced."""
    found: list[object] = []
    for path in (folder.identity_file, folder.roots_file, folder.list_file):
        try:
            status = os.stat(path)
            found.append((status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode, status.st_uid))
        except OSError as exc:
            found.append(exc.errno)
    return tuple(found)


def _context(side: int, identity_file: Path, roots: str, alpn: str) -> ssl.SSLContext:
    # Not create_default_context: that one writes the keys to a file that SSLKEYLOGFILE names.
    context = ssl.SSLContext(side)
    context.check_hostname = False  # names are machines', not hosts'; `judge` checks them
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = ssl.VerifyFlags(VERIFY)
    context.options |= ssl.OP_NO_TICKET
    if side == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    context.set_alpn_protocols([alpn])
    context.load_verify_locations(cadata=roots)
    context.load_cert_chain(identity_file)
    return context
