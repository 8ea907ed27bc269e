"""How a doctor looks: files and other programs' answers, each bounded, each refusal written down. Changes nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from site_agent.doctor.finding import Unseen

LONGEST_FILE, PIECE = 4 << 20, 64 << 10
ANSWER_LIMIT_S = 5.0
"""`nft list ruleset` of 10,000 rules takes 0.3 s."""
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Sight:
    """Remembers what could not be seen."""

    def __init__(self) -> None:
        self.unseen: list[Unseen] = []

    def miss(self, what: str, needs: str = "") -> None:
        """Write down once what could not be seen; `needs` is the privilege that would help."""
        missed = Unseen(what=what, needs=needs)
        if missed not in self.unseen:
            self.unseen.append(missed)

    def bytes_of(self, path: str | Path, *, needs: str = "root") -> bytes | None:
        """A file's content; None where there is none (which says nothing) or it may not be read (which is written down)."""
        try:
            parts: list[bytes] = []
            left = LONGEST_FILE
            with open(path, "rb", buffering=0) as file:
                # Piece by piece: the kernel makes a buffer as large as what is asked for, and under /proc/sys refuses 4 MiB.
                while left > 0 and (part := file.read(min(left, PIECE))):
                    parts.append(part)
                    left -= len(part)
            return b"".join(parts)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except PermissionError:
            self.miss(f"{path} may not be read", needs)
        except OSError as exc:
            self.miss(f"{path}: {exc.strerror}")
        return None

    def text_of(self, path: str | Path, *, needs: str = "root") -> str | None:
        data = self.bytes_of(path, needs=needs)
        return None if data is None else data.decode(errors="replace")

    def number_of(self, path: str | Path) -> int | None:
        """A number under /proc or /sys; None where there is none."""
        text = self.text_of(path)
        try:
            return None if text is None else int(text)
        except ValueError:
            self.miss(f"{path} holds no number")
            return None

    def files_in(self, folder: Path) -> list[Path]:
        """Files of a folder, sorted; none where there is no such folder."""
        try:
            return sorted(path for path in folder.iterdir() if path.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PermissionError:
            self.miss(f"{folder} may not be listed", "root")
            return []

    def answer_of(self, argv: Sequence[str], *, needs: str = "root") -> str | None:
        """What a program prints; None where it is not installed, takes too long, or refuses."""
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, errors="replace", timeout=ANSWER_LIMIT_S, check=False,
                stdin=subprocess.DEVNULL, env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
        except FileNotFoundError:
            return None
        except (OSError, subprocess.TimeoutExpired) as exc:
            self.miss(f"`{' '.join(argv)}`: {exc}")
            return None
        if done.returncode != 0:
            refused = done.stderr.strip().splitlines()[-1:] or [f"exited with {done.returncode}"]
            self.miss(f"`{' '.join(argv)}`: {refused[0]}", needs if os.geteuid() != 0 else "")
            return None
        return done.stdout
