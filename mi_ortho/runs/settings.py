"""What the settings of a command are recorded as, and what makes two runs the same run."""

import math
from collections.abc import Mapping
from dataclasses import asdict, field, fields
from typing import Any


def later(default: Any) -> Any:
    """The field of a setting that older runs lack: at its default it is not recorded, so runs keep their identity."""
    return field(default=default, metadata={"later": True})


def settings_of(config: Any) -> dict[str, Any]:
    """A configuration as a run records it: all settings, `later` ones only where they differ from their default."""
    left_out = {f.name for f in fields(config) if f.metadata.get("later") and getattr(config, f.name) == f.default}
    return {name: value for name, value in asdict(config).items() if name not in left_out}


def check_settings(config: Any, least: Mapping[str, float] | None = None) -> None:
    """Raise ValueError for a number that is not finite, a seed out of range, or a value below its least."""
    for name, value in dict[str, Any](asdict(config)).items():
        numbers = list(value) if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, float) and not math.isfinite(one) for one in numbers):
            raise ValueError(f"got {name}={value}; expected a finite number; correct --{_flag(name)}")
        if name in ("seed", "seeds") and not all(0 <= seed < 2**31 for seed in numbers):
            raise ValueError(f"got {name}={value}; expected 0 to {2**31 - 1}; correct --{_flag(name)}")
        floor = (least or {}).get(name)
        if floor is not None and value is not None and min(numbers) < floor:
            raise ValueError(f"got {name}={value}; expected at least {floor:g}; raise --{_flag(name)}")


def _flag(name: str) -> str:
    return name.replace("_", "-")
