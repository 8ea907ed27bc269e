"""Variables of a topology file: the environment's, replaced before the file is YAML, and containerlab's own magic ones.

The environment's are what `hellt/envsubst` makes of them for containerlab (core/file.go: an unset variable stays as it is,
and so do `$1` and a lone `$`). Of its forms only those are read whose meaning does not hang on how its lexer stumbles:
`$NAME`, `${NAME}`, `$$` and `${NAME` `-` `=` `:-` `:=` `+` `:+` `word}` with a plain word or one `$NAME`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from anycast.errors import Problem

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_DOLLAR = re.compile(
    rf"""\$(?:
        (?P<escaped>\$)
      | (?P<digit>\{{?[0-9])
      | (?P<plain>{_NAME})
      | \{{(?P<braced>{_NAME})(?:(?P<form>:?[-=+])(?P<word>\${_NAME}|[^-=+:$}}\r\n][^}}\r\n$]*)?)?\}}
      | (?P<open>\{{)
      | (?P<other>\w)
    )""",
    re.VERBOSE,
)
_MAGIC = re.compile(r"__clab(?:Dir|LabName|NodeDir|NodeName)__")


def magic(text: str, lab: str, node: str, lab_dir: Path) -> str:
    """core/config.go, magicVarReplacer. The lab's name is that of its folder there, which begins with `clab-`."""
    values = {
        "__clabDir__": str(lab_dir),
        "__clabLabName__": f"clab-{lab}",
        "__clabNodeDir__": str(lab_dir / node),
        "__clabNodeName__": node,
    }
    return _MAGIC.sub(lambda match: values[match.group()], text)


def substitute(text: str, environ: Mapping[str, str], file: str) -> tuple[str, dict[str, str], list[Problem]]:
    """`text` with the environment's variables, those it named, and what cannot be read."""
    used, problems = dict[str, str](), list[Problem]()

    def refuse(at: int, what: str) -> None:
        start = text.rfind("\n", 0, at) + 1
        problems.append(Problem("", what, file, text.count("\n", 0, at) + 1, at - start + 1))

    def value_of(name: str, at: int) -> str | None:
        if (value := environ.get(name)) is None:
            return None
        used[name] = value
        if re.search(r"[\r\n\0]", value):
            refuse(at, f"the value of ${name} has a line break, which would move every line after it")
        return value

    def replaced(match: re.Match[str]) -> str:
        at = match.start()
        if match["escaped"]:
            return "$"
        if match["digit"]:
            return match.group()
        if match["plain"] == "_":
            return "$_"
        if match["open"] or match["other"]:
            refuse(at, "this form of a variable is not supported by the embedded runner, only `$NAME`, `${NAME}`, "
                       "`${NAME:-word}` and their like; a `$` of its own is written `$$`")  # fmt: skip
            return match.group()
        name: str = match["plain"] or match["braced"]
        value, word = value_of(name, at), match["word"]
        plain = value or f"${name}"  # also for an empty one, and without its braces
        if not word:
            return plain
        if word.startswith("$"):
            word = value_of(word[1:], at) or word
        match match["form"]:
            case ":-" | ":=":
                return value or word
            case "+" | ":+":
                return "" if value is None else word
            case _:
                return word if value is None else plain

    if (at := text.find("{{")) >= 0:
        refuse(at, "a Go template (`{{`) is not supported by the embedded runner")
    return _DOLLAR.sub(replaced, text), used, problems
