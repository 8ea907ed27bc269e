"""A whole gateway on the native kernel: the agent as its own process, real charon, real ExaBGP, BIRD as upstream.

Use inside `in_namespace` only; the process namespace ends with the test and takes everything along.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from anycast.document import Bfd, Neighbor, SharedChecks
from anycast_lab.machines.pki import Root, write_secret
from tests.support.documents import TREE, document
from tests.support.upstream import Upstream, until

ROOTS = [TREE, TREE / "site-agent", TREE / "exabgp", TREE / "labs"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, ROOTS))}
NOTHING_OUTSIDE = SharedChecks()
"""There are no servers behind this gateway."""
WITH_CANARY = SharedChecks(canary=document().service.checks.canary)
MD5_KEY = "correct horse battery staple"


class Gateway:
    """fra-gw1 of the two-site fleet. Its folders lie on the namespace's private /run."""

    def __init__(
        self,
        *,
        checks: SharedChecks = NOTHING_OUTSIDE,
        bfd: Bfd | None = None,
        inside: tuple[Neighbor, ...] = (),
        unicast: dict[str, str] | None = None,
        **agent: Any,
    ) -> None:
        """`bfd` runs beside each session with an upstream; `inside`: routers there that hear the client pools; `unicast`: an
        address of the site's own by the prefix that each upstream of its family hears."""
        self.base = Path("/run/test")
        self.base.mkdir()
        secrets = self.base / "secrets"
        vpn, clients = self.roots = Root("gateways"), Root("clients")
        self.document = document(secrets=secrets, checks=checks, bfd=bfd, **agent)
        told = [
            each.model_copy(update={"unicast": tuple(p for p in unicast or () if (":" in p) == (":" in each.address))})
            for each in self.document.bgp.neighbors
        ]
        bgp = self.document.bgp.model_copy(update={"neighbors": (*told, *inside)})
        service = self.document.service.model_copy(update={"service_addresses": tuple((unicast or {}).values())})
        self.document = self.document.model_copy(update={"bgp": bgp, "service": service})
        issued = vpn.issue(self.document.service.identity)
        write_secret(secrets / "gateway.crt", issued.certificate)
        write_secret(secrets / "gateway.key", issued.private_key)
        write_secret(secrets / "client-ca.crt", clients.certificate)
        if (canary := self.document.service.checks.canary) is not None:
            issued = clients.issue(canary.identity)
            write_secret(Path(canary.certificate), issued.certificate)
            write_secret(Path(canary.private_key), issued.private_key)
            write_secret(Path(canary.gateway_ca), vpn.certificate)
        keys = {n.md5_key_file for n in self.document.bgp.neighbors if n.md5_key_file is not None}
        for key in keys:
            write_secret(Path(key), MD5_KEY.encode())
        (self.base / "document.json").write_bytes(self.document.canonical())
        self.upstream = Upstream(self.document, self.base, md5_keys=dict.fromkeys(keys, MD5_KEY))
        self.run_dir, self.state_dir = self.base / "run", self.base / "state"
        self.wrapper: list[str] = []
        """Words before the agent's command, e.g. setpriv with its options."""
        self.agent: subprocess.Popen[bytes] | None = None

    @property
    def all_prefixes(self) -> set[str]:
        return set(self.document.service.prefixes)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "site_agent.cli", *words]

    def start(self, *more: str) -> None:
        """Start an agent; it runs when this returns, but may not have announced yet."""
        folders = ["--run-dir", self.run_dir, "--state-dir", self.state_dir, "--etc-dir", self.base / "etc"]
        words = ["run", "--document", self.base / "document.json", *folders, *more]
        self.agent = subprocess.Popen([*self.wrapper, *self.command(*map(str, words))], env=ENVIRONMENT)

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line, as an operator does."""
        folders = [] if words[0] == "events" else ["--run-dir", str(self.run_dir)]
        stateless = words[0] in ("flap", "apply") or words == ("drain", "abort")
        folders += [] if stateless else ["--state-dir", str(self.state_dir)]
        command = self.command(*words, *folders)
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=30)

    def pid(self, name: str) -> int:
        """Of `charon` or `exabgp`, as the agent recorded it."""
        return int((self.run_dir / f"{name}.pid").read_text().split()[0])

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """The records of these kinds in the log, oldest first."""
        path = self.state_dir / "events.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [record for record in records if record["event"] in kinds]

    def announced(self, *, within_s: float = 20) -> float:
        """Wait until the upstream has every prefix."""
        return until(lambda: self.upstream.prefixes() >= self.all_prefixes, "announced", within_s=within_s)

    def withdrawn(self, *, within_s: float) -> float:
        """Wait until the upstream has none of them."""
        return until(lambda: not self.upstream.prefixes() & self.all_prefixes, "withdrawn", within_s=within_s)

    def metrics(self) -> str:
        """What a scrape gets."""
        with urllib.request.urlopen(f"http://{self.document.agent.metrics_listen}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def signal_agent(self, number: signal.Signals) -> None:
        assert self.agent is not None
        self.agent.send_signal(number)
