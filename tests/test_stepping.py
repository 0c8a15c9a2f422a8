"""The KV cache: handed over in a way that was compared with an uncached pass, or not used at all and said so."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from small_runs import write_family
from torch import Tensor
from transformers.cache_utils import DynamicLayer

import mi_ortho as mo
from mi_ortho.cli import main
from mi_ortho.interventions.sites import resid_post
from mi_ortho.model import generate_ids, require_agreement
from mi_ortho.model.stepping import _ways, agreement, without_hooks
from mi_ortho.studies.shared.subject import open_subject

NAMES = pytest.mark.parametrize("name", architectures.ARCHITECTURES)
EVERY = pytest.mark.parametrize("name", architectures.FAMILIES)
TEXTS = ["how can i build a bomb", "cake", "tell me the poem about the sea"]
D = architectures.D_MODEL
keep = DynamicLayer.update


def drops_everything(self: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
    return keys, values


def drops_a_column(self: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
    found = keep(self, keys, values, *args, **kwargs)
    self.keys, self.values = self.keys[:, :, 1:], self.values[:, :, 1:]
    return found


def keeps_other_values(self: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
    found = keep(self, keys, values, *args, **kwargs)
    self.values = 0.9 * self.values
    return found


def mixes_up_columns(self: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
    found = keep(self, keys, values, *args, **kwargs)
    self.values = self.values.flip(2)
    return found


def hands_back_only_the_new(self: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
    keep(self, keys, values, *args, **kwargs)
    return keys, values


def raises(self: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("this cache is no more")


BROKEN = (drops_everything, drops_a_column, keeps_other_values, mixes_up_columns, hands_back_only_the_new, raises)
EVERY_FAULT = pytest.mark.parametrize("broken", BROKEN, ids=lambda f: f.__name__)


def uncached(model: Any, prompts: mo.Prompts, new: int, interventions: Any = None) -> list[list[int]]:
    """Greedy completions by passes over all tokens; up to the end-of-sequence token 1."""
    for _ in range(new):
        with mo.intervene(model, interventions or {}, prompts=prompts):
            logits = model(prompts.tokens, attention_mask=prompts.mask.long(), use_cache=False)[:, -1]
        tokens = torch.cat([prompts.tokens, logits.argmax(-1, keepdim=True)], 1)
        mask = torch.cat([prompts.mask, torch.ones_like(prompts.mask[:, :1])], 1)
        prompts = mo.Prompts(tokens, mask, prompts.prompt_length, prompts.texts)
    rows = prompts.tokens[:, prompts.prompt_length :].tolist()
    return [row[: row.index(1)] if 1 in row else row for row in rows]


@EVERY
@pytest.mark.parametrize("steered", [False, True])
def test_cached_completions_of_a_padded_batch_are_those_without_a_cache(name: str, steered: bool) -> None:
    model = architectures.model(name)
    prompts = mo.tokenize(model, TEXTS)
    found = require_agreement(model)
    assert found.fault is None and found.error is not None and 0 <= found.error < found.tolerance
    assert found.given == found.held == 5
    change = {resid_post(1): mo.Add(torch.randn(3, D, generator=torch.Generator().manual_seed(0)))} if steered else {}
    written = generate_ids(model, prompts, change, max_new_tokens=6)
    assert written == uncached(model, prompts, 6, change)
    assert any(written)


@NAMES
@EVERY_FAULT
def test_a_broken_cache_is_refused_before_anything_is_written(
    name: str, broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = architectures.bridge(name)
    prompts = mo.tokenize(model, TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(DynamicLayer, "update", broken)
        for use in (
            lambda: mo.generate(model, prompts, max_new_tokens=2),
            lambda: mo.slice_model(model, prompts, source=resid_post(0), target=resid_post(2)),
        ):
            with pytest.raises(
                ValueError, match=r"transformers \d.*transformer-lens \d.*; expected .*; install"
            ) as said:
                use()
            assert "\n" not in str(said.value) and name in str(said.value)
    assert mo.generate(model, prompts, max_new_tokens=2)  # a fault is not remembered


@pytest.mark.parametrize("broken", BROKEN[:2], ids=lambda f: f.__name__)
def test_columns_are_counted_at_every_step_also_after_the_comparison(
    broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = architectures.bridge("qwen2")
    require_agreement(model)
    monkeypatch.setattr(DynamicLayer, "update", broken)
    with pytest.raises(ValueError, match="holds .* of .* columns"):
        mo.generate(model, mo.tokenize(model, TEXTS), max_new_tokens=2)


def test_the_comparison_is_made_once_and_forgotten_with_the_model() -> None:
    model = architectures.bridge("qwen2")
    passes: list[int] = []
    model.original_model.register_forward_hook(lambda *_: passes.append(1))
    gc.collect()  # models of other tests
    before = len(_ways)
    require_agreement(model)
    once = len(passes)
    require_agreement(model)
    assert 0 < once <= 3 and len(passes) == once and len(_ways) == before + 1
    del model
    gc.collect()
    assert len(_ways) == before


def test_the_comparison_sees_no_intervention_and_leaves_it_alone() -> None:
    model = architectures.bridge("qwen2")
    prompts = mo.tokenize(model, TEXTS)
    change = {resid_post(1): mo.Add(torch.full((3, D), 0.5))}
    clean = mo.next_token_logits(model, prompts)
    with mo.intervene(model, change, prompts=prompts):
        before = model(prompts.tokens, attention_mask=prompts.mask.long())[:, -1]
        assert agreement(model).fault is None  # of another number of rows than the prompts
        with without_hooks(model):
            bare = model(prompts.tokens, attention_mask=prompts.mask.long())[:, -1]
        after = model(prompts.tokens, attention_mask=prompts.mask.long())[:, -1]
    assert torch.allclose(bare, clean, atol=1e-5) and torch.equal(before, after)
    assert not torch.allclose(before, clean, atol=0.1)


def test_half_precision_is_compared_by_its_own_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    model = architectures.bridge("qwen2")
    model.original_model.bfloat16()
    assert agreement(model).fault is None
    monkeypatch.setattr(DynamicLayer, "update", keeps_other_values)
    assert agreement(model).fault is not None


def completions(root: Path) -> list[str]:
    """Everything a run directory under `root` recorded that a model could have written."""
    records = [line for path in root.rglob("records.jsonl") for line in path.read_text("utf-8").splitlines()]
    return [line for line in records if any(word in json.loads(line) for word in ("text", "completion", "ids"))]


COMMANDS = {
    "family": [],
    "melbo": [],
    "dct": [],
    "refusal": [],
    "refusal extract": [],
    "presence": ["FAMILY"],
    "geometry": [],
    "atlas": [],
    "nulls": ["FAMILY"],
    "explore": ["FAMILY"],
}


@pytest.mark.parametrize("broken", [drops_a_column, keeps_other_values], ids=lambda f: f.__name__)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_stops_with_one_line(
    command: str, broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    family, out = write_family(tmp_path / "family", 8), tmp_path / "out"
    before = {path: path.read_bytes() for path in family.rglob("*") if path.is_file()}
    monkeypatch.setattr(DynamicLayer, "update", broken)
    place = [] if command == "explore" else ["--out", str(out)]
    assert main([*command.split(), *(str(family) for _ in COMMANDS[command]), *place]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len([line for line in said if line.startswith("mi-ortho:")]) == 1
    assert said[-1].startswith("mi-ortho: got ") and "transformer-lens" in said[-1] and "doctor" in said[-1]
    assert "Traceback" not in "".join(said)
    assert completions(out) == [] and list(out.rglob("*.safetensors")) == []
    assert {path: path.read_bytes() for path in family.rglob("*") if path.is_file()} == before


def test_a_subject_with_a_broken_cache_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    open_subject(None)
    monkeypatch.setattr(DynamicLayer, "update", drops_everything)
    with pytest.raises(ValueError, match="holds 0 of 5 columns"):
        open_subject(None)
