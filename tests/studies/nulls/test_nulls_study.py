"""`mi-ortho nulls`: verdicts from rows, stages recorded whole or not at all, and the command on a small planted run."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import planted_family
from toys import flat_energy, linear, spread

import mi_ortho as mo
from mi_ortho.cli import main
from mi_ortho.elicitation.objectives import match
from mi_ortho.runs.directory import open_run
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.family.finished import open_source
from mi_ortho.studies.nulls.bench import Bench, share
from mi_ortho.studies.nulls.config import NullsConfig
from mi_ortho.studies.nulls.spectrum import spectrum_rows
from mi_ortho.studies.nulls.study import check, nulls
from mi_ortho.studies.nulls.verdicts import headline, verdicts

PROMPT = "How can I build a bomb?"
RADIUS = 20.0  # of the base on the embedded model
Rows = list[dict[str, Any]]


def planted(*, measured: float, exponent: tuple[float, float, float], negated: int, count: int, ratio: float) -> Rows:
    """Rows of a run with the given outcomes; ten vectors of each family."""
    rows: Rows = []
    for k in range(10):
        rows += [
            {"kind": "linear", "expansion": e, "how": how, "index": k, "loss": loss, "norm": 1.0}
            for e, how, loss in (
                ("none", "measured", measured + 0.001 * k),
                ("path", "search", 0.4),
                ("zero", "search", 0.9),
            )
        ]
        rows.append({"kind": "dosed", "match": "kl", "group": "family", "index": k, "exponent": 2.0 + 0.01 * k})
    rows += [{"kind": "capacity", "expansion": e, "good": count, "loss": 0.5, "ridge": 5.0} for e in ("path", "zero")]
    rows += [
        {
            "kind": "gradient",
            "match": "kl",
            "expansion": e,
            "working": count,
            "bound": 4.0,
            "positive": 10,
            "trials": 10,
            "sign_null": 0.5,
        }
        for e in ("zero", "path")
    ]
    p, low, high = exponent
    rows += [
        {"kind": "composition", "match": "kl", "group": "family", "exponent": p, "low": low, "high": high},
        {"kind": "composition", "match": "kl", "group": "mixed", "exponent": 2.0, "low": 1.9, "high": 2.1},
    ]
    rows += [
        {
            "kind": "signs",
            "match": "kl",
            "own": 10,
            "negated": negated,
            "random": 32,
            "subsets": 64,
            "all": 20,
            "all_own": 10,
            "all_negated": negated,
            "all_p": 0.002 if negated == 0 else 0.5,
        }
    ]
    rows += [
        {
            "kind": "count",
            "match": "kl",
            "multiple": m,
            "searched": True,
            "measured": 8,
            "size": 40,
            "late": False,
            "zero": zero,
            "gradient_only": 1,
        }
        for m, zero in ((1, 8), (1.5, 8), (2, 9), (3, 10))
    ]
    return [*rows, {"kind": "ratio", "match": "kl", "value": ratio, "null": 0.8, "p_low": 0.04, "p_high": 1.0}]


def outcome(rows: Rows) -> Mapping[str, bool | None]:
    return {verdict.claim.split(" (")[0]: verdict.supported for verdict in verdicts(rows)}


def test_a_quadratic_looking_family_gets_its_verdicts() -> None:
    rows = planted(measured=0.7, exponent=(2.6, 2.3, 3.0), negated=0, count=40, ratio=0.3)
    outcomes = outcome(rows)
    assert outcomes == {
        "The activation-matched family is the one a linear map would give": False,
        "There are more activation-matched vectors than a linear response can hold": True,
        "More vectors work than one gradient allows": True,
        "The vectors lie on one side of the effect's gradient at 0": None,
        "Vectors compose like separate features, not like a quadratic form": True,
        "The vectors have a sign: their negatives do not work": True,
        "The effect grows faster than strength": True,
        "The effect's second-order spectrum at 0 predicts the count of vectors at each norm": True,
        "The vectors do fewer things than they are": True,
    }
    text = headline(rows, verdicts(rows), "a toy")
    assert "40 vectors reach half" in text and "one gradient allows 4.0" in text and "1/p = 0.38 [0.33, 0.43]" in text
    assert "7 supported, 1 not supported and 1 undecided" in text
    more = [{**row, "match": "activation", "working": 90} for row in rows if row["kind"] == "gradient"]
    text = headline([*rows, *more], [], "a toy")
    assert "the activation-matched family" in text and "90 vectors" in text, "the larger family is told of"


def test_a_linear_looking_family_gets_the_opposite() -> None:
    outcomes = outcome(planted(measured=0.42, exponent=(1.1, 1.0, 1.2), negated=10, count=3, ratio=0.9))
    names = list(outcomes.values())
    assert names == [True, None, None, None, False, False, True, True, False], "3 of 5 is no different from 5 of 5"
    undecided = planted(measured=0.42, exponent=(2.1, 1.8, 2.4), negated=5, count=3, ratio=0.9)
    assert outcome(undecided)["Vectors compose like separate features, not like a quadratic form"] is None
    assert outcome(undecided)["The vectors have a sign: their negatives do not work"] is None


def test_outputs_that_are_few_for_random_vectors_too_prove_nothing() -> None:
    rows = planted(measured=0.4, exponent=(2.0, 1.9, 2.1), negated=5, count=3, ratio=0.3)
    rows[-1] |= {"p_low": 0.4}
    assert outcome(rows)["The vectors do fewer things than they are"] is None


def test_verdicts_need_their_rows() -> None:
    assert verdicts([]) == []
    rows: Rows = [
        {"kind": "composition", "match": "kl", "group": "family", "exponent": None, "low": None, "high": None},
        {"kind": "signs", "match": "kl", "own": 2, "negated": None},
    ]
    assert verdicts(rows) == []


def test_a_family_that_had_not_ended_is_no_count_of_vectors() -> None:
    """Predicted 2,000 of a family of 8 was once read as 8 of 8."""

    def spectrum(late: bool | None, size: int = 8) -> mo.Verdict:
        late_column = {} if late is None else {"late": late}
        common = {"kind": "count", "match": "kl", "searched": True, "measured": 8, "size": size, "gradient_only": 1}
        rows = [{**common, **late_column, "multiple": 1 + 0.1 * k, "zero": 2000 + k} for k in range(6)]
        return next(each for each in verdicts(rows) if "second-order" in each.claim)

    for late in (True, None):
        assert spectrum(late).outcome == "invalid" and "had not ended" in spectrum(late).failed
    assert spectrum(False, 40).outcome == "not supported" and (spectrum(False, 40).value or 0) > 7


def test_a_sign_that_flips_with_a_coin_is_none() -> None:
    """Among vectors chosen because they work half fail negated, whatever the effect: that proves no sign."""
    rows = planted(measured=0.4, exponent=(2.0, 1.9, 2.1), negated=0, count=3, ratio=0.3)
    name = "The vectors have a sign: their negatives do not work"
    assert outcome(rows)[name] is True
    signs = next(row for row in rows if row["kind"] == "signs")
    signs |= {"all_negated": 9, "all_p": 1.0}
    assert outcome(rows)[name] is None
    for key in ("all", "all_own", "all_negated", "all_p"):
        del signs[key]  # rows of a run that was begun before all vectors were tried
    assert outcome(rows)[name] is None


def test_a_share_is_0_without_and_1_under_the_base() -> None:
    z, basis = flat_energy(8, 4)
    effect = share(lambda theta: 5 + z(theta).norm(dim=-1), 3 * basis[0], "energy")
    shares = effect(torch.stack([0 * basis[0], 3 * basis[0], 3 * basis[1], 1.5 * basis[0]]))
    torch.testing.assert_close(shares, torch.tensor([0.0, 1.0, 1.0, 0.25], dtype=shares.dtype))
    z, right = linear(spread(6, 3))
    with pytest.raises(ValueError, match="got a base that changes the output by -"):
        share(lambda theta: -(theta @ right[0]), right[0], "output")


def flat_bench() -> Bench:
    """A map of squared length inside 4 of 8 dimensions; the base has norm 2 inside, and so have the 3 others."""
    z, basis = flat_energy(8, 4)
    base = 2 * basis[0]
    effect = share(lambda theta: z(theta) @ z(base[None])[0], base, "energy")
    bench = object.__new__(Bench)
    for name, value in {
        "config": NullsConfig(threshold=0.5),
        "effects": {"activation": effect},
        "goal": match(z, base),
        "z": z,
        "source": SimpleNamespace(base=base, families={"activation": 2 * basis[1:]}),
        "subject": SimpleNamespace(device=torch.device("cpu")),
        "say": lambda line: None,
    }.items():
        object.__setattr__(bench, name, value)
    return bench


def test_spectra_and_counts_of_a_flat_quadratic_effect() -> None:
    """Effect |inside|^2 / 4: 3 eigenvalues of 1/4 orthogonal to the base; up to norm 2 m, 6 m^2 half-effects fit."""
    rows = spectrum_rows(flat_bench())
    for at in ("zero", "base"):
        values = [row["value"] for row in rows if row["kind"] == "eigenvalue" and row["at"] == at]
        assert values == pytest.approx([0.25] * 3 + [0.0] * 4, abs=1e-9), "the base's own is left out"
        (one,) = [row for row in rows if row["kind"] == "spectrum" and row["at"] == at]
        assert one["constant"] == pytest.approx(0, abs=1e-9) and one["gradient_norm"] == pytest.approx(0, abs=1e-9)
        assert one["dimension"] == pytest.approx(3)
    for row in (row for row in rows if row["kind"] == "count"):
        fits = min(7, int(6 * row["multiple"] ** 2 + 1e-9)) if row["multiple"] > 0.71 else 0
        assert row["zero"] == row["base"] == fits
        assert (row["measured"], row["size"], row["gradient_only"]) == (3 if row["multiple"] > 0.71 else 0, 3, 0)
        assert row["searched"] == (row["multiple"] <= 1.01)
    (budget,) = [row for row in rows if row["kind"] == "budget"]
    assert budget["working"] == 3 and budget["median_norm"] == pytest.approx(0.5**0.5, rel=1e-3)
    assert budget["budget"] == pytest.approx(3, rel=1e-3), "three dimensions, used up"


@pytest.fixture(scope="module")
def family_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_family(tmp_path_factory.mktemp("runs"))


def quietly(config: NullsConfig, out: Path) -> Path:
    return nulls(config, out, fresh=False, at=None, say=lambda line: None, track=lambda *progress: None).path


@pytest.fixture(scope="module")
def done(family_run: Path) -> Path:
    config = NullsConfig(run=str(family_run), nodes=2, samples=2, draws=10)
    return quietly(config, family_run.parent.parent)


def test_every_stage_leaves_rows_verdicts_and_a_report(done: Path) -> None:
    rows = open_run(done).records()
    assert {row["kind"] for row in rows} >= {
        "linear",
        "capacity",
        "gradient",
        "shared",
        "dose",
        "dosed",
        "completion",
        "composition",
        "signs",
        "eigenvalue",
        "spectrum",
        "count",
        "budget",
        "multiplicity",
        "cosines",
        "ratio",
        "survival",
    }
    path = [row for row in rows if row["kind"] == "capacity" and row["expansion"] == "path"][0]
    assert path["mismatch"] < 0.5, "the mean Jacobian reproduces the base's effect up to its two nodes"
    assert 0 < path["ridge"] <= path["closed"] * (1 + 1e-6)
    gradient = [row for row in rows if row["kind"] == "gradient" and row["expansion"] == "path"]
    assert all(abs(row["along_base"] - 1) < 0.5 for row in gradient)
    base = [row for row in rows if row["kind"] == "dose" and row["group"] == "base" and row["scale"] == 1.0]
    assert len(base) == 2 and all(abs(row["mean"] - 1) < 1e-3 for row in base)
    inputs = [row for row in rows if row["kind"] == "multiplicity" and row["what"] == "inputs"]
    assert all(row["value"] < 1e-5 for row in inputs if row["name"] == "mean_cosine")
    summary = json.loads((done / "summary.json").read_text())
    assert "Null models for the kl-matched family" in summary["headline"] and len(summary["verdicts"]) >= 5
    page = (done / "report.html").read_text()
    for title in ("Would a linear map give this family?", "Sums and signs", "How many things is it?"):
        assert title in page


def test_a_killed_run_goes_on_and_ends_the_same(family_run: Path, done: Path, tmp_path: Path) -> None:
    copy = tmp_path / "nulls" / done.name
    copy.mkdir(parents=True)
    lines = (done / "records.jsonl").read_text().splitlines(keepends=True)
    cut = next(k for k, line in enumerate(lines) if json.loads(line).get("stage") == "multiplicity") + 3
    (copy / "records.jsonl").write_text("".join(lines[:cut]) + '{"kind": "torn')
    for name in ("config.json", "environment.json", "jacobians.safetensors"):
        (copy / name).write_bytes((done / name).read_bytes())
    again = quietly(NullsConfig(run=str(family_run), nodes=2, samples=2, draws=10), tmp_path)
    assert again == copy
    assert (copy / "records.jsonl").read_bytes() == (done / "records.jsonl").read_bytes()


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["nulls", *arguments]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("mi-ortho: ")
    return line


def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], family_run: Path, done: Path, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path)]
    assert "run `mi-ortho family` first" in error(capsys, *out)
    assert "--model gpt2` first" in error(capsys, *out, "--model", "gpt2")
    assert "expected a run of `family`" in error(capsys, str(done), *out)
    assert "which is no folder" in error(capsys, str(tmp_path / "nowhere"), *out)
    assert "got threshold 1.5" in error(capsys, str(family_run), *out, "--threshold", "1.5")
    assert "got draws=3; expected at least 10" in error(capsys, str(family_run), *out, "--draws", "3")
    changed = tmp_path / "family" / family_run.name
    changed.mkdir(parents=True)
    for file in family_run.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    (changed / "environment.json").write_text('{"command": "family", "model_hash": "0123456789abcdef"}')
    assert mo.studies.family.newest_family(tmp_path) == changed
    assert "made with other weights" in error(capsys, *out)
    (changed / "summary.json").unlink()
    assert "an unfinished run" in error(capsys, str(changed), *out)
    assert "got no finished family run" in error(capsys, *out)


def test_settings_of_other_versions_are_read(family_run: Path, tmp_path: Path) -> None:
    config = json.loads((family_run / "config.json").read_text()) | {"forgotten": 3}
    config.pop("restarts")
    for file in family_run.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = open_source(tmp_path)
    assert source.config == replace(open_source(family_run).config, restarts=FamilyConfig().restarts)
    assert source.train == (PROMPT,) and set(source.families) == {"activation", "kl"}


def test_parts_that_do_not_exist_are_named() -> None:
    with pytest.raises(ValueError, match=r"got parts \['depth'\]; expected some of linear, .*correct --parts"):
        check(NullsConfig(parts=("depth",)))
    with pytest.raises(ValueError, match=r"got parts \[\]"):
        check(NullsConfig(parts=()))
