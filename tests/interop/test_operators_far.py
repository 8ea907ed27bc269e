"""Operators on other machines: TLS and no plain HTTP beside loopback, and a command line that knows whom it asks."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import threading
from pathlib import Path

from anycast.pki.machine_folder import MachineFolder
from tests.support.coordinator import Coordinator, kill
from tests.support.namespace import in_namespace
from tests.support.sync_pair import Root

FAR = "192.0.2.10"
PORT = 4519


def _world() -> tuple[Coordinator, dict[str, str]]:
    """A coordinator that was told to listen there, and what a viewer on another machine has."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", f"{FAR}/32", "dev", "lo"], check=True)
    made = Coordinator(Path("/run/test"), "--operators", f"{FAR}:{PORT}", "--operators", f"127.0.0.1:{PORT}")
    made.start()
    secret = made.base / "eve"
    secret.touch(0o600)
    secret.write_text(made.run("access", "add", "eve").stdout)
    given = {"ANYCAST_CREDENTIAL": str(secret), "ANYCAST_ROOT": str(made.root.folder.path / "root.pem")}
    return made, given | {"ANYCAST_COORDINATOR": f"https://{FAR}:{PORT}"}


@in_namespace
def test_far_operators_are_answered_over_tls_alone() -> None:
    Path("/run/test").mkdir(mode=0o700)
    made, far = _world()
    try:
        done = made.run("status", **far)
        assert done.returncode == 0 and "fleet" in done.stdout, done.stderr
        plain = http.client.HTTPConnection(FAR, PORT, timeout=5)
        try:
            plain.request("GET", "/v1/openapi.json")
            said = plain.getresponse().status
        except (OSError, http.client.HTTPException) as exc:
            said = str(exc)
        assert not isinstance(said, int), "no HTTP answers there without TLS"
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
        with socket.create_connection((FAR, PORT), 5) as sock:
            try:
                old.wrap_socket(sock)
                raise AssertionError("TLS 1.2 is taken")
            except ssl.SSLError:
                pass
        near = made.run("status", **{**far, "ANYCAST_COORDINATOR": f"http://127.0.0.1:{PORT}"})
        assert near.returncode == 0, near.stderr
        refused = made.run("status", **{**far, "ANYCAST_COORDINATOR": f"http://{FAR}:{PORT}"})
        assert (refused.returncode, "http is for loopback" in refused.stderr) == (2, True)
    finally:
        kill(made.process)


@in_namespace
def test_the_command_line_shows_its_credential_to_no_other_machine() -> None:
    """Nor to one of another root, nor to a gateway of the fleet's own that answers in the coordinator's place."""
    Path("/run/test").mkdir(mode=0o700)
    made, far = _world()
    try:
        other = Root(made.base / "other")
        stranger = made.run("status", **{**far, "ANYCAST_ROOT": str(other.folder.path / "root.pem")})
        assert (stranger.returncode, "its certificate is not believed" in stranger.stderr) == (3, True), stranger.stderr
        heard: list[bytes] = []
        with socket.create_server((FAR, PORT + 1)) as sock:
            thread = threading.Thread(target=_poses, args=(sock, made.gateway("fra-gw1"), heard))
            thread.start()
            posed = made.run("status", **{**far, "ANYCAST_COORDINATOR": f"https://{FAR}:{PORT + 1}"})
            thread.join(10)
        assert (posed.returncode, "is no coordinator" in posed.stderr) == (1, True), posed.stderr
        assert heard == [b""], "not a byte of a request"
    finally:
        kill(made.process)


def _poses(sock: socket.socket, folder: MachineFolder, heard: list[bytes]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.identity_file)
    connection, _ = sock.accept()
    with context.wrap_socket(connection, server_side=True) as found:
        heard.append(found.recv(1024))
