"""What the channel proves itself with and whom it believes: files, TLS contexts, and the peer's pin.

TLS 1.3 only, a certificate from both ends, no session tickets (a resumed handshake would show no certificate and outlive
a revocation), an application protocol of its own (the same certificates speak to the coordinator elsewhere). OpenSSL
checks that the peer has the key and that our root signed it for this use; it does *not* look at the clock, because an
expired certificate of the pinned key must get as far as `anycast.pki.trust.judge`, which looks at everything again. So no
connection counts before `judge` has seen it, and there is no other way in.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import ssl
from pathlib import Path

from anycast import trusted_file
from anycast.errors import ConfigError, DecodeError, Problem
from anycast.pki import certificates, files
from anycast.pki.machine_folder import MachineFolder, Own
from anycast.pki.names import Identity
from anycast.pki.trust import Pin

ALPN = "anycast-sync"
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


def load(folder: MachineFolder, me: Identity) -> Loaded:
    """Raises ConfigError, in one sentence, where the files are not good for being `me`."""
    own = folder.own()
    if own.identity != me:
        what = f"is the certificate of {own.identity}, and this is {me}"
        raise ConfigError([Problem("", what, str(folder.identity_file))])
    roots = certificates.pem(*own.trust.roots).decode()
    try:
        sides = ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT
        contexts = [_context(each, folder.identity_file, roots) for each in sides]
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


def _context(side: int, identity_file: Path, roots: str) -> ssl.SSLContext:
    # Not create_default_context: that one writes the keys to a file that SSLKEYLOGFILE names.
    context = ssl.SSLContext(side)
    context.check_hostname = False  # names are machines', not hosts'; `judge` checks them
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = ssl.VerifyFlags(VERIFY)
    context.options |= ssl.OP_NO_TICKET
    if side == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    context.set_alpn_protocols([ALPN])
    context.load_verify_locations(cadata=roots)
    context.load_cert_chain(identity_file)
    return context


class PinFile:
    """The key that the peer proved last while its certificate was in time. It outlives restarts: an alarm that nobody heeded
    must not part a pair when a machine reboots."""

    def __init__(self, path: Path, peer: Identity) -> None:
        self.path, self._peer = path, peer

    def load(self) -> Pin | None:
        """None where nothing is known of this peer. Raises ConfigError where the file cannot be believed."""
        try:
            body = json.loads(trusted_file.read(self.path))
            if body["version"] != 1:
                raise ValueError("version")
            pin = Pin(bytes.fromhex(body["key"]), datetime.datetime.fromisoformat(body["issued"]))
            if len(pin.key) != 32 or pin.issued.tzinfo is None:
                raise ValueError("key")
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise files.refused(self.path, exc) from exc
        except DecodeError as exc:
            raise ConfigError([Problem("", exc.what, str(self.path))]) from exc
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise ConfigError([Problem("", "means nothing; remove it", str(self.path))]) from exc
        return pin if body.get("peer") == self._peer.uri else None

    def save(self, pin: Pin) -> None:
        """Raises ConfigError and KernelError."""
        body = {"version": 1, "peer": self._peer.uri, "key": pin.key.hex(), "issued": pin.issued.isoformat()}
        files.write(self.path, json.dumps(body).encode() + b"\n", files.PUBLIC)
