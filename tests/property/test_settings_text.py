"""Any text parses or is refused; what is written comes back. Time grows with the text, not faster."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.ike.settings_file import parse

NAMES = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789_-%", min_size=1, max_size=12).filter(lambda n: n != "include")
VALUES = st.text(alphabet=st.characters(exclude_characters="\r", exclude_categories=["Cs"]), min_size=1, max_size=30)
TREES = st.recursive(
    st.dictionaries(NAMES, VALUES, max_size=4),
    lambda below: st.dictionaries(NAMES, below | VALUES, max_size=4),
    max_leaves=12,
)


@given(st.text(alphabet=st.sampled_from('ab ={}":,\\#\n\t.*') | st.characters(), max_size=400))
def test_any_text_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(DecodeError):
        parse("f", text, lambda pattern, file: [("g", "x = 1")])


def written(tree: dict[str, object]) -> str:
    lines = []
    for name, value in tree.items():
        if isinstance(value, dict):
            lines.append(f"{name} {{\n{written(value)}\n}}")
        else:
            quoted = str(value).replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'{name} = "{quoted}"')
    return "\n".join(lines)


@given(TREES)
def test_what_is_written_comes_back(tree: dict[str, object]) -> None:
    settings = parse("f", written(tree))

    def compare(below: dict[str, object], path: list[str]) -> None:
        for name, value in below.items():
            if isinstance(value, dict):
                assert settings.has(".".join([*path, name]))
                compare(value, [*path, name])
            else:
                assert settings.get(".".join([*path, name])) == value

    compare(tree, [])
