"""Templates whose every inserted value is checked on its way out.

A document is a message: a name with a newline or a brace in it must not become a second line of somebody's
configuration. Jinja calls `finalize` for each expression it prints, so no template can forget to ask. Sentences of our own
code, with their quotes and parentheses, are let through where the template says `| safe`.
"""

from __future__ import annotations

import re
from typing import Any

import jinja2

from anycast.errors import ConfigError, Problem

_SAFE = re.compile(r"[A-Za-z0-9 ._:/@,+=%~-]*")
"""No quotes, braces, brackets, comment signs, semicolons, backslashes, control characters: plain text to strongSwan's
parser, to ExaBGP's and to sysctl's."""


def _checked(value: Any) -> Any:
    if isinstance(value, str) and not hasattr(value, "__html__") and not _SAFE.fullmatch(value):
        raise ConfigError([Problem("document", f"{value[:60]!a} cannot stand in a configuration file")])
    return value


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("site_agent.render"),
    undefined=jinja2.StrictUndefined,
    finalize=_checked,
    autoescape=False,  # not markup; `finalize` refuses what would need escaping
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: Any) -> str:
    """The text of `template`. Raises ConfigError where a value holds a character that could end its own place."""
    return _ENVIRONMENT.get_template(template).render(**values)
