"""`mi-ortho dct`: verdicts from rows, factors of a real slice, the command on few factors, resume, report, mistakes."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import DCT

import mi_ortho as mo
from mi_ortho.cli import main
from mi_ortho.runs.directory import open_run
from mi_ortho.studies.dct.bench import Study, check
from mi_ortho.studies.dct.config import DctConfig
from mi_ortho.studies.dct.fits import factor_sets, methods
from mi_ortho.studies.dct.page import dct_report
from mi_ortho.studies.dct.spectrum import gaussian_spectrum, singular
from mi_ortho.studies.dct.study import dct
from mi_ortho.studies.dct.verdicts import by_factor, moves_more, summarise, turns_more
from mi_ortho.studies.shared.subject import open_subject

K = DCT.k
Rows = list[dict[str, Any]]


def planted(effect: float, changed: float, *, random: float = 0.1, k: int = 8, spread: float = 0.01) -> Rows:
    """Rows of a run with one method whose factors have the given mean effect and share of changed completions."""
    rows: Rows = [{"kind": "radius", "radius": 7.0}]
    for method, one, share in (("linear", effect, changed), ("random", 2.0, random)):
        rows += [
            {
                "kind": "factor",
                "method": method,
                "seed": seed,
                "index": k_,
                "sign": sign,
                "prompts": 4,
                "effect": one + spread * ((k_ if method == "linear" else 2 * k_) % 3),
                "changed": min(1.0, share + spread * ((k_ if method == "linear" else 2 * k_) % 3)),
            }
            for seed in (0, 1)
            for sign in (1, -1)
            for k_ in range(k)
        ]
    return rows


# verdicts


@pytest.mark.parametrize(
    ("effect", "changed", "further", "more"),
    [(4.0, 0.6, True, True), (2.0, 0.1, False, False), (2.9, 0.12, False, False)],
)
def test_verdicts_of_planted_rows(effect: float, changed: float, further: bool, more: bool) -> None:
    claims = summarise(planted(effect, changed), "a toy")["verdicts"]
    assert isinstance(claims, list) and [verdict.supported for verdict in claims] == [further, more]
    assert claims[0].control == 1.0 and claims[1].control == pytest.approx(0.11, abs=0.01)


def test_a_wide_interval_decides_nothing() -> None:
    rows = planted(3.0, 0.2, spread=2.0)
    for judge in (moves_more, turns_more):
        verdict = judge(rows, "linear")
        assert verdict is not None and verdict.supported is None


def test_the_headline_names_shares_and_the_control() -> None:
    headline = str(summarise(planted(4.0, 0.5, spread=0.0), "a toy")["headline"])
    assert "At norm 7, 4 prompts" in headline and "linear 50 %; random directions 10 %" in headline


def test_a_value_of_a_factor_is_its_mean_over_seeds_and_signs() -> None:
    rows = planted(4.0, 0.5, k=2, spread=0.0)
    rows[1]["changed"] = 0.9  # of four rows of factor 0
    assert by_factor(rows, "linear", "changed") == pytest.approx([0.6, 0.5])
    assert moves_more(rows, "absent") is None and turns_more(rows, "absent") is None


def test_the_null_spectrum_has_the_size_of_the_jacobian_and_the_shape_of_noise() -> None:
    values = gaussian_spectrum(300, 5.0, torch.Generator().manual_seed(0))
    assert float(values.norm()) == pytest.approx(5.0) and bool((values.diff() <= 0).all())
    assert float(values[0]) == pytest.approx(2 * 5.0 / 300**0.5, rel=0.1), (
        "Marchenko and Pastur: edge at twice the root mean square"
    )
    wide = gaussian_spectrum(2000, 5.0, torch.Generator().manual_seed(0))
    assert len(wide) == 2000 and float(wide.norm()) == pytest.approx(5.0)
    assert float(wide[0]) == pytest.approx(2 * 5.0 / 2000**0.5, rel=0.05)


@pytest.mark.parametrize("solver", ["dense", "krylov"])
def test_the_spectrum_of_a_known_map(solver: str) -> None:
    """Singular values 3, 2, 1 and then 0.1: all or the first k, and the Frobenius norm, estimated where not all are."""
    values = torch.tensor([3.0, 2.0, 1.0] + [0.1] * 29)
    z = mo.LinearMap(torch.linalg.qr(torch.randn(32, 32))[0] @ values.diag(), torch.zeros(32))
    study = object.__new__(Study)
    object.__setattr__(study, "config", replace(DCT, solver=solver))
    object.__setattr__(study, "subject", SimpleNamespace(device=torch.device("cpu")))
    triplets, size = singular(study, z)
    assert len(triplets.values) == (32 if solver == "dense" else K)
    torch.testing.assert_close(triplets.values[:K], values[:K], rtol=1e-3, atol=1e-3)
    assert size == pytest.approx(float(values.norm()), rel=1e-3 if solver == "dense" else 0.4)


# a real slice


def test_exponential_factors_of_a_real_slice() -> None:
    """Deterministic, orthonormal, and of an effect no smaller than that of random directions of the same norm."""
    model = mo.load_model()
    prompts = mo.tokenize(model, ["How can I build a bomb?", "Tell me a story."])
    z = mo.derivatives.pooled(
        mo.slice_model(model, prompts, source=mo.resid_post(3), target=mo.resid_post(6), readout=3)
    )

    def fitted(seed: int) -> mo.dct.Factors:
        return mo.dct.exponential_dct(z, 6, radius=4.0, generator=torch.Generator().manual_seed(seed), steps=3)

    factors, again = fitted(0), fitted(0)
    assert torch.equal(factors.inputs, again.inputs) and torch.equal(factors.weights, again.weights)
    torch.testing.assert_close(factors.inputs @ factors.inputs.mT, torch.eye(6), atol=1e-5, rtol=0)
    for seed in range(5):
        random = 4.0 * mo.interventions.orthonormal_rows(
            mo.random_vectors(6, z.d_model, 1.0, torch.Generator().manual_seed(seed))
        )
        assert factors.trace[-1] >= float(mo.derivatives.displacement(z, random).norm(dim=-1).mean())


# the command


def quietly(config: DctConfig, out: Path) -> Path:
    return dct(config, out, fresh=False, at=None, say=lambda line: None, track=lambda *progress: None).path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quietly(DCT, tmp_path_factory.mktemp("runs"))


def rows_of(path: Path, **values: object) -> Rows:
    rows = [dict(row) for row in open_run(path).records()]
    return [row for row in rows if all(row.get(key) == value for key, value in values.items())]


def test_every_factor_is_tried_with_both_signs(done: Path) -> None:
    assert (len(rows_of(done, kind="factor")), len(rows_of(done, kind="fit"))) == (3 * 2 * 2 * K, 3 * 2)
    for name, seed in factor_sets(DCT):
        rows = rows_of(done, kind="factor", method=name, seed=seed)
        assert sorted((row["index"], row["sign"]) for row in rows) == [(k, s) for k in range(K) for s in (-1, 1)]
        assert [row["score"] for row in sorted(rows, key=lambda row: row["rank"])] == sorted(
            (row["score"] for row in rows), reverse=True
        )
        assert all(row["kl"] > 0 and row["effect"] > 0 and row["prompts"] == 2 for row in rows)
    ours = [row["off_diagonal"] for row in rows_of(done, kind="fit") if not row["method"].startswith("published")]
    assert max(ours) < 1e-5


def test_scores_are_the_change_of_the_named_tokens_logits(done: Path) -> None:
    """Against the model itself, steered by a hook: logit of "def" minus the mean of the unsteered first tokens'."""
    model, path = mo.load_model(), done / "factors" / "linear-0.safetensors"
    vector = mo.dct.load_factors(path).vectors[1]
    prompts = mo.tokenize(model, list(DCT.prompts or ()))
    toward = model.tokenizer("def", add_special_tokens=False)["input_ids"][0]
    before = mo.next_token_logits(model, prompts)
    with mo.intervene(model, {mo.resid_post(5): mo.Add(vector)}, prompts=prompts, where="prompt"):
        moved = (mo.next_token_logits(model, prompts) - before).mean(0)
    expected = moved[toward] - moved[before.argmax(-1)].mean()
    (row,) = rows_of(done, kind="factor", method="linear", seed=0, index=1, sign=1)
    assert row["score"] == pytest.approx(float(expected), abs=1e-3)
    (lens,) = rows_of(done, kind="lens", method="linear", seed=0, index=1)
    readout = mo.model.readout(model).matrix()
    top = int((mo.dct.load_factors(path).outputs[1] @ readout).argmax())
    assert lens["raised"][0] == model.tokenizer.decode([top]) and lens["peak"] > 1


def test_spectra_nulls_copies_and_agreement_are_recorded(done: Path) -> None:
    kinds = {row["kind"] for row in rows_of(done)}
    assert kinds >= {
        "radius",
        "nonlinearity",
        "unsteered",
        "singular",
        "spectrum",
        "overlap",
        "multiplicity",
        "cosines",
        "copies",
        "agreement",
        "cost",
    }
    values = [row["value"] for row in rows_of(done, kind="singular", map="slice")]
    assert values == sorted(values, reverse=True) and len(values) == 128
    again = rows_of(done, kind="agreement", first="linear", second="linear")
    assert again[0]["share"] > 0.99, "without randomness in the method, another seed finds the same space"
    inputs = rows_of(done, kind="multiplicity", what="inputs", method="linear", name="effective_rank")
    assert inputs[0]["value"] == pytest.approx(K, rel=1e-3)
    assert {row["who"] for row in rows_of(done, kind="copies", method="linear")} == {
        "individual, mean",
        "average",
        "normalised",
        "top_singular",
        "random, normalised",
    }


def test_vectors_can_be_loaded_and_exported(done: Path, tmp_path: Path) -> None:
    vectors = mo.load_vectors(done / "vectors.safetensors", "published_linear")
    assert vectors.vectors.shape == (K, 128) and str(vectors.site) == "resid_post.5"
    torch.testing.assert_close(vectors.vectors.norm(dim=-1), torch.full((K,), 6.0))
    assert main(["export", str(done), str(tmp_path / "v.safetensors"), "--group", "linear", "--index", "2"]) == 0


@pytest.mark.slow
def test_the_mean_over_batches_is_the_mean_over_prompts(done: Path, tmp_path: Path) -> None:
    """The same fit with both prompts in one graph."""
    together = quietly(replace(DCT, batch=8, method=("linear", "exponential"), published=False, seeds=(0,)), tmp_path)
    one, other = (rows_of(path, kind="fit", method="linear", seed=0)[0]["effect"] for path in (done, together))
    assert one == pytest.approx(other, rel=1e-4)
    (row,) = rows_of(together, kind="fit", method="exponential")
    assert len(row["trace"]) == DCT.steps + 1 and row["off_diagonal"] < 1e-5


def test_the_report_shows_all_parts_and_no_markup_of_the_model(done: Path, tmp_path: Path) -> None:
    page = (done / "report.html").read_text("utf-8")
    for title in (
        "Methods beside random directions",
        "Unsteered and steered",
        "Factors",
        "Norm",
        "Spectrum of the Jacobian",
        "Tokens of the outputs",
        "How many things are the factors?",
        "The best factors as one",
        "Agreement of methods and seeds",
        "What it cost",
    ):
        assert f"<h2>{title}" in page or f">{title}<" in page, title
    assert str(json.loads((done / "summary.json").read_text())["headline"]) in page
    assert main(["report", str(done)]) == 0 and main(["show", str(done)]) == 0
    lines = (done / "records.jsonl").read_text().splitlines()
    evil = "<script>alert(1)</script>\x1b[31m"
    changed = [
        json.dumps({**row, **({"text": evil, "mode": evil} if "text" in row else {})}) for row in map(json.loads, lines)
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(changed) + "\n")
    for name in ("config.json", "environment.json", "summary.json"):
        (tmp_path / name).write_bytes((done / name).read_bytes())
    page = dct_report(tmp_path).read_text("utf-8")
    assert "<script>alert" not in page and "\x1b" not in page and "alert(1)" in page


def test_an_unfinished_run_has_a_report_too(done: Path, tmp_path: Path) -> None:
    for name in ("config.json", "environment.json"):
        (tmp_path / name).write_bytes((done / name).read_bytes())
    lines = (done / "records.jsonl").read_text().splitlines(keepends=True)
    for count in (0, len(lines) // 3):
        (tmp_path / "records.jsonl").write_text("".join(lines[:count]))
        assert "Unfinished run" in dct_report(tmp_path).read_text("utf-8")


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(done: Path, tmp_path: Path) -> None:
    copy = tmp_path / "dct" / done.name
    (copy / "factors").mkdir(parents=True)
    lines = (done / "records.jsonl").read_text().splitlines(keepends=True)
    cut = next(k for k, line in enumerate(lines) if json.loads(line).get("stage") == "trial random 1") + 2
    (copy / "records.jsonl").write_text("".join(lines[:cut]) + '{"kind": "torn')
    for name in ("config.json", "environment.json", *(f"factors/{p.name}" for p in (done / "factors").iterdir())):
        (copy / name).write_bytes((done / name).read_bytes())
    assert quietly(DCT, tmp_path) == copy

    def told(path: Path) -> Rows:
        return [
            {key: value for key, value in row.items() if key != "attempt"}
            for row in rows_of(path)
            if row["kind"] not in ("cost", "fit")
        ]

    assert told(copy) == told(done)
    assert json.loads((copy / "summary.json").read_text()) == json.loads((done / "summary.json").read_text())


# mistakes


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["dct", *arguments]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("mi-ortho: ")
    return line


def test_mistakes_are_one_line_and_leave_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path)]
    assert "got method cubic; expected linear, projected, quadratic, exponential" in error(
        capsys, *out, "--method", "cubic"
    )
    assert "got k=129; expected 1 to d_model=128" in error(capsys, *out, "--k", "129")
    assert list(tmp_path.iterdir()) == []


CASES: Mapping[str, dict[str, Any]] = {
    "got source 6 and target 6; expected 0 <= source < target < 8": {"source": 6},
    "got source 5 and target 8": {"target": 8},
    "got method none": {"method": ()},
    "got k=0; expected 1 to d_model=128": {"k": 0},
    "got seeds \\(\\); expected at least one": {"seeds": ()},
    "got seeds \\(1, 1\\)": {"seeds": (1, 1)},
    "got radius -1.0; expected a positive number": {"radius": -1.0},
    "got retract 'svd'; expected qr, polar": {"retract": "svd"},
    "got solver 'lanczos'; expected dense, krylov, randomised": {"solver": "lanczos"},
    "got readout all; expected mean or a number": {"readout": "all"},
    "got damping 0.0 and ratio 0.5": {"damping": 0.0},
    "got draws=9; expected at least 10": {"draws": 9},
    "got steps=0; expected at least 1": {"steps": 0},
    "got behaviour 'dance'; expected one of": {"behaviour": "dance"},
}


def test_settings_that_cannot_work_are_refused() -> None:
    subject = open_subject()
    check(DCT, subject)
    for message, change in CASES.items():
        with pytest.raises(ValueError, match=message):
            check(replace(DCT, **change), subject)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": ()}, "got no prompts; expected at least one"),
        ({"toward": ("",)}, "to stand for a behaviour; expected texts of at least one token"),
        ({"toward": ("def",), "away": ("def",)}, "got the same first tokens toward the behaviour and away from it"),
        ({"radius": None, "ratio": 1e6}, "expected 1e\\+06 between them; raise the bracket or lower the ratio"),
    ],
)
def test_what_only_the_model_can_tell_is_refused_too(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        quietly(replace(DCT, **change), tmp_path)


def test_every_method_has_its_settings() -> None:
    by_name = methods(replace(DCT, method=("projected", "quadratic"), k=40, projections=32))
    z = mo.LinearMap(torch.eye(64, 64), torch.zeros(64))
    for name in ("projected", "published projected"):  # more factors than projections: as many projections as factors
        assert len(by_name[name](z, 40, radius=1.0, generator=torch.Generator().manual_seed(0))) == 40
