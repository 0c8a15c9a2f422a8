"""What `check_model` and `mi-ortho doctor` say: sound models pass with numbers, every planted fault fails by name."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import architectures
import doctor_page
import pytest
import torch
from test_stepping import BROKEN
from transformers.cache_utils import DynamicLayer

import mi_ortho as mo
from mi_ortho.cli import main
from mi_ortho.interventions.edits import Add
from mi_ortho.interventions.sites import resid_post
from mi_ortho.model import check as checks
from mi_ortho.model.load import EMBEDDED

EVERY = pytest.mark.parametrize("name", architectures.FAMILIES)
MUST = (
    "numbers are finite in this dtype",
    "the cache holds what it was given",
    "a cached step equals an uncached one",
    "padding changes nothing",
    "slice equals the model steered by hooks",
    "logit slice equals the model steered by hooks",
    "what hooks write is what is read",
    "a cached step under steering equals an uncached one",
)


def by_name(report: mo.model.ModelReport) -> dict[str, Any]:
    return {check.name: check for check in report.checks}


@EVERY
def test_a_sound_model_passes_and_every_number_is_within_its_tolerance(name: str) -> None:
    model = architectures.model(name)
    before = {key: value.clone() for key, value in model.original_model.state_dict().items()}
    report = mo.check_model(model)
    found = by_name(report)
    assert report.passed and report.failed == ()
    for must in MUST:
        assert found[must].state == "passed" and 0 <= found[must].measured <= found[must].allowed, found[must]
    assert found["every weight was in the file"].state == "unknown"  # made in memory
    for check in report.checks:
        assert check.state in ("passed", "refused", "unknown") and "\n" not in check.note
        assert check.state != "refused" or check.note
    assert all(torch.equal(before[key], value) for key, value in model.original_model.state_dict().items())
    with pytest.raises(FrozenInstanceError):
        report.model = "another"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", [None, "embedded/naive"])
def test_an_embedded_model_passes_everything_quickly(name: str | None) -> None:
    report = mo.check_model(mo.load_model(name))
    assert {check.state for check in report.checks} == {"passed"}
    assert by_name(report)["attention sinks"].note


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_passes_by_its_own_tolerance(dtype: torch.dtype) -> None:
    report = mo.check_model(mo.load_model(dtype=dtype))
    assert report.passed and by_name(report)["padding changes nothing"].allowed == 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("broken", BROKEN, ids=lambda f: f.__name__)
def test_a_broken_cache_fails_and_the_rest_is_still_measured(
    broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DynamicLayer, "update", broken)
    model = architectures.bridge("qwen2")
    found = by_name(mo.check_model(model))
    assert found["a cached step equals an uncached one"].state == "failed"
    assert found["padding changes nothing"].state == "passed"
    assert "a cached step under steering equals an uncached one" not in found


def hooked(part: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A module of block 2 whose output is changed by a hook of torch, which slices do not see."""

    def plant(model: Any) -> None:
        module = model.blocks[2]._modules[part]
        module.register_forward_hook(
            lambda _, args, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)
        )

    return plant


def by_column(model: Any) -> None:
    """An embedding that depends on the column, padding included."""
    first = torch.eye(architectures.D_MODEL)[0]
    model.embed.register_forward_hook(lambda _, args, out: out + torch.arange(out.shape[1])[None, :, None] * first)


FAULTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a hook that slices do not see": (hooked("mlp", lambda x: 1.5 * x), "slice equals the model steered by hooks"),
    "padding that is counted": (by_column, "padding changes nothing"),
    "not a number": (hooked("mlp", lambda x: x + float("nan")), "numbers are finite in this dtype"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_a_planted_fault_fails_by_name(name: str, fault: str) -> None:
    model = architectures.bridge(name)
    plant, failing = FAULTS[fault]
    plant(model)
    report = mo.check_model(model)
    assert not report.passed and failing in report.failed
    assert "failed" in str(report) and by_name(report)[failing].name in report.markdown()


def test_interventions_of_others_are_not_seen_and_stay() -> None:
    model = architectures.bridge("qwen2")
    prompts = mo.tokenize(model, ["cake"])
    with mo.intervene(model, {resid_post(1): Add(torch.ones(architectures.D_MODEL))}, prompts=prompts):
        before = model(prompts.tokens)
        assert mo.check_model(model).passed
        assert torch.equal(model(prompts.tokens), before)


def test_sinks_are_named_with_their_text_token_and_block() -> None:
    model = architectures.bridge("qwen2")

    def lengthen(_: Any, args: Any, out: Any) -> Any:
        x = (out[0] if isinstance(out, tuple) else out).clone()
        x[:, -1] *= 100.0 if x.shape[1] > 1 else 1.0
        return (x, *out[1:]) if isinstance(out, tuple) else x

    assert "none" in by_name(mo.check_model(model))["attention sinks"].note
    model.blocks[1].register_forward_hook(lengthen)
    note = by_name(mo.check_model(model))["attention sinks"].note
    assert re.search(r"token \d+ of text 0 from block 1", note), note


# -- the command ------------------------------------------------------------------------------------------------------


@contextmanager
def exit_code(code: int) -> Iterator[None]:
    if code == 0:
        yield
        return
    with pytest.raises(SystemExit) as ended:
        yield
    assert ended.value.code == code


@pytest.mark.parametrize("flags", [[], ["--markdown"], ["--model", "embedded/naive"], ["--dtype", "bfloat16"]])
def test_doctor_prints_versions_and_checks(flags: list[str], capsys: Any) -> None:
    assert main(["doctor", *flags]) == 0
    said = capsys.readouterr().out
    for word in ("torch:", "transformers:", "transformer-lens:", "python:", "platform:", *MUST):
        assert word in said
    assert ("| --- |" in said) == ("--markdown" in flags) and "failed" not in said


def test_doctor_ends_with_2_and_still_prints_the_table(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(DynamicLayer, "update", BROKEN[0])
    with exit_code(2):
        main(["doctor"])
    said = capsys.readouterr().out
    assert re.search(r"the cache holds what it was given +failed +5 +0 +columns missing of 5", said)
    assert re.search(r"padding changes nothing +passed", said)


def test_doctor_of_a_model_that_does_not_load_prints_the_versions(tmp_path: Path, capsys: Any) -> None:
    assert main(["doctor", "--model", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "transformers:" in captured.out and captured.err.startswith("mi-ortho: got model folder")


def test_another_tokenizer_fails_by_name() -> None:
    model = mo.load_model()
    assert by_name(mo.check_model(model))["the tokenizer is the folder's own"].state == "passed"
    model.tokenizer = architectures.tiny_tokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    assert by_name(mo.check_model(model))["the tokenizer is the folder's own"].state == "failed"


def test_the_facts_say_what_was_checked() -> None:
    report = mo.check_model(mo.load_model())
    assert report.facts["model"] == str(EMBEDDED) and "layers" in report.facts["network"]
    assert report.facts["dtype"] == "float32" and report.facts["device"] == "cpu"
    assert checks.machine_facts().items() <= report.facts.items()


def test_the_page_has_every_architecture_and_no_failure() -> None:
    page = (Path(__file__).parent.parent / "docs" / "doctor.md").read_text("utf-8")
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert set(architectures.FAMILIES) <= set(rows) and set(MUST) <= set(rows)
    assert "**no**" not in page and "| failed |" not in page
    assert set(doctor_page.SHORT.values()) <= {
        check.name for check in mo.check_model(architectures.model("qwen2")).checks
    }
