"""Experiments on steering by angle and on what refusal directions are: right where the answer is planted, silent on the
null."""

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import randn, rng, unit

from experiments.lab.claims import CHANGED, load
from experiments.lab.performing import perform
from experiments.lab.turning import added, added_in_plane, cosine_after, turned, with_length_of
from mi_ortho import open_subject
from mi_ortho.cli import main

ANGLE = "steering_acts_by_angle_not_length"
CIRCLE = "addition_reaches_half_of_the_circle"
NEWLINE = "a_newline_replaces_the_template"
REPEATED = "repeated_extraction_finds_more_directions"
MEANING = "refusal_is_not_harmfulness"
WEAK = "weak_directions_refuse_then_answer"
ALL = (ANGLE, CIRCLE, NEWLINE, REPEATED, MEANING, WEAK)
Rows = list[Mapping[str, Any]]


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


def outcomes(name: str, rows: Sequence[Mapping[str, Any]]) -> list[bool | None]:
    return [verdict.supported for verdict in module(name).judge(rows)]


def plane_of(width: int, seed: int) -> Tensor:
    return torch.linalg.qr(randn(width, 2, seed=seed))[0].mT


def states_of(count: int, width: int, plane: Tensor, seed: int) -> Tensor:
    """States with a good part in the plane, on either side."""
    inside = 2.0 * unit(randn(count, 2, seed=seed)) + torch.tensor([0.0, 0.5]).double()
    return (inside @ plane + 0.5 * randn(count, width, seed=seed + 1))[:, None]


# --- turning


def test_turned_keeps_length_and_rest_and_sets_the_angle_on_the_states_own_side() -> None:
    plane = plane_of(9, 0)
    x = states_of(6, 9, plane, 1)
    for degrees in (0.0, 50.0, 180.0, 270.0):
        y = turned(x, plane, degrees)
        first, second = (y @ plane.mT).unbind(-1)
        side = torch.where((x @ plane.mT)[..., 1] < 0, -1.0, 1.0)
        expected = torch.tensor(math.radians(degrees)).double()
        assert torch.allclose(y.norm(dim=-1), x.norm(dim=-1))
        assert torch.allclose(y - (y @ plane.mT) @ plane, x - (x @ plane.mT) @ plane)
        assert torch.allclose(
            torch.stack([first, side * second], -1),
            torch.hypot(first, second)[..., None] * torch.stack([expected.cos(), expected.sin()]),
            atol=1e-6,
        )
        assert torch.allclose(cosine_after(x, plane, degrees), first / y.norm(dim=-1))
        assert torch.allclose(turned(y, plane, 0.0), turned(x, plane, 0.0))


def test_additions_reach_the_angle_asked_for_and_change_nothing_else() -> None:
    plane = plane_of(9, 0)
    x, axis = states_of(6, 9, plane, 1), plane[0]
    for cosine in (-0.9, 0.0, 0.5):
        y = added(x, axis, cosine)
        assert torch.allclose(y @ axis / y.norm(dim=-1), torch.full((6, 1), cosine).double(), atol=1e-9)
        assert torch.allclose(y - (y @ axis)[..., None] * axis, x - (x @ axis)[..., None] * axis)
    for degrees in (20.0, 90.0, 160.0):
        first, second = (added_in_plane(x, plane, degrees) @ plane.mT).unbind(-1)
        assert torch.allclose(torch.atan2(second.abs(), first), torch.tensor(math.radians(degrees)).double())
        assert torch.equal(second.sign(), (x @ plane.mT)[..., 1].sign())
    longer = with_length_of(x, 3.0 * x)
    assert torch.allclose(longer, 3.0 * x)


# --- P: angle against length


def angle_rows(kind: str, seed: int, splits: int = 4) -> Rows:
    """A score of the normalised state along the first axis, of the state itself, or along the second axis."""
    rows: Rows = []
    for split in range(splits):
        plane = plane_of(12, 100 * seed + split)
        x = states_of(4, 12, plane, 1000 * seed + 10 * split)

        def score(change: Any, x: Tensor = x, plane: Tensor = plane) -> Tensor:
            y = change(x)[:, 0]
            if kind == "length":
                return (y @ plane[0]) ** 3
            first, second = (y @ plane.mT / y.norm(dim=-1, keepdim=True)).unbind(-1)
            return second if kind == "second axis" else torch.tanh(2 * first)

        for (grid, method, degrees), found in module(ANGLE).effects(score, plane).items():
            rows.append(
                {
                    "kind": "score",
                    "seed": split,
                    "grid": grid,
                    "method": method,
                    "degrees": degrees,
                    "scores": found.tolist(),
                }
            )
        rows.append({"kind": "split", "seed": split})
    return rows


def test_a_normalised_readout_depends_on_the_angle_only() -> None:
    found = module(ANGLE).judge(angle_rows("angle", 0, 24))  # so many equal values decide, four would not
    assert [verdict.supported for verdict in found] == [True] * 3
    assert found[0].value == pytest.approx(1.0) and found[1].value == pytest.approx(1.0)
    assert found[0].control is not None and found[0].control < 0.75
    assert found[2].value == pytest.approx(0.0, abs=1e-6)


def test_a_readout_of_the_length_never_counts_as_angle() -> None:
    for seed in range(20):
        assert True not in outcomes(ANGLE, angle_rows("length", seed, 2))
    for seed in range(20):
        assert outcomes(ANGLE, angle_rows("second axis", seed, 2))[1] is not True


# --- Q: the half that addition does not reach


def circle_rows(mirrored: bool, seed: int, splits: int = 4) -> Rows:
    """Logits that tell the sides of the first axis apart, or see the distance from it only."""
    rows: Rows = []
    for split in range(splits):
        plane = plane_of(10, 100 * seed + split)
        x = states_of(5, 10, plane, 1000 * seed + 10 * split)
        head = 3.0 * randn(10, 30, seed=7 * seed + split)

        def behave(change: Any, x: Tensor = x, plane: Tensor = plane, head: Tensor = head) -> Tensor:
            y = change(x)[:, 0]
            y = y / y.norm(dim=-1, keepdim=True)
            first, second = (y @ plane.mT).unbind(-1)
            rest = y - (y @ plane.mT) @ plane
            seen = torch.stack([first, second.abs() if mirrored else second], -1) @ plane + rest
            return seen @ head

        for degrees, distance in module(CIRCLE).nearest(behave, plane).items():
            rows.append({"kind": "angle", "seed": split, "axis": "plane", "degrees": degrees, "nearest": distance})
        rows.append({"kind": "reach", "seed": split, "share": module(CIRCLE).reached(x[:, 0], plane)})
    return rows


def test_the_unreachable_half_behaves_differently_where_the_sides_matter() -> None:
    found = module(CIRCLE).judge(circle_rows(False, 0, 40))  # so many equal values decide, four would not
    assert [verdict.supported for verdict in found] == [True, True]
    assert found[1].control is not None and found[1].value > 5 * found[1].control > 1e-4


def test_mirrored_behaviour_has_no_unreachable_half() -> None:
    for seed in range(20):
        reach, different = outcomes(CIRCLE, circle_rows(True, seed, 3))
        assert reach is not False and different is False


def test_multiples_of_an_axis_reach_half_of_the_sectors() -> None:
    plane = torch.eye(3).double()[:2]
    upper = torch.tensor([[0.3, 1.0, 0.2], [-2.0, 0.5, 0.0], [0.3, -1.0, 0.2]]).double()
    assert module(CIRCLE).reached(upper, plane) == pytest.approx(0.5, abs=0.05)
    on_axis = torch.tensor([[1.0, 0.0, 0.5]]).double()
    assert module(CIRCLE).reached(on_axis, plane) < 0.15


# --- O: harmfulness and refusal


def cells(kind: str, seed: int, width: int = 24) -> Any:
    """Two orthogonal directions, one direction for both, or no refusal direction at all, with offsets and noise."""
    prompts, leads = 48, 6
    found = module(MEANING)
    prompt = torch.arange(prompts).repeat(leads)
    lead = torch.arange(leads).repeat_interleave(prompts)
    harmful = prompt < prompts // 2
    chance = torch.rand(len(prompt), generator=rng(seed))
    easy = prompt % 4 >= 2
    refused = torch.where(harmful, chance < 0.1 + 0.1 * lead + 0.3 * easy, chance < 0.05)
    one, two, *others = torch.linalg.qr(randn(width, 4, seed=seed + 1))[0].mT
    one, two = 6.0 * one, 6.0 * two
    own = {"two": two, "one": one, "none": torch.zeros(width).double()}[kind]
    offsets = 2.0 * randn(leads, width, seed=seed + 2)[lead] + 2.0 * randn(prompts, width, seed=seed + 3)[prompt]
    # what a lead-in does to all harmful prompts, and what easy ones have in common, refused or not
    offsets += 4.0 * (harmful * (lead - 2.5))[:, None] * others[0] + 8.0 * (easy.float() - 0.5)[:, None] * others[1]
    states = harmful[:, None] * one + refused[:, None] * own + offsets + randn(len(prompt), width, seed=seed + 4)
    return found.Cells(states.float(), harmful, refused, lead, prompt)


def meaning_rows(kind: str, seed: int, splits: int = 4) -> Rows:
    rows: Rows = []
    for split in range(splits):
        planted = cells(kind, 1000 * seed + 10 * split)
        assert module(MEANING).enough(planted)
        for labels, found in (("own", planted), ("shuffled", planted.shuffled(rng(split)))):
            rows.append({"kind": "directions", "labels": labels, **module(MEANING).compared(found)})
        share = {"two": 0.1, "one": 0.9, "none": 1.0}[kind] + 0.02 * split
        rows.append({"kind": "ablation", "share": share, "null_share": 0.0})
    return rows


def test_two_directions_are_told_from_one() -> None:
    assert outcomes(MEANING, meaning_rows("two", 0)) == [True, True, True]
    assert outcomes(MEANING, meaning_rows("one", 0)) == [False, True, False]


def test_no_refusal_direction_is_neither_found_nor_different() -> None:
    for seed in range(20):
        assert True not in outcomes(MEANING, meaning_rows("none", seed))


def test_shuffling_keeps_how_often_each_cell_occurs_and_halves_share_no_prompt() -> None:
    found = cells("two", 5)
    mixed = found.shuffled(rng())
    assert mixed.counts() == found.counts() and not torch.equal(mixed.refused, found.refused)
    one, two = found.halves()
    assert not set(one.prompt.tolist()) & set(two.prompt.tolist()) and len(one.prompt) + len(two.prompt) == 288
    few = found.part(found.refused | ~found.harmful)
    assert few.counts()["harmful answered"] == 0 and not module(MEANING).enough(few)


# --- L: weak directions


@pytest.mark.parametrize("seed", range(20))
def test_weak_directions(seed: int) -> None:
    rows: dict[bool, Rows] = {True: [], False: []}
    for split in range(40):
        noise = torch.rand(9, generator=rng(100 * seed + split)).tolist()
        for truth, found in rows.items():
            for k in range(9):
                name = f"layer {k + 1}" if k < 7 else f"random {k}"
                share = (1 - k / 7 if k < 7 else 0.0) if truth else 0.3 * noise[k]
                strength = float(k if k < 7 else 0)
                found.append(
                    {
                        "kind": "direction",
                        "seed": split,
                        "direction": name,
                        "strength": strength,
                        "refuses then answers": share,
                    }
                )
            found.append({"kind": "split", "seed": split})
    assert outcomes(WEAK, rows[True]) == [True, True]
    assert True not in outcomes(WEAK, rows[False])
    constant = [{**row, "refuses then answers": 0.0} if row["kind"] == "direction" else row for row in rows[True]]
    assert outcomes(WEAK, constant) == [False, False]  # stated as a refutation, not left undecided


def test_stages_are_told_apart() -> None:
    help_text = "First cut the wire, then " * 4
    texts = ["I'm sorry, but no.", f"I'm sorry, but no. {help_text}", help_text, "Well."]
    found = module(WEAK).stages(texts, lambda text: len(text.split()) > 11, lambda text: "sorry" in text)
    assert found == dict.fromkeys(module(WEAK).STAGES, 0.25)


# --- M: repeated extraction


def repeated_rows(truth: bool, seed: int) -> Rows:
    rows: Rows = []
    for split in range(40):
        noise = (0.2 * randn(8, seed=100 * seed + split)).tolist()
        own = [0.95, 0.8 if truth else noise[0], noise[1]]
        rows += [
            {"kind": "halves", "labels": "own", "cosines": own},
            {"kind": "halves", "labels": "shuffled", "cosines": noise[:3]},
        ]
        for number in (1, 2):
            for k, method in enumerate(("extracted", "probes", "random")):
                strong = number == 1 or (truth and method == "extracted")
                effect = 0.6 + 0.1 * noise[k] if strong else 0.3 * noise[k]
                rows.append(
                    {
                        "kind": "round",
                        "seed": split,
                        "method": method,
                        "round": number,
                        "alone": effect,
                        "more": effect,
                        "together": 1.0,
                        "kl": 0.1,
                        "not_refused": None,
                    }
                )
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_a_second_direction_is_told_from_noise(seed: int) -> None:
    assert outcomes(REPEATED, repeated_rows(True, seed)) == [True, True, True]
    assert True not in outcomes(REPEATED, repeated_rows(False, seed))


def test_halves_are_disjoint_and_shuffled_labels_keep_all_prompts() -> None:
    harmful, harmless = [f"bad {k}" for k in range(6)], [f"good {k}" for k in range(6)]
    (a, b), (c, d) = module(REPEATED).split(harmful, harmless)
    assert not set(a) & set(c) and not set(b) & set(d) and len(a) + len(c) == 6
    mixed = module(REPEATED).shuffled(harmful, harmless, 1)
    assert sorted([*mixed[0], *mixed[1]]) == sorted([*harmful, *harmless])
    assert any(text.startswith("good") for text in mixed[0])


# --- N: formats


@pytest.mark.parametrize("seed", range(20))
def test_formats(seed: int) -> None:
    rows: dict[bool, Rows] = {True: [], False: []}
    for split in range(40):
        noise = (0.05 * randn(4, seed=100 * seed + split)).tolist()
        for truth, found in rows.items():
            shares = {"template": 1.0, "newline": 0.8 if truth else 0.1, "bare": 0.1, "random": 0.0}
            found += [
                {"kind": "format", "read": name, "share": share + noise[k]}
                for k, (name, share) in enumerate(shares.items())
            ]
    assert outcomes(NEWLINE, rows[True]) == [True, True]
    assert True not in outcomes(NEWLINE, rows[False])


# --- all of them


def test_naming_the_experiments_imports_nothing_heavy() -> None:
    root = Path(__file__).resolve().parents[1]
    code = (
        "import sys, experiments; print(len(experiments.listing()), 'torch' in sys.modules, 'mi_ortho' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    count = len(importlib.import_module("experiments").ORDER)
    assert done.stdout.split() == [str(count), "False", "False"]


def test_the_command_names_the_experiments_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == importlib.import_module("experiments").listing()


def test_what_was_changed_after_a_first_run_is_a_part_of_the_claim() -> None:
    found = load(MEANING)
    assert CHANGED in found.parts and CHANGED not in load(ANGLE).parts
    assert "offset" in found.parts[CHANGED] and CHANGED not in found.parts["Refuted if"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_interrupted_smallest_setting_continues(name: str, tmp_path: Path) -> None:
    found, options = load(name), {"fresh": False, "say": lambda line: None, "track": lambda stage, done, total: None}
    subject = open_subject()
    run = perform(found, found.smoke, tmp_path, subject=subject, **options)
    rows = [row for row in run.records() if row["kind"] != "cost"]
    assert all(verdict.value is not None for verdict in found.judge(rows)) or name == MEANING
    assert found.figures(rows) and all(drawn.svg() for drawn in found.figures(rows))
    before = len(run.records())
    (run.path / "summary.json").unlink()
    again = perform(found, found.smoke, tmp_path, subject=subject, **options)
    assert again.path == run.path and len(again.records()) == before + 1  # the cost of the second part only
