"""What `pip install .` brings: every package of the tree and every file in it, which an editable install would not miss."""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
SETUPTOOLS = tomllib.loads((TREE / "pyproject.toml").read_text())["tool"]["setuptools"]
ROOTS = {name: TREE / folder for name, folder in SETUPTOOLS["package-dir"].items()}


def package(root: str, folder: Path) -> str:
    return ".".join([root, *folder.relative_to(ROOTS[root]).parts])


def test_every_package_is_listed_and_no_other() -> None:
    there = {package(root, path.parent) for root, folder in ROOTS.items() for path in folder.rglob("__init__.py")}
    assert sorted(SETUPTOOLS["packages"]) == sorted(there)


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for folder in ROOTS.values() for path in folder.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_other_file_is_package_data() -> None:
    for root, folder in ROOTS.items():
        for path in folder.rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc"):
                continue
            owner = next(parent for parent in path.parents if (parent / "__init__.py").exists())
            patterns = SETUPTOOLS["package-data"].get(package(root, owner), [])
            name = str(path.relative_to(owner))
            assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), path.relative_to(TREE)
