"""What was predicted, fixed in a file that was committed before any run of it: experiments/predictions/NAME.toml.

A file holds one table for each number that a claim is judged by. Whoever changes it after a run makes what was measured
before older than its prediction: the pages say which commit a result belongs to, and a test compares them.
"""

import hashlib
import math
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from mi_ortho.stats import REAL_SCALE, UNITS, Scale, Side

FOLDER = Path(__file__).resolve().parents[1] / "predictions"
GATES: Mapping[str, tuple[str, Literal["at least", "at most"]]] = {  # what a file may ask for, in words
    "specific": ("effect of random vectors over that of the base", "at most"),
    "coherent": ("share of the answers that can be read", "at least"),
    "reliable": ("reliability of the ruler", "at least"),
    "reachable": ("what is reached of the target by its own vector", "at least"),
    "displacement": ("factor between the displacements of vectors and controls", "at most"),
    "works": ("share of the units on which the base shows its behaviour", "at least"),
    "shown": ("share of the prompts on which the model does by itself what is taken away", "at least"),
    "room": ("share of the prompts that are left for a further change to turn", "at least"),
    "straight": ("R² of the straight line in the logarithm", "at least"),
    "predicts": ("share of the variance that the better learned map predicts", "at least"),
    "sensitive": ("what the ruler shows where it is known to be there", "at least"),
    "learnt": ("share of the held-out requests for a behaviour that are answered with it", "at least"),
    "counted": ("share of the counts that are above one and below what there is room for", "at least"),
    "turned": ("share of the answers that are turned at all", "at least"),
    "strong": ("displacement of the target over that by random vectors of the norm", "at least"),
    "quiet": ("what the ruler shows where nothing is there", "at most"),
    "solved": ("distance of the search on the linear map from its exact optimum", "at most"),
    "open": ("1 where neither the width nor a clamped spectrum cuts off the predicted count", "at least"),
    "ceiling": ("share of the values at the ceiling", "at most"),
    "floor": ("share of the values at the floor", "at most"),
}
KINDS = ("mean", "count")
KEYS = ("question", "predicts", "statistic", "control", "separates", "unit", "side", "threshold")


@dataclass(frozen=True)
class Prediction:
    """One number that a claim is judged by.

    Attributes:
        key: of its table.
        question: what is asked.
        predicts: what was expected, in words.
        statistic: what is measured at each unit, in words.
        control: what the same is measured on where the claim should not hold, in words.
        separates: which theories the number tells apart.
        unit: the highest thing that varies and is counted as independent, a name of `UNITS`.
        side: where the value has to lie; "within" asks for a difference from the control that is too small to matter.
        threshold: of the value; with "within" the margin of the difference; of counts, of their ratio to the control's.
        beyond: the smallest difference from the control that counts.
        kind: "mean" of values, or "count" of what a search may have cut off.
        scale: the smallest and largest possible value.
        minimum: units below which nothing is read.
        gates: checks of instruments by their names in `GATES`, with their limits.
        confirmatory: whether it belongs to the few that the summary stands on, which are corrected together (Holm).
    """

    key: str
    question: str
    predicts: str
    statistic: str
    control: str
    separates: str
    unit: str
    side: Side
    threshold: float
    beyond: float = 0.0
    kind: Literal["mean", "count"] = "mean"
    scale: Scale = REAL_SCALE
    minimum: int = 3
    gates: Mapping[str, float] = field(default_factory=dict)
    confirmatory: bool = False


@dataclass(frozen=True)
class Predictions:
    """A file of predictions.

    Attributes:
        name: of the claim.
        each: its tables, by key.
        digest: of its content.
        seed: of what is drawn when it is judged.
        changed: what was not fixed beforehand, in words; empty where all was.
    """

    name: str
    each: Mapping[str, Prediction]
    digest: str
    seed: int = 0
    changed: str = ""

    @property
    def path(self) -> Path:
        """The file."""
        return FOLDER / f"{self.name}.toml"

    def provenance(self) -> dict[str, str]:
        """Digest, commit and its time, for a run's facts; no commit where the file is not as it was committed."""
        commit, when = committed(self.path)
        return {"prediction_digest": self.digest, "prediction_commit": commit, "prediction_time": when}


def read_predictions(name: str, folder: Path = FOLDER) -> Predictions:
    """The predictions of a claim.

    Raises:
        ValueError: there is no such file, or a table lacks something or has what no prediction has.
    """
    path = folder / f"{name}.toml"
    if not path.is_file():
        raise ValueError(f"got no {path}; expected the predictions of {name}; write and commit them before its run")
    content = path.read_bytes()
    try:
        file = tomllib.loads(content.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"got {path}, which is no TOML ({error}); expected a table for each prediction") from error
    tables = {key: value for key, value in file.items() if isinstance(value, dict)}
    rest = {key: value for key, value in file.items() if key not in tables}
    if set(rest) - {"seed", "changed"} or not tables:
        raise ValueError(f"got {path} with {', '.join(rest) or 'nothing'}; expected seed, changed, and tables")
    each = {key: _prediction(path, key, table) for key, table in tables.items()}
    return Predictions(name, each, digest_of(content), int(rest.get("seed", 0)), str(rest.get("changed", "")))


def digest_of(content: bytes) -> str:
    """What a result names its predictions by."""
    return hashlib.sha256(content).hexdigest()[:12]


def committed(path: Path) -> tuple[str, str]:
    """The commit that a file is of, and its time; two empty texts where it is not, or is not as it was committed."""
    try:
        if _git(path, "status", "--porcelain", "--", path.name):
            return "", ""
        commit, _, when = _git(path, "log", "-1", "--format=%H %cI", "--", path.name).partition(" ")
    except (OSError, subprocess.CalledProcessError):
        return "", ""
    return commit[:12], when


def _git(path: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=path.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _prediction(path: Path, key: str, table: Mapping[str, Any]) -> Prediction:
    known = {one.name for one in fields(Prediction)} - {"key"}
    lacks, strange = [name for name in KEYS if name not in table], sorted(set(table) - known)
    if lacks or strange:
        what = f"without {', '.join(lacks)}" if lacks else f"with {', '.join(strange)}"
        raise ValueError(f"got [{key}] of {path} {what}; expected {', '.join(KEYS)}, and some of {', '.join(known)}")
    low, high = table.get("scale", REAL_SCALE)
    made = Prediction(key, **{**table, "scale": (float(low), float(high))})
    unknown = sorted(set(made.gates) - set(GATES))
    if (
        made.side not in ("at least", "at most", "within")
        or made.kind not in KINDS
        or made.unit not in UNITS
        or unknown
    ):
        raise ValueError(
            f"got [{key}] of {path} with side {made.side!r}, kind {made.kind!r}, unit {made.unit!r} and gates "
            f"{', '.join(made.gates) or 'none'}; expected at least, at most or within; {' or '.join(KINDS)}; one of "
            f"{', '.join(UNITS)}; and gates among {', '.join(GATES)}; correct it"
        )
    if made.beyond < 0 or not math.isfinite(made.threshold) or (made.kind == "count" and not made.threshold > 0):
        raise ValueError(f"got [{key}] of {path} with threshold {made.threshold} and beyond {made.beyond}; correct it")
    return made
