"""The bounds that drills and benchmarks assert (`labs/limits*.yml`, each with its reason), and how such files are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import pydantic
import yaml

from anycast.errors import ConfigError, Problem

LIMITS = tuple(Path(__file__).resolve().parents[2] / name for name in ("limits.yml", "limits-bench.yml"))

_Model = TypeVar("_Model", bound=pydantic.BaseModel)


class Strict(pydantic.BaseModel):
    """A mapping in a file that people write: unknown keys are refused."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Limit(Strict):
    """A time in `ms`, with another inside User Mode Linux where that differs; or an `amount` of `unit`."""

    ms: float | None = None
    uml_ms: float | None = None
    amount: float | None = None
    uml_amount: float | None = None
    unit: str = "ms"
    reason: str

    @pydantic.model_validator(mode="after")
    def _one_of_both(self) -> Limit:
        if (self.ms is None) == (self.amount is None):
            raise ValueError("needs `ms`, or `amount` and `unit`")
        return self

    def on(self, kernel: str) -> float:
        """The bound on this kernel (`native` or `uml`), in milliseconds or in `unit`."""
        own, uml = (self.ms, self.uml_ms) if self.amount is None else (self.amount, self.uml_amount)
        bound = uml if kernel == "uml" and uml is not None else own
        assert bound is not None, "validated above"
        return bound


class Limits(Strict):
    version: Literal[1]
    limits: dict[str, Limit]


def load_limits(paths: Sequence[Path] = LIMITS) -> dict[str, Limit]:
    """Every bound by name. Raises ConfigError with all problems."""
    return {name: limit for path in paths for name, limit in validated(Limits, path).limits.items()}


def validated(model: type[_Model], path: Path) -> _Model:
    """Read one YAML file. Raises ConfigError with all problems."""
    try:
        return model.model_validate(yaml.load(path.read_text(), yaml.CSafeLoader))
    except yaml.YAMLError as error:
        raise ConfigError([Problem("", f"is not YAML: {error}", str(path))]) from error
    except pydantic.ValidationError as error:
        raise ConfigError(
            [Problem(".".join(str(part) for part in one["loc"]), one["msg"], str(path)) for one in error.errors()]
        ) from error
