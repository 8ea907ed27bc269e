"""`env-files`: the lines of joho/godotenv (containerlab's reader) that mean the same to everybody.

`NAME=value`, with `export ` before it or not; a value bare (to the end of the line or to ` #`), in single or double
quotes. A value with a `$`, a backslash or a line break is refused: what godotenv makes of those is its own.
"""

from __future__ import annotations

import re
from pathlib import Path

from anycast.errors import Problem

_LINE = re.compile(
    r"""(?:export[ \t]+)?
        (?P<name>[A-Za-z_][A-Za-z0-9_.]*)[ \t]*=[ \t]*
        (?:'(?P<single>[^'\\$]*)'|"(?P<double>[^"\\$]*)"|(?P<bare>[^'"\s\\$#](?:[^\\$#]|(?<![ \t])\#)*)?)
        [ \t]*(?:(?<=[ \t])\#.*)?""",
    re.VERBOSE,
)


def read(path: Path) -> tuple[dict[str, str], list[Problem]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        return {}, [Problem("", f"cannot be read: {exc.strerror}", str(path))]
    except UnicodeDecodeError as exc:
        return {}, [Problem("", f"is not UTF-8 (byte {exc.start})", str(path))]
    found, problems = dict[str, str](), list[Problem]()
    for number, raw in enumerate(re.split(r"\r?\n", text), 1):
        line = raw.strip(" \t")
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            what = "is not `NAME=value` with a value without `$` and backslash, bare or in one pair of quotes"
            problems.append(Problem("", what, str(path), number, 1))
        else:
            value = match["single"] or match["double"] or (match["bare"] or "").rstrip(" \t")
            found[match["name"]] = value
    return found, problems
