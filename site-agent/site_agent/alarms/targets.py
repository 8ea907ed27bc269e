"""The operator's command and webhook: one notice to one of them, within a time limit. Blocking; runs in a thread of its own.

The command gets the notice on standard input, one JSON object and the end of file; success is exit status 0. No shell, no
inherited environment, no descriptors, an ordinary priority, a session of its own: past the time limit its whole process
group is killed. What it writes is thrown away, because it may hold what must not stand in our log; it may log for itself.

The webhook gets a POST. `https` is verified against the system's roots, `http` leads to a loopback address only, redirects
are failures (a token would follow them). The bearer token is read at each use from a file that only root can read, and
appears in no argument, no environment and no message.

`http.client` rather than aiohttp or httpx: prometheus_client has loaded it anyway, so it costs no memory, and its
blocking calls do no harm in a thread.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

from anycast.errors import PeerError
from site_agent import priority

LIMIT_S = 10.0
"""For one attempt."""
CONNECT_S = 3.0
"""For each of the server's addresses."""
KILLED_WITHIN_S = 2.0
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_TOKEN = re.compile(rb"[\x21-\x7e]{1,4096}")


class Target(Protocol):
    name: str

    def send(self, body: bytes) -> None:
        """Deliver one notice. Raises PeerError."""
        ...

    def abort(self) -> None:
        """End what `send` is waiting for. From any thread."""
        ...


class Command:
    name = "command"

    def __init__(self, argv: Sequence[str], *, limit_s: float = LIMIT_S) -> None:
        self._argv, self._limit_s = tuple(argv), limit_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def send(self, body: bytes) -> None:
        """Run the command once with `body` on its standard input. Raises PeerError."""
        try:
            # `user` has Python fork rather than vfork: a vfork would stand still with the interpreter's lock, and so stop
            # renewals, for as long as a hanging disk needs to find the program.
            child = subprocess.Popen(
                self._argv, env=ENVIRONMENT, cwd="/", start_new_session=True, user=os.geteuid(),
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as exc:
            raise PeerError(self.name, f"{self._argv[0]}: {exc.strerror}") from exc
        priority.make_ordinary(child.pid)
        with self._lock:
            self._child = child
        try:
            child.communicate(body, timeout=self._limit_s)
        except subprocess.TimeoutExpired:
            self.abort()
            with contextlib.suppress(subprocess.TimeoutExpired):  # in an uninterruptible sleep: nobody can end it
                child.wait(KILLED_WITHIN_S)
            raise PeerError(self.name, f"did not end within {self._limit_s:g} s and was killed") from None
        finally:
            with self._lock:
                self._child = None
        if child.returncode:
            how = f"ended by signal {-child.returncode}" if child.returncode < 0 else f"exit status {child.returncode}"
            raise PeerError(self.name, how)

    def abort(self) -> None:
        """Kill its process group. The number cannot be another's while the leader has not been waited for."""
        with self._lock:
            if self._child is not None and self._child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._child.pid, signal.SIGKILL)


class Webhook:
    name = "webhook"

    def __init__(
        self, url: str, token_file: str | None, *, limit_s: float = LIMIT_S, context: ssl.SSLContext | None = None
    ) -> None:
        """`context` is what a test verifies with; the system's roots if None."""
        self._url, self._token_file, self._limit_s = urlsplit(url), token_file, limit_s
        self._context = context
        self._lock = threading.Lock()
        self._guard: socket.socket | None = None

    def send(self, body: bytes) -> None:
        """POST `body`; any answer but 2xx is a failure. Raises PeerError."""
        timer = threading.Timer(self._limit_s, self.abort)  # a server that sends a byte a second passes every socket's limit
        timer.daemon = True
        timer.start()
        try:
            status = self._post(body)
        except TimeoutError:
            raise PeerError(self.name, f"no answer within {self._limit_s:g} s") from None
        except ssl.SSLCertVerificationError as exc:
            raise PeerError(self.name, f"certificate refused: {exc.verify_message}") from exc
        except (OSError, http.client.HTTPException) as exc:
            raise PeerError(self.name, f"{type(exc).__name__}: {exc}") from exc
        finally:
            timer.cancel()
            with self._lock:
                if self._guard is not None:
                    self._guard.close()
                self._guard = None
        if not 200 <= status < 300:
            raise PeerError(self.name, f"HTTP status {status}")

    def abort(self) -> None:
        """Cut the connection, in whatever state it is."""
        with self._lock:
            if self._guard is not None:
                with contextlib.suppress(OSError):
                    self._guard.shutdown(socket.SHUT_RDWR)

    def _post(self, body: bytes) -> int:
        url = self._url
        host, secure = url.hostname or "", url.scheme == "https"
        if not secure and not _is_loopback(host):
            raise PeerError(self.name, "http leads to a loopback address only")
        headers = {"Content-Type": "application/json", "User-Agent": "site-agent", "Connection": "close"}
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {read_token(self._token_file)}"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(host, url.port)
        try:
            connection.sock = self._connect(host, url.port or (443 if secure else 80), secure=secure)
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("POST", path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def _connect(self, host: str, port: int, *, secure: bool) -> socket.socket:
        plain = socket.create_connection((host, port), CONNECT_S)
        plain.settimeout(self._limit_s)
        with self._lock:
            self._guard = plain.dup()  # TLS takes the original; a shutdown through a copy cuts both
        if not secure:
            return plain
        try:
            return (self._context or ssl.create_default_context()).wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise


def read_token(path: str) -> str:
    """The first line of a file that nobody but root (or we) may read. Raises PeerError, which never quotes it."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            line = file.readline(8192).strip()
    except OSError as exc:
        raise PeerError("webhook", f"{path}: {exc.strerror}") from exc
    if status.st_uid not in (0, os.geteuid()) or stat.S_IMODE(status.st_mode) & 0o077:
        raise PeerError("webhook", f"{path}: not root's alone; `chown root` and `chmod 600` it")
    if _TOKEN.fullmatch(line) is None:
        raise PeerError("webhook", f"{path}: its first line is no token (printable ASCII without spaces)")
    return line.decode("ascii")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
