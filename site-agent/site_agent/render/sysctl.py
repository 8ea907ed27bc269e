"""The kernel settings that a gateway needs, made of its document. Pure.

Written for ``sysctl -p``; the agent itself changes no setting of the machine.
"""

from __future__ import annotations

from anycast.document import Document
from site_agent.render.templating import render


def render_sysctl(document: Document) -> str:
    """The text of a sysctl.conf(5) file."""
    return render("sysctl.conf.j2", document=document)
