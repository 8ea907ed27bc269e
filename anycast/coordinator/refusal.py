"""What is handed in and not taken."""

from __future__ import annotations

from anycast.errors import AnycastError


class Refusal(AnycastError):
    """What was handed in is not taken; every reason."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class ReadOnly(Refusal):
    """Nothing is decided now, whatever was handed in; why, in one sentence."""
