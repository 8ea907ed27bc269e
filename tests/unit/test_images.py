"""The labs' images have one list of packages a role, however they are made; nothing secret is put into them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from anycast_lab.containerlab import images
from anycast_lab.control.launch import CHECKOUT

DOCKERFILE = (images.IMAGES / "Dockerfile").read_text()


def instructions(name: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


@pytest.mark.parametrize("role", images.ROLES)
def test_mmdebstrap_and_dockerfile_install_the_same_packages(role: str, tmp_path: Path) -> None:
    run = next(line for line in instructions("RUN") if "apt-get install" in line)
    pipeline = re.search(r"(sed .*?)\| xargs apt-get install -y --no-install-recommends(.*?)(&&|$)", run)
    assert pipeline is not None and not pipeline[2].strip(), "the Dockerfile names no package beside the list"
    shutil.copy(images.IMAGES / f"{role}.packages", tmp_path)
    reads = pipeline[1].replace("/opt/${ROLE}", str(tmp_path / role)) + "| xargs echo"
    by_docker = subprocess.run(["sh", "-c", reads], capture_output=True, text=True, check=True).stdout.split()
    names = images.packages((images.IMAGES / f"{role}.packages").read_text())
    command = images.mmdebstrap(names, "bookworm", Path("x.tar"), [])
    by_mmdebstrap = next(word for word in command if word.startswith("--include=")).partition("=")[2].split(",")
    assert by_docker == by_mmdebstrap == sorted(set(by_docker), key=by_docker.index)
    assert "tini" in by_docker, "the container's first process"


def test_a_container_starts_the_same_way_however_its_image_was_made() -> None:
    changes = {change.partition(" ")[0]: [] for change in images.CHANGES}
    for change in images.CHANGES:
        changes[change.partition(" ")[0]].append(change.partition(" ")[2])
    assert instructions("ENTRYPOINT") == changes["ENTRYPOINT"] and instructions("CMD") == changes["CMD"]
    assert instructions("ENV") == [" ".join(changes["ENV"])]


def test_every_topology_uses_the_images_that_are_made() -> None:
    made = {images.tag(role) for role in images.ROLES}
    for file in sorted((CHECKOUT / "labs/topologies").glob("*.clab.yml")):
        topology = yaml.safe_load(file.read_text())["topology"]
        named = {group["image"] for group in topology["groups"].values()}
        assert named <= made, file.name


def test_comments_are_no_packages() -> None:
    assert images.packages("# first\ntini  # why\n\n python3 procps\n") == ["tini", "python3", "procps"]
