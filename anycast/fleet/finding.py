"""What a rule found, before anybody looks up where in the file it stands."""

from __future__ import annotations

import dataclasses

from anycast.fleet.yaml_text import Path


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule."""

    path: Path
    what: str
    at_key: bool = False
    """The key is at fault, not its value."""
    judged: tuple[Path, ...] = ()
    """Other parts of the file that the rule looked at. Where one of them could not be read, the finding is dropped."""
