"""What all tests share: no network, few threads, and markers that skip where their tool is missing."""

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import perturbed
import pytest
import torch

torch.set_num_threads(1)  # the matrices of the tests are too small to share

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# files that take longest although they have few tests: begun first, so that no process works on one alone at the end
LONGEST = ("test_family_study", "test_workers", "test_kills", "test_experiment_models", "test_devices", "test_demo")


def _missing(marker: str) -> str | None:
    """Why tests of this marker cannot run here; None when they can."""
    if marker == "browser" and (CHROMIUM is None or find_spec("playwright") is None):
        return "needs Chromium and playwright"
    if marker == "tl3":
        try:
            return None if version("transformer-lens").startswith("3.") else "needs TransformerLens 3: make test-tl3"
        except PackageNotFoundError:
            return "needs TransformerLens 3: make test-tl3"
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--perturb",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="move every random number and every weight by up to this share of itself, as another processor would",
    )


def pytest_configure(config: pytest.Config) -> None:
    if share := config.getoption("--perturb"):
        perturbed.install(share)
    config.option.loadscopereorder = False  # pytest-xdist would begin with the files that have most tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)  # stable
    reasons = {marker: _missing(marker) for marker in ("browser", "tl3")}
    for item in items:
        for marker, reason in reasons.items():
            if reason is not None and item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
