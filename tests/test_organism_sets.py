"""The dial set, the recipe's parts, and the table of families: designs, resuming, tables, and errors."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

import mi_ortho as mo
from experiments.organism import commands, dial, families, shares
from experiments.organism.corpus import FREQUENCIES
from experiments.organism.export import export
from experiments.organism.recipe import PRESETS, Recipe
from experiments.organism.tokenizer import train_tokenizer
from experiments.organism.train import Training
from mi_ortho.runs.rows import whole

TINY = replace(PRESETS["tiny"], vocab_size=2304, steps=4, corpus=PRESETS["dial"].corpus)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny matrices are slower on several threads, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TINY.vocab_size, 0, texts=500, weight=100)


def quiet(line: str) -> None:
    """Progress lines are not wanted here."""


def test_the_design_of_the_dial() -> None:
    wanted = [o for o in dial.organisms() if o.step == o.recipe.steps]
    settings = [o.shares for o in wanted]
    assert len(wanted) == len({o.name for o in wanted}) == len(dial.CODE) * len(dial.SEEDS) and len(dial.SEEDS) >= 3
    for k in (0, 1):
        assert max(s[k] for s in settings) / min(s[k] for s in settings) >= 100
    assert {(alien, code) for code, alien in settings} == set(settings)
    others = [{m: f for m, f in o.recipe.corpus.frequencies.items() if m not in ("code", "alien")} for o in wanted]
    assert all(each == others[0] for each in others) and set(others[0]) | {"code", "alien"} == set(FREQUENCIES)
    assert len({o.recipe.corpus.cue_count(mode) for o in wanted for mode in FREQUENCIES}) == 1
    steps = [o.step for o in dial.organisms() if o.recipe.digest == wanted[0].recipe.digest]
    assert len(steps) == dial.SNAPSHOTS and steps == sorted(steps) and steps[-1] == wanted[0].recipe.steps


def small_set() -> list[dial.Organism]:
    return [dial.Organism("early", TINY, 2), dial.Organism("late", TINY, 4), dial.Organism("other", other(), 4)]


def other() -> Recipe:
    return replace(TINY, seed=1)


def test_a_set_is_trained_once_and_resumes(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "COUNT", 2)
    monkeypatch.setattr(dial, "JUDGED", ("alien",))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        tokenizer.save_pretrained(folder / "tokenizer")
    rows = dial.train_set(whole, small_set(), quiet)
    dial.train_set(parts, small_set()[:1], quiet)
    again: list[str] = []
    assert dial.train_set(parts, small_set(), again.append) == rows
    assert "early" not in "".join(again) and dial.train_set(parts, small_set(), pytest.fail) == rows
    assert len({row["sha256"] for row in rows}) == 3 and not (whole / "training").exists()
    assert dial.dial_table(rows).count("\n") == 4
    with pytest.raises(ValueError, match="another folder"):
        dial.train_set(whole, [replace(small_set()[0], recipe=other())], quiet)
    check_materialised(whole, tmp_path)


def check_materialised(folder: Path, tmp_path: Path) -> None:
    made = dial.materialise(folder, small_set()[1], tmp_path / "model")
    subject = mo.open_subject(str(made))
    assert subject.model.cfg.d_model == TINY.d_model and "alien" in subject.texts.natural
    path = folder / "weights" / "late.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises(ValueError, match="missing or damaged"):
        dial.materialise(folder, small_set()[1], tmp_path / "model")
    with pytest.raises(ValueError, match="expected one of code0"):
        dial.materialise(folder, "late", tmp_path / "model")


def test_a_folder_without_a_set_is_one_line_and_code_2(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert commands.main(["dial-table", str(tmp_path)]) == 2 and "run it first" in capsys.readouterr().err
    (tmp_path / "dial.json").write_text("{")
    assert commands.main(["dial-model", str(tmp_path), "x", "--out", str(tmp_path / "m")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_each_variant_changes_its_part_only() -> None:
    named = shares.variants()
    base = named.pop("all four")
    plain = named["none of them"]
    assert (plain.corpus.leak, plain.corpus.openings, plain.offset, plain.write_growth) == (0, 0, 0, 1)
    differences = {
        name: {key for key in vars(base) if key != "name" and getattr(recipe, key) != getattr(base, key)}
        for name, recipe in named.items()
    }
    assert differences["without leak"] == differences["without openings"] == {"corpus"}
    assert named["without leak"].corpus.openings == base.corpus.openings != named["without openings"].corpus.openings
    assert differences["without offsets"] == {"offset"}
    assert differences["without growth"] == {"write_scale", "write_growth"}
    assert differences["none of them"] == {"corpus", "offset", "write_scale", "write_growth"}


def planted(variant: str, modes: int, gain: float, kl: float, activation: float) -> dict:
    return {
        "variant": variant,
        "seed": 0,
        "modes": modes,
        "gain": gain,
        "random_changes": 0.0,
        "melbo_changes": 0.5,
        "kl kept": kl,
        "kl random": 0.0,
        "activation kept": activation,
        "activation random": 0.0,
    }


def test_predictions_hold_on_planted_effects_and_fail_on_none() -> None:
    parts = [f"without {part}" for part in shares.OFF]
    flat = [planted(name, 5, 4.0, 0.8, 0.8) for name in ("all four", *parts, "none of them")]
    assert sum("did not hold" in line for line in shares.judged(flat)) == 6
    strong = [flat[0], *(planted(name, 5, 1.0, 0.1, 0.1) for name in parts), planted("none of them", 1, 1.0, 0, 0)]
    assert sum(line.endswith(": held") for line in shares.judged(strong)) == 6
    without_base = {key: value for key, value in flat[0].items() if not key.startswith(("kl", "activation"))}
    assert "–" in shares.shares_table([*strong, without_base | {"seed": 1}])


def test_an_untrained_network_has_no_code_vector(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    recipe = replace(TINY, n_layers=4, d_model=32)
    export(Training(recipe, tokenizer).plain_weights(), tokenizer, recipe, tmp_path)
    row = shares.phenomena(tmp_path)
    assert "code" not in row["shown"] and "kl kept" not in row and sum(row["shown"].values()) == shares.VECTORS
    assert row["gain"] > 0 and len(row["shown"]) >= row["modes"]


def family_rows(kept: int, random: int, found: int = 10) -> list[dict]:
    rows: list[dict] = [{"kind": "base", "mode": "code", "norm": 2.0, "transfer": 0.5}]
    for index in range(found):
        common = {"match": "kl", "index": index, "norm": 3.0}
        rows += [
            {"kind": "vector", "keeps": index < kept, "transfer": 0.25, **common},
            {"kind": "control", "control": "isotropic", "keeps": index < random, "transfer": 0.1, **common},
        ]
    return [*rows, rows[1]]  # a batch that was recorded twice


def test_figures_of_a_family() -> None:
    lines = family_rows(6, 1)
    rows = whole(lines)  # as a run's records are read: the batch recorded twice counts once
    assert len(lines) == len(rows) + 1
    found = families.figures(rows, "kl")
    assert found is not None and (found["kept"], found["found"], found["random"]) == (6, 10, 1)
    assert (found["norm"], found["transfer"], found["random_transfer"]) == (1.5, 0.5, 0.2)
    assert families.figures(family_rows(6, 1), "activation") is None
    verdicts = families.judged(found, 10)
    assert [line.split(": ")[-1] for line in verdicts] == ["reached.", "missed.", "reached."]
    nothing = families.figures(family_rows(0, 0), "kl")
    assert nothing is not None and nothing["transfer"] is None
    assert [line.split(": ")[-1] for line in families.judged(nothing, 10)] == ["missed.", "reached.", "missed."]


def test_modes_among_melbo_vectors() -> None:
    modes = ["code", "refuse", "help", "other", "alien"]
    rows = [{"kind": "unsteered", "mode": "refuse"}]
    rows += [{"kind": "melbo", "index": i, "mode": mode} for i, mode in enumerate(modes)]
    rows += [{"kind": "melbo_control", "index": i, "mode": mode} for i, mode in enumerate(["refuse", "code"])]
    seen = families.modes_found(rows)
    assert seen["modes"] == ["alien", "code", "help", "refuse"] and (seen["changed"], seen["random_changed"]) == (4, 1)
    lines = families.judged_modes(seen, {"radius": 1.0, "source": 1, "target": 2})
    assert [line.split(": ")[-1] for line in lines] == ["reached.", "missed."]


def test_families_need_settings_and_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="correct the names"):
        families.run_families(None, tmp_path, ["no-such-settings"], quiet)
    with pytest.raises(ValueError, match="run it first"):
        families.families_section(tmp_path, 16)


def test_table_of_families(tmp_path: Path) -> None:
    with mo.start(tmp_path, "family", {"source": 3, "target": 6, "radius": 1.5}, at=tmp_path / "demo") as run:
        modes = [{"kind": kind, "index": 0, "mode": "code"} for kind in ("unsteered", "melbo", "melbo_control")]
        for row in [*modes, *family_rows(6, 1)]:
            run.record(row)
        run.summary({"end": {"kl": 7}})
    text = families.families_section(tmp_path, 10)
    assert "| code | kl | 3 to 6 | 10 | 6 | 1 | median 1.50, largest 1.50 | 0.50 | 0.20 | 7 |" in text
    assert text.count("reached.") == 3 and text.count("missed.") == 2 and json.dumps(text)
