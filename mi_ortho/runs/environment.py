"""What a result depends on besides its configuration."""

import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("mi-ortho", "torch", "transformer-lens", "transformers", "numpy", "safetensors")
COMPARED = ("mi-ortho", "torch", "transformer-lens", "transformers")  # that results depend on


def environment(facts: Mapping[str, object] | None = None) -> dict[str, object]:
    """Versions, commit, command line, machine and threads, with `facts` (model hash, device, dtype, seed) added."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "commit": _commit(),
        "argv": list(sys.argv),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        **(facts or {}),
    }


def versions() -> dict[str, str]:
    """Python's and the libraries' versions that results depend on."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{package: _version(package) or "" for package in COMPARED}}


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """The differences of two environments that results depend on, in words; what either lacks is not compared."""
    old, new = _versions(before), _versions(now)
    parts = [f"{name} {old[name]}, here {new[name]}" for name in old if new.get(name, old[name]) != old[name]]
    digests = before.get("prompt_digest"), now.get("prompt_digest")
    if all(digests) and digests[0] != digests[1]:
        first, second = (repr(str(record.get("prompt_shown"))[:160]) for record in (before, now))
        parts.append(
            f"prompts of other tokens, {first}, here {second} (tokenizer or template changed, or writes the date)"
        )
    return parts


def _versions(environment: Mapping[str, object]) -> dict[str, str]:
    """The versions that a record of an environment holds."""
    packages = environment.get("packages")
    texts = {name: packages.get(name) for name in COMPARED} if isinstance(packages, Mapping) else {}
    python = environment.get("python")
    texts["python"] = ".".join(python.split(".")[:2]) if isinstance(python, str) else None
    return {name: str(version) for name, version in texts.items() if version}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout this package lies in ("+" when it was changed since); None outside a checkout."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _git(checkout: Path, *words: str) -> str:
    command = ["git", "-C", str(checkout), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
