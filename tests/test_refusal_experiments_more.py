"""Experiments on steering by angle and on what refusal directions are: right where the answer is planted, silent on the
null."""

import dataclasses
import importlib
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_rows import Rows, answer_rows, outcomes
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


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


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


def angle_rows(kind: str, count: int = 40) -> Rows:
    """Refusals of a state that is close in angle to the first axis, or long along it, or along the second axis."""
    rows: Rows = []
    for k in range(count):
        plane = plane_of(12, k % 4)
        x = states_of(1, 12, plane, 10 * k)

        def refused(change: Any, x: Tensor = x, plane: Tensor = plane) -> float:
            y = change(x)[:, 0]
            first, second = (y @ plane.mT / y.norm(dim=-1, keepdim=True)).unbind(-1)
            values = {"angle": first > 0.3, "length": y.norm() > 1.1 * x.norm(), "second axis": second > 0.5}
            return float({**values, "never": torch.tensor(0.0), "always": torch.tensor(1.0)}[kind])

        for (grid, method, degrees), value in module(ANGLE).effects(refused, plane).items():
            named = {"kind": "steered", "seed": 0, "grid": grid, "method": method, "degrees": degrees}
            value = 1.0 if method == "none" else value  # as the model is, it refuses
            rows.append({**named, "prompt": f"p{k}", "harmful": True, "refused": value, "score": value})
    return rows


def test_a_normalised_readout_depends_on_the_angle_only() -> None:
    rows = angle_rows("angle")
    assert [outcomes(ANGLE, rows)[key] for key in ("axis", "plane")] == ["supported"] * 2
    always = [{**row, "refused": 1.0} if row["method"] == "length" else row for row in rows]
    assert outcomes(ANGLE, always)["length"] == "supported"


def test_a_readout_of_the_length_never_counts_as_angle() -> None:
    length = outcomes(ANGLE, angle_rows("length"))
    assert length["axis"] == "not supported" and length["length"] == "not supported"
    assert outcomes(ANGLE, angle_rows("second axis"))["plane"] != "supported"


def test_steering_that_changes_nothing_is_no_instrument() -> None:
    assert set(outcomes(ANGLE, angle_rows("always")).values()) == {"invalid"}
    mild = [{**row, "refused": 0.0} for row in angle_rows("angle")]  # a model that refuses nothing
    assert set(outcomes(ANGLE, mild).values()) == {"invalid"}


# --- Q: the half that addition does not reach


def circle_rows(kind: str, seed: int, splits: int = 4) -> Rows:
    """Logits that tell the sides of the first axis apart, see the distance from it only, or hardly anything."""
    rows: Rows = []
    for split in range(splits):
        plane = plane_of(10, 100 * seed + split)
        x = states_of(5, 10, plane, 1000 * seed + 10 * split)
        head = (0.001 if kind == "dull" else 3.0) * randn(10, 30, seed=7 * seed + split)

        def behave(change: Any, x: Tensor = x, plane: Tensor = plane, head: Tensor = head) -> Tensor:
            y = change(x)[:, 0]
            y = y / y.norm(dim=-1, keepdim=True)
            first, second = (y @ plane.mT).unbind(-1)
            rest = y - (y @ plane.mT) @ plane
            seen = torch.stack([first, second.abs() if kind == "mirrored" else second], -1) @ plane + rest
            return seen @ head

        for degrees, distances in module(CIRCLE).nearest(behave, plane).items():
            named = {"kind": "angle", "seed": split, "axis": "plane", "degrees": degrees}
            rows += [{**named, "prompt": f"{split} {k}", "nearest": each} for k, each in enumerate(distances)]
        for k, state in enumerate(x[:, 0]):
            shares = {name: module(CIRCLE).sectors(state, plane, name) for name in ("added", "turned")}
            moved = 0.0 if kind == "dull" else 1.0
            rows.append({"kind": "reach", "seed": split, "prompt": f"{split} {k}", "moved": moved, **shares})
    return rows


def test_the_unreachable_half_behaves_differently_where_the_sides_matter() -> None:
    assert outcomes(CIRCLE, circle_rows("sides", 0, 8)) == {"half": "supported", "different": "supported"}


def test_mirrored_behaviour_has_no_unreachable_half() -> None:
    for seed in range(3):
        assert outcomes(CIRCLE, circle_rows("mirrored", seed, 8))["different"] == "not supported"
    assert outcomes(CIRCLE, circle_rows("dull", 0, 8))["different"] == "invalid"
    swapped = [{**row, "added": row["turned"]} if row["kind"] == "reach" else row for row in circle_rows("sides", 0, 8)]
    assert outcomes(CIRCLE, swapped)["half"] != "supported"


def test_multiples_of_an_axis_reach_half_of_the_sectors() -> None:
    plane = torch.eye(3).double()[:2]
    for state in torch.tensor([[0.3, 1.0, 0.2], [-2.0, 0.5, 0.0], [0.3, -1.0, 0.2]]).double():
        assert module(CIRCLE).sectors(state, plane, "added") == pytest.approx(0.5, abs=0.05)
        assert module(CIRCLE).sectors(state, plane, "turned") == 1.0
    assert module(CIRCLE).sectors(torch.tensor([1.0, 0.0, 0.5]).double(), plane, "added") < 0.15


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


def meaning_rows(kind: str, seed: int, splits: int = 2, **shares: float) -> Rows:
    rest = {"two": 0.1, "one": 0.9, "none": 0.9}[kind]
    rows = answer_rows({"refused": 0.95, "harmful": 0.5, "rest": rest, "shuffled": 0.1, **shares})
    for split in range(splits):
        planted = cells(kind, 1000 * seed + 10 * split)
        assert module(MEANING).enough(planted)
        for labels, sample in (("true", planted), ("shuffled", planted.shuffled(rng(split)))):
            rows.append({"kind": "cosines", "labels": labels, **module(MEANING).compared(sample, 20, split)})
    return rows


def test_two_directions_are_told_from_one() -> None:
    assert set(outcomes(MEANING, meaning_rows("two", 0)).values()) == {"supported"}
    one = outcomes(MEANING, meaning_rows("one", 0))
    assert one == {"different": "not supported", "agrees": "supported", "less": "not supported"}


def test_no_refusal_direction_is_neither_found_nor_different() -> None:
    for seed in range(2):
        none = outcomes(MEANING, meaning_rows("none", seed, 1))
        assert none["different"] == "invalid" and none["agrees"] != "supported" and none["less"] == "invalid"
    unspecific = outcomes(MEANING, meaning_rows("two", 0, 1, shuffled=0.9))
    assert unspecific["less"] == "invalid"


def test_shuffling_keeps_how_often_each_cell_occurs_and_halves_share_no_prompt() -> None:
    found = cells("two", 5)
    mixed = found.shuffled(rng())
    assert mixed.counts() == found.counts() and not torch.equal(mixed.refused, found.refused)
    one, two = found.halves()
    assert not set(one.prompt.tolist()) & set(two.prompt.tolist()) and len(one.prompt) + len(two.prompt) == 288
    few = found.part(found.refused | ~found.harmful)
    assert few.counts()["harmful answered"] == 0 and not module(MEANING).enough(few)


# --- L: weak directions


def weak_rows(kind: str, strongest: str = "answers", chance: str = "refuses") -> Rows:
    """Completions that refuse and answer the more often, the weaker the direction; at random; or never."""
    rows: Rows = []
    for k in range(40):
        noise = torch.rand(9, generator=rng(k)).tolist()
        for number in range(9):
            way = "none" if number == 8 else f"layer {number + 1}" if number < 7 else "random 0"
            share = {"weak": 1 - number / 6, "random": 0.3, "never": 0.0}[kind]
            stage = "refuses then answers" if number < 7 and noise[number] < share else "refuses"
            stage = strongest if number == 6 else chance if number == 7 else "refuses" if number == 8 else stage
            strength = float(number + 1) if number < 7 else 0.0
            rows.append(
                {"kind": "stage", "seed": k % 2, "way": way, "strength": strength, "prompt": f"p{k}", "stage": stage}
            )
    return rows


def test_weak_directions() -> None:
    assert set(outcomes(WEAK, weak_rows("weak")).values()) == {"supported"}
    assert set(outcomes(WEAK, weak_rows("never")).values()) == {"not supported"}  # a refutation, not left undecided
    assert "supported" not in outcomes(WEAK, weak_rows("random"))["trend"].split()[:1]
    assert set(outcomes(WEAK, weak_rows("weak", strongest="refuses")).values()) == {"invalid"}
    assert set(outcomes(WEAK, weak_rows("weak", chance="answers")).values()) == {"invalid"}


# --- M: repeated extraction


def repeated_rows(second: float, both: float, first: float = 0.7, random: float = 0.02, seed: int = 0) -> Rows:
    ways = {"extracted 1 alone": first, "extracted 2 alone": second, "random 1 alone": random, "random 2 alone": random}
    rows = answer_rows({**ways, "first and extracted": both, "first and random": first})
    for split in range(2):
        axis = torch.linalg.qr(randn(12, 2, seed=split))[0].mT[0]
        for labels in ("true", "shuffled"):
            halves = []
            for half in range(2):
                noise = randn(2, 16, 12, seed=100 * seed + 10 * split + half + (5 if labels == "shuffled" else 0))
                halves.append((noise[0] + (9 * second if labels == "true" else 0) * axis, noise[1]))
            measured = dataclasses.asdict(module(REPEATED).agreement(halves, split))
            rows.append({"kind": "halves", "seed": split, "labels": labels, "cosine": measured})
    return rows


def test_a_second_direction_is_told_from_noise() -> None:
    assert set(outcomes(REPEATED, repeated_rows(0.6, 0.95)).values()) == {"supported"}
    assert "supported" not in {*outcomes(REPEATED, repeated_rows(0.0, 0.7)).values()}
    assert outcomes(REPEATED, repeated_rows(0.0, 0.7))["alone"] == "not supported"
    assert outcomes(REPEATED, repeated_rows(0.0, 1.0, first=1.0))["more"] == "invalid"  # nothing is left to turn
    assert set(outcomes(REPEATED, repeated_rows(0.6, 0.95, random=0.6)).values()) == {"invalid"}


def test_shuffled_labels_keep_all_prompts() -> None:
    harmful, harmless = [f"bad {k}" for k in range(6)], [f"good {k}" for k in range(6)]
    mixed = module(REPEATED).shuffled(harmful, harmless, 1)
    assert sorted([*mixed[0], *mixed[1]]) == sorted([*harmful, *harmless])
    assert any(text.startswith("good") for text in mixed[0])


# --- N: formats


def test_formats() -> None:
    def found(**shares: float) -> dict[str, str]:
        ways = {"template": 0.95, "newline": 0.9, "bare": 0.1, "random": 0.02, **shares}
        return outcomes(NEWLINE, answer_rows(ways, refused=1.0 - shares.get("open", 0.0)))

    assert found() == {"newline": "supported", "lead": "supported"}
    assert set(found(newline=0.1).values()) == {"not supported"}
    assert set(found(template=0.1).values()) == set(found(random=0.9).values()) == {"invalid"}
    assert found(bare=0.62)["lead"] == "undecided" and set(found(open=0.8).values()) == {"invalid"}


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
    assert "offset" in found.parts[CHANGED]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_interrupted_smallest_setting_continues(name: str, tmp_path: Path) -> None:
    found, options = load(name), {"fresh": False, "say": lambda line: None, "track": lambda stage, done, total: None}
    subject = open_subject()
    run = perform(found, found.smoke, tmp_path, subject=subject, **options)
    rows = [row for row in run.records() if row["kind"] != "cost"]
    # few prompts may leave a number without a value; the predictions then say that too few were measured
    assert all(one.value is not None or one.outcome in ("invalid", "undecided") for one in found.judge(rows))
    assert found.figures(rows) and all(drawn.svg() for drawn in found.figures(rows))
    before = len(run.records())
    (run.path / "summary.json").unlink()
    again = perform(found, found.smoke, tmp_path, subject=subject, **options)
    assert again.path == run.path and len(again.records()) == before + 1  # the cost of the second part only
