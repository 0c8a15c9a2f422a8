"""Inside the model: projections of tokens on a direction, outputs of each head along it, and attention patterns."""

import torch
from markupsafe import Markup

from mi_ortho.pages.embed import attention, token_values
from mi_ortho.pages.grid import Cell, grid
from mi_ortho.pages.page import Section
from mi_ortho.pages.sections import figure, note
from mi_ortho.pages.text import number
from mi_ortho.runs.directory import Run
from mi_ortho.runs.files import read_json
from mi_ortho.studies.refusal.words import Words, words_of


def inside_section(run: Run) -> Section:
    """The visuals that the run stored, or a remark that there are none."""
    path = run.path / "inside.json"
    if not path.is_file() or not run.has("inside"):
        return Section("Inside the model", note("Nothing of the model's inside was recorded."))
    listing, arrays = read_json(path), run.load_tensors("inside")
    assert isinstance(listing, dict)
    words = words_of(run.records())
    body = _heads(arrays, words) if "heads_harmful" in arrays else Markup("")
    for item in listing["items"]:
        values, tokens = arrays[item["key"]], item["tokens"]
        visual = (
            token_values(tokens, values, title=item["title"])
            if item["kind"] == "token_values"
            else attention(tokens, values, title=item["title"], head_names=item["names"])
        )
        scale = f" Blue along the direction, orange against it, deepest at ±{number(visual.props['maxValue'])}."
        body += figure(visual, f"{item['title']}.{scale if item['kind'] == 'token_values' else ''}")
    lead = "Which heads write the direction, where they look, and which tokens carry it."
    return Section("Inside the model", body, lead, "inside", "Inside")


def _heads(arrays: dict[str, torch.Tensor], words: Words) -> Markup:
    """A grid of layers and heads: outputs on the first class of prompts minus on the second, three strongest framed."""
    harmful, harmless = arrays["heads_harmful"], arrays["heads_harmless"]
    gap = harmful - harmless
    strongest = set(gap.flatten().abs().argsort(descending=True)[:3].tolist())
    cells = [
        [
            Cell(
                float(gap[layer, head]),
                framed=layer * gap.shape[1] + head in strongest,
                note=f"layer {layer}, head {head}: {words.first} {float(harmful[layer, head]):.3g}, "
                f"{words.second} {float(harmless[layer, head]):.3g}",
            )
            for head in range(gap.shape[1])
        ]
        for layer in range(gap.shape[0])
    ]
    names = [f"head {k}" for k in range(gap.shape[1])]
    if "mlp_harmful" in arrays:
        names = [*names, "all heads", "MLP"]
        mlp = arrays["mlp_harmful"] - arrays["mlp_harmless"]
        cells = [[*row, Cell(float(gap[k].sum())), Cell(float(mlp[k]))] for k, row in enumerate(cells)]
    caption = (
        "What each head and each MLP writes along the direction at the last prompt position: mean over "
        f"{words.first} test prompts minus mean over {words.second} ones. Layers before the place where the "
        "direction was read make it, later ones repeat it. Framed: heads whose attention is drawn."
    )
    return grid(cells, [f"layer {k}" for k in range(gap.shape[0])], names, caption=caption)
