"""What steering does inside the model: the visuals a run stored, drawn with CircuitsVis and compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from mi_ortho.pages.embed import Visual, attention, compare, token_values
from mi_ortho.pages.page import Section, render
from mi_ortho.pages.text import visible
from mi_ortho.studies.family.page_records import FamilyRun

_SHOWN_VALUES = 12  # token values drawn one below the other; the rest is left to the data files


def visuals_section(run: FamilyRun) -> Section:
    """Every item of visuals.json that can be drawn; for the others the reason."""
    visuals, lost = [], []
    for item in run.visuals.get("items") or []:
        try:
            visuals.append((item, visual_of(item, run)))
        except (KeyError, ValueError) as reason:
            lost.append(f"{item.get('title', item.get('key'))}: {reason}")
    heads = [(visual.title, visual) for item, visual in visuals if item["kind"] == "attention"]
    values = [(visual.title, visual) for item, visual in visuals if item["kind"] != "attention"]
    comparisons = _comparisons(run, [item for item, _ in visuals if item["kind"] == "attention"])
    body = render("visuals.html.jinja", compared=comparisons, heads=heads, values=values, lost=lost)
    return Section("Inside the model", body, "What the vectors change, token by token.", "visuals", "Inside")


def _comparisons(run: FamilyRun, items: Sequence[Mapping[str, Any]]) -> list[Visual]:
    """For each layer with several attention patterns of one shape, all of them side by side with their differences."""
    comparisons = []
    for layer in dict.fromkeys(item.get("layer") for item in items):
        keys = [item["key"] for item in items if item.get("layer") == layer]
        patterns = {_short_name(key, layer): run.arrays[key].float() for key in keys}
        tokens = [str(token) for token in run.visuals.get("prompt_tokens") or []]
        if (
            len(patterns) > 1
            and len({value.shape for value in patterns.values()}) == 1
            and all(value.shape[-1] == len(tokens) for value in patterns.values())
        ):
            comparisons.append(compare(tokens, patterns, title=f"Attention at layer {layer}, every head"))
    return comparisons


def _short_name(key: str, layer: object) -> str:
    return visible(key.removeprefix("attention_").removesuffix(f"_{layer}").replace("_", " "))


def visual_of(item: Mapping[str, Any], run: FamilyRun) -> Visual:
    """One entry of visuals.json as a visual.

    Raises:
        ValueError: its kind is unknown, its array is missing, or array and tokens do not fit.
    """
    if item.get("key") not in run.arrays:
        raise ValueError(f"array {item.get('key')!r} is not in visuals.safetensors")
    tokens, values = (
        [str(token) for token in item.get("tokens") or run.visuals.get("prompt_tokens") or []],
        run.arrays[item["key"]].float(),
    )
    if item.get("kind") == "attention" and values.ndim == 3:
        return attention(tokens, values, title=visible(item.get("title", "")))
    if item.get("kind") == "token_values" and values.ndim in (1, 2):
        rows = values if values.ndim == 1 else values[:, :_SHOWN_VALUES]
        labels = item.get("labels") and [str(label).replace("_", " ") for label in item["labels"]]
        return token_values(tokens, rows, labels and labels[:_SHOWN_VALUES], title=visible(item.get("title", "")))
    raise ValueError(
        f"got kind {item.get('kind')!r} with {values.ndim} axes; expected attention (3) or token_values (1 or 2)"
    )
