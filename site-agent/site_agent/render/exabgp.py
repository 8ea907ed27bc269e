"""What ExaBGP reads, made of a gateway's document. Pure; the MD5 keys are handed in by who read their files.

The file holds sessions and no route: routes come from the bridge, each backed by a lease.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import PurePath

from anycast.document import Document
from anycast.errors import ConfigError, Problem
from site_agent.render.templating import render

MAX_MD5_KEY = 80
"""TCP_MD5SIG_MAXKEYLEN of Linux."""


def render_exabgp(
    document: Document, *, python: PurePath | str, socket_path: PurePath | str, md5_keys: Mapping[str, bytes]
) -> str:
    """ExaBGP's configuration file. It holds the MD5 keys: write it readable by root and ExaBGP only.

    `python` runs the bridge, `socket_path` is where the agent listens for it, `md5_keys` maps each neighbor's
    `md5_key_file` to the key in it. Raises ConfigError where a key is missing, empty or longer than the kernel takes.
    """
    problems = []
    keys: dict[str, str] = {}
    for neighbor in document.bgp.neighbors:
        if neighbor.md5_key_file is None:
            continue
        key = md5_keys.get(neighbor.md5_key_file, b"")
        if not 0 < len(key) <= MAX_MD5_KEY:
            what = f"{neighbor.md5_key_file} holds a key of {len(key)} bytes; 1 to {MAX_MD5_KEY} are needed"
            problems.append(Problem(f"bgp.neighbors.{neighbor.name}", what))
        # Encoded, so that no byte of a key can be read as syntax.
        keys[neighbor.name] = base64.b64encode(key).decode()
    if problems:
        raise ConfigError(problems)
    return render("exabgp.conf.j2", document=document, bgp=document.bgp, python=python, socket_path=socket_path, keys=keys)
