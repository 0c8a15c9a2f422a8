"""The benchmarks measure the same thing on both sides, and say so where they cannot measure."""

import sys
from pathlib import Path

import pytest
import torch
from toys import mlp, randn, rng, rotation

from benchmarks import planted, published
from benchmarks.accelerator import QWEN_7B, Shape, accelerator, factors
from benchmarks.derivatives import DERIVATIVES
from benchmarks.models import prompt, random_qwen2, slice_flop
from benchmarks.options import Options
from benchmarks.table import Table
from mi_ortho import jacobian, max_abs_cosine, resid_post, slice_model
from mi_ortho.dct import exponential_dct
from mi_ortho.interventions import orthonormal_rows


@pytest.fixture(scope="module")
def model():
    return random_qwen2(32, 4, d_mlp=48, heads=2)


def options(rows: Path | None = None) -> Options:
    return Options(device="cpu", family=3, factors=4, iterations=2, repeats=1, rows=rows)


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_published_columns_are_the_jacobian(chunk: int) -> None:
    z, at = mlp(12), randn(12)
    torch.testing.assert_close(published.columns(z, at, chunk), jacobian(z, at))


def test_published_columns_of_a_slice(model) -> None:
    z = slice_model(model, prompt(n=2), source=resid_post(0), target=resid_post(2))
    zero = torch.zeros(32)
    torch.testing.assert_close(published.columns(z, zero), jacobian(z, zero), rtol=1e-4, atol=1e-5)


def test_one_published_iteration_moves_like_ours() -> None:
    """From the same start, the published directions are ours before the last retraction."""
    z, start = mlp(14), rotation(14, 8)[:4]
    inputs, weights = published.exponential_factors(z, start, 1.5, 3, chunk=3)
    ours = exponential_dct(z, 4, radius=1.5, generator=rng(), steps=3, start=start, dtype=start.dtype)
    torch.testing.assert_close(inputs.norm(dim=-1), torch.ones(4, dtype=inputs.dtype))
    assert max_abs_cosine(inputs) > 1e-3 and max_abs_cosine(ours.inputs) < 1e-12
    torch.testing.assert_close(orthonormal_rows(inputs).abs(), ours.inputs.abs(), rtol=1e-6, atol=1e-8)
    effect = z(1.5 * inputs) - z(torch.zeros(1, 14, dtype=inputs.dtype))
    assert torch.isfinite(weights).all() and float(effect.norm(dim=-1).mean()) > 0.9 * ours.trace[0]


def test_the_floor_counts_the_weights_of_a_block(model) -> None:
    block = 4 * 32 * 32 + 3 * 32 * 48
    assert slice_flop(model, 2) == 4 * block * 2 * prompt().tokens.shape[1]


def test_tables_of_derivatives_compare_equal_things(monkeypatch: pytest.MonkeyPatch, model) -> None:
    module = sys.modules["benchmarks.derivatives"]
    monkeypatch.setattr(module, "random_qwen2", lambda *a, **k: model)
    monkeypatch.setattr(module, "SOURCE", 0)
    monkeypatch.setattr(module, "TARGET", 2)
    made = {name: table(options()) for name, table in DERIVATIVES.items()}
    for name, table in made.items():
        assert table.command.startswith(f"python -m benchmarks {name} --")
        assert {len(row) for row in table.rows} == {len(table.headers)} and "published" in table.rows[0][0]
        assert table.rows[0][2] == "1.00x"
    assert all(float(row[-1]) < 1e-4 for row in made["jacobian"].rows), "all ways give one matrix"
    effects = [float(row[4]) for row in made["dct"].rows]
    assert max(effects) - min(effects) < 0.02 * effects[0], "all ways find equally good directions"
    assert float(made["dct"].rows[0][-1]) > 1e-4 > max(float(row[-1]) for row in made["dct"].rows[1:])


def test_the_accelerator_tables_say_that_there_is_no_gpu() -> None:
    tables = accelerator(options())
    assert [table.rows[0][0] for table in tables] == ["not run: no GPU"] * 2
    assert "512 exponential factors, 10 iterations, 10 blocks, shape of Qwen1.5-7B" in tables[1].title
    assert (QWEN_7B.d_model, QWEN_7B.d_mlp, QWEN_7B.heads) == (4096, 11008, 32)
    assert all(isinstance(table, Table) and "--device cuda" in table.markdown() for table in tables)


def test_the_accelerator_row_of_factors_runs_at_a_tiny_shape() -> None:
    table = factors(options(), Shape(32, 48, 2), n=6, blocks=2)
    assert [row[0] for row in table.rows] == ["64 at once", "128 at once"]
    for _, wall, each, trace, cosine, memory in table.rows:
        first, last = map(float, trace.split(" to "))
        assert min(float(wall), float(each)) >= 0 and min(first, last) > 0 and memory == "-"
        assert float(cosine) < 1e-5


def test_the_planted_table_keeps_its_rows_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"D_MODEL": 64, "PLANTED": 3, "ESTIMATED": 6}.items():
        monkeypatch.setattr(planted, name, value)
    kept_in = tmp_path / "rows.jsonl"
    chosen = options(rows=kept_in)
    table = planted.planted(chosen)
    assert [row[0] for row in table.rows] == list(planted.PUBLISHED) and "recovered" in table.headers
    assert float(table.rows[2][1]) > 0.9, "a random start and many steps find the planted directions"
    assert capsys.readouterr().err.count("planted: ") == 6
    kept = kept_in.read_text().splitlines()
    kept_in.write_text(kept[0].replace(table.rows[0][1], "9.99") + "\n")
    again = planted.planted(chosen)
    assert again.rows[0][1] == "9.99" and again.rows[2][:-1] == table.rows[2][:-1]
    assert len(kept_in.read_text().splitlines()) == 3


def test_recovery_by_hand() -> None:
    truth = torch.eye(3)[:2]
    assert planted.recovery(truth, torch.tensor([[2.0, 0, 0], [0, 3.0, 4.0]])) == pytest.approx((0.8, 0.5))
