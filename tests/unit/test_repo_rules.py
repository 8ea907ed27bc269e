"""What must hold for every file of the project: whose addresses, pinned versions, files of a readable length."""

from __future__ import annotations

import ipaddress
import re

import pytest

from tests.run_stages import STAGES
from tests.support.tree import TREE, tracked

MAX_LINES = 500
"""h11's largest core file has 659; past 500, look for the second noun."""
LONG_BY_NATURE = {"LICENSE", "tests/data/containerlab/schema.json", "tests/data/containerlab/readings.json"}

ALLOWED = [
    ipaddress.ip_network(text)
    for text in (
        *("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"),  # RFC 5737, RFC 3849
        *("127.0.0.0/8", "0.0.0.0/8", "255.0.0.0/8", "::/96", "fe80::/10", "224.0.0.0/4", "ff00::/8"),
        "169.254.0.0/24",  # link scope, and nobody picks one of these (RFC 3927 section 2.1)
        *("::ffff:127.0.0.0/104", "::ffff:192.0.2.0/120", "::ffff:198.51.100.0/120", "::ffff:203.0.113.0/120"),
    )
]
"""Documentation, loopback, link scope, unspecified and masks. A lab that leaks can then reach nobody."""
SHOWS_FOREIGN_ADDRESSES = {
    "tests/data/containerlab/schema.json": "not ours",
    "tests/errors/lab-addresses.yaml": "shows that a lab is refused them",
    "tests/errors/lab-addresses.txt": "shows that a lab is refused them",
}
RECORDED = "tests/data/netbox/recorded/"
"""What others' NetBoxes answered, as they answered it (SOURCES)."""
IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)")
IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:.]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*[0-9A-Fa-f:](?!\w)")
SLICE = re.compile(r"\[-?\d*::-?\d*\]")
"""Python's, which read like addresses."""
INDEX_HOSTS = re.compile(
    r"\b(?:pypi|pythonhosted|debian|docker|quay|ghcr|gcr|npmjs|golang)\.(?:org|io|com|dev)\b|--(?:extra-)?index-url"
)
"""Where packages come from is the machine's business; an address in the tree would be one more thing to trust."""
NAMES_OF_PACKAGES = re.compile(r"golang\.org/toolchain\b|\"docker\.io\"|^docker\.io(?= +#)", re.MULTILINE)


def texts() -> list[tuple[str, str]]:
    return [(str(p.relative_to(TREE)), p.read_text(encoding="utf-8", errors="replace")) for p in tracked()]


def foreign_addresses(text: str) -> list[str]:
    """Addresses in `text` that belong to somebody."""
    found = []
    text = SLICE.sub("", text)
    for match in [*IPV4.finditer(text), *IPV6.finditer(text)]:
        try:
            address = ipaddress.ip_address(match.group())
        except ValueError:
            continue  # a version, a time of day, a MAC address
        if not any(address in network for network in ALLOWED if network.version == address.version):
            found.append(match.group())
    return found


def test_every_address_is_for_documentation_or_loopback() -> None:
    found = {name: bad for name, text in texts() if not name.startswith(RECORDED) and (bad := foreign_addresses(text))}
    assert found.keys() <= SHOWS_FOREIGN_ADDRESSES.keys(), found


@pytest.mark.parametrize("text", [str(ipaddress.ip_address(10 << 24 | 1)), str(ipaddress.ip_address(0xFD << 120 | 1))])
def test_a_private_address_would_be_found(text: str) -> None:
    assert foreign_addresses(f"ip addr add {text}/24 dev eth1") == [text]


def test_no_package_index_is_named() -> None:
    # Go names modules so, and Debian's package of Docker's daemon has a dot in its name.
    found = {name: match.group() for name, text in texts() if (match := INDEX_HOSTS.search(NAMES_OF_PACKAGES.sub("", text)))}
    for name in ("tests/unit/test_repo_rules.py", "labs/tools/go.mod", "labs/tools/go.sum"):
        found.pop(name, None)
    assert not found


def test_every_requirement_is_pinned() -> None:
    for path in [*TREE.glob("requirements*.txt"), *TREE.glob("install/requirements*.txt")]:
        for line in path.read_text().splitlines():
            if line and not line.startswith(("#", "-r ")):
                assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), f"{path.name}: {line!r} is not pinned"


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by these alone, and collects neither of two."""
    names = [path.name for path in (TREE / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}


FOLDER_OF = {
    "lab": "lab", "pairs": "lab", "containerlab": "lab", "alone": "interop", "root": "interop lab", "daemons": "interop",
}  # fmt: skip


def test_tests_are_where_their_stage_looks_for_them() -> None:
    """`./test` gives each stage its folders only (`run_stages.STAGES`)."""
    astray = [
        f"{path.relative_to(TREE)}: {marker}"
        for path in (TREE / "tests").rglob("test_*.py")
        for marker in re.findall(r"mark\.(\w+)|(?<=^@)in_namespace", path.read_text(), re.MULTILINE)
        if path.parent.name not in FOLDER_OF.get(marker or "root", path.parent.name).split()
    ]
    assert not astray
    folders = {path.parent.name for path in (TREE / "tests").rglob("test_*.py")}
    assert folders == {folder for stage in STAGES for folder in stage.folders}


def test_files_stay_readable() -> None:
    long = {name: lines for name, text in texts() if name not in LONG_BY_NATURE and (lines := text.count("\n")) > MAX_LINES}
    assert not long, "look for the second noun"


def test_each_check_has_one_row_in_the_table_of_all_checks() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (TREE / "docs" / "checks.md").read_text(), re.MULTILINE)
    assert len(rows) > 15
    assert sorted(rows) == sorted(set(rows))


def test_no_program_of_ours_is_changed_by_a_hook_that_was_left_in_it() -> None:
    assert [name for name, text in texts() if name.endswith(".py") and ("__import" + "__(") in text] == []
