"""Who this end of the channel is, and the key that it knows the other one by.

The TLS contexts are `anycast.pki.tls`'s; what is the channel's own is its application protocol and the pin.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from anycast import trusted_file
from anycast.errors import ConfigError, DecodeError, Problem
from anycast.pki import files, tls
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity
from anycast.pki.tls import Loaded
from anycast.pki.trust import Pin

ALPN = "anycast-sync"


def load(folder: MachineFolder, me: Identity) -> Loaded:
    """Raises ConfigError, in one sentence, where the files are not good for being `me`."""
    return tls.load(folder, me, ALPN)


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
