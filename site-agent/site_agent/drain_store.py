"""The drain's file. `site-agent drain start` writes it, the agent keeps it up to date and removes it at the drain's end."""

from __future__ import annotations

from anycast import trusted_file
from anycast.errors import DecodeError, KernelError
from anycast.policy import drain_record
from anycast.policy.drain import Drain
from anycast.whole_file import put, settle
from site_agent.hold_store import read_clocks
from site_agent.paths import Paths


def load(paths: Paths) -> Drain | None:
    """Raises DecodeError, also where it cannot be read, or could have been written by somebody else than root or us."""
    clocks = read_clocks()
    try:
        return drain_record.decode(trusted_file.read(paths.drain), boot_id=clocks.boot_id, now=clocks.boot)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise DecodeError("drain", 0, f"{paths.drain}: {exc.strerror}") from exc


def store(paths: Paths, drain: Drain) -> None:
    """Returns when the disk has it. Raises KernelError."""
    try:
        paths.state_dir.mkdir(parents=True, exist_ok=True)
        put(paths.drain, drain_record.encode(drain, boot_id=read_clocks().boot_id), 0o644)
    except OSError as exc:
        raise KernelError(exc.errno or 0, f"write {paths.drain}") from exc


def remove(paths: Paths) -> None:
    """Raises KernelError."""
    try:
        paths.drain.unlink(missing_ok=True)
        settle(paths.drain)
    except OSError as exc:
        raise KernelError(exc.errno or 0, f"remove {paths.drain}") from exc
