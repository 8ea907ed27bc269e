"""`labs/images/build`: the labs' container images, from the machine's own Debian sources and without an image registry.

mmdebstrap makes each role's root file system, `docker import` an image of it. Where a Docker answers on this machine they go
there, for containerlab on this machine; otherwise, or with --disk, into the store of a dockerd of our own, which is then
packed as a disk for User Mode Linux (.cache/containerlab/images.ext4). What did not change is not made again.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anycast_lab.containerlab import dockerd, images, prepared
from anycast_lab.containerlab.prepared import CACHE, DISK
from anycast_lab.embedded.root import CHECKOUT
from anycast_lab.runner import LabError, Progress

SPACE = 512
"""MiB that the disk has beyond its images: what a lab's containers write lies there, too."""
_PACKAGED = ("pyproject.toml", "requirements.txt", "README.md", "anycast", "site-agent", "exabgp", "labs/anycast_lab")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="labs/images/build", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--disk", action="store_true", help="for User Mode Linux, also where a Docker answers")
    parser.add_argument("--context", type=Path, metavar="DIR", help="only write what labs/images/Dockerfile builds from")
    arguments = parser.parse_args()
    try:
        if arguments.context is not None:
            write_context(arguments.context)
        else:
            build(disk=arguments.disk or not _docker_answers())
    except LabError as error:
        sys.exit(f"labs/images/build: {error}")


def build(*, disk: bool) -> None:
    if os.geteuid() != 0:
        raise LabError("mmdebstrap and dockerd need root: run this with sudo")
    for program, package in (("mmdebstrap", "mmdebstrap"), ("docker", "docker.io"), ("mke2fs", "e2fsprogs")):
        if shutil.which(program) is None:
            raise LabError(
                f"{program} was not found (Debian's package {package}); `labs/containerlab install` installs what is needed"
            )
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {text}", flush=True)

    CACHE.mkdir(parents=True, exist_ok=True)
    kept = prepared.sources_hash()
    if disk and prepared.is_current():
        say(f"images: as they should be, in {DISK}")
        return
    with tempfile.TemporaryDirectory(prefix="images-", dir=CACHE) as folder:
        scratch = Path(folder)
        write_context(scratch / "context")
        say("our wheel and the pinned packages are there")
        tars = [_root_file_system(role, scratch, say) for role in images.ROLES]
        if not disk:
            _import(tars, dict(os.environ), say)
            return
        with dockerd.for_images(scratch / "docker", scratch) as environment:
            _import(tars, environment, say)
        _pack(scratch / "docker", scratch / "images.ext4", say)
        (scratch / "images.ext4").replace(DISK)
    prepared.STAMP.write_text(kept)


def write_context(folder: Path) -> None:
    """The Dockerfile, the lists, the two scripts, and `wheels`: ours, the pinned ones, and a pip to install them with."""
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for file in images.IMAGES.iterdir():
        shutil.copy2(file, folder)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as copy:  # setuptools leaves a build folder where it builds
        for name in _PACKAGED:
            source, target = CHECKOUT / name, Path(copy, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
        _run([*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(wheels), copy], "our wheel")
    pins = str(CHECKOUT / "requirements.txt")
    _run([*pip, "wheel", "--wheel-dir", str(wheels), "-r", pins], "the pinned packages")
    _run([*pip, "download", "--no-deps", "--only-binary=:all:", "--dest", str(wheels), "pip"], "pip")


def _root_file_system(role: str, scratch: Path, say: Progress) -> tuple[str, Path]:
    debian = _debian(role, say)
    root, tar = scratch / role, scratch / f"{role}.tar"
    root.mkdir()
    _run(["tar", "--numeric-owner", "--xattrs", "-C", str(root), "-xf", str(debian)], f"the {role}'s root")
    shutil.copytree(scratch / "context" / "wheels", root / "opt/wheels")
    for script in ("install-product", "boot-container"):
        shutil.copy2(scratch / "context" / script, root / "opt")
    _run(images.install_product(role, root), f"the product at the {role}")
    _run(["tar", "--numeric-owner", "--xattrs", "-C", str(root), "-cf", str(tar), "."], f"the {role}'s tar")
    shutil.rmtree(root)
    say(f"{role}: {tar.stat().st_size >> 20} MiB, {debian.stat().st_size >> 20} MiB of it Debian's")
    return role, tar


def _debian(role: str, say: Progress) -> Path:
    """The role's Debian as a tar. One that was made today of the same list is taken as it is: updates come within a day."""
    names, suite = images.packages((images.IMAGES / f"{role}.packages").read_text()), _suite()
    command = images.mmdebstrap(names, suite, Path("OUTPUT"), _apt_sources())
    made_of = hashlib.sha256("\0".join(command).encode()).hexdigest()[:16]
    tar = CACHE / f"debian-{role}.tar"
    stamp, wanted = tar.with_suffix(".stamp"), f"{made_of} {datetime.date.today():%Y-%m-%d}"
    if not (tar.exists() and stamp.exists() and stamp.read_text() == wanted):
        new = tar.with_suffix(".new.tar")
        _run(images.mmdebstrap(names, suite, new, _apt_sources()), f"the {role}'s Debian")
        new.replace(tar)
        stamp.write_text(wanted)
        say(f"{role}: {len(names)} packages and what they need, from Debian {suite}")
    return tar


def _import(tars: list[tuple[str, Path]], environment: dict[str, str], say: Progress) -> None:
    changes = [word for change in images.CHANGES for word in ("--change", change)]
    for role, tar in tars:
        _run(["docker", "import", *changes, str(tar), images.tag(role)], f"docker import of {role}", environment)
        say(f"{images.tag(role)} imported")


def _pack(store: Path, disk: Path, say: Progress) -> None:
    used = int(subprocess.run(["du", "-sm", str(store)], check=True, capture_output=True, text=True).stdout.split()[0])
    size = used + used // 8 + SPACE
    _run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", str(store), str(disk), f"{size}M"], "the disk")
    say(f"packed as a disk of {size} MiB, {used} MiB of it in use")


def _suite() -> str:
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return release["VERSION_CODENAME"].strip('"')


def _apt_sources() -> list[str]:
    """The machine's own: no index address stands in this project."""
    found = [*sorted(Path("/etc/apt/sources.list.d").glob("*.sources")), Path("/etc/apt/sources.list")]
    return [str(file) for file in found if file.exists()]


def _docker_answers() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0


def _run(command: list[str], what: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise LabError(
            f"{what} could not be made: " + ("\n  ".join(said[-8:]) or f"{command[0]} ended with {done.returncode}")
        )


if __name__ == "__main__":
    main()
