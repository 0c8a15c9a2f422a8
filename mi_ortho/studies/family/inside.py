"""What a family report shows of the model's inside: attention under steering, presence in real activations."""

from collections.abc import Mapping

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.edits import Add
from mi_ortho.interventions.sites import attn_pattern
from mi_ortho.model import Pieces, Prompts, intervene, pieces, read
from mi_ortho.runs.directory import Run
from mi_ortho.runs.files import to_json, write_file
from mi_ortho.steering import Setting, unsteered_completions

SHOWN = 8  # vectors whose presence is drawn
ATTENTION = "attention under steering"


def save_visuals(
    run: Run,
    setting: Setting,
    prompt: str,
    vectors: Mapping[str, Float[Tensor, " d_model"]],
    code: str | None,
    layer: int,
) -> None:
    """Write visuals.json and visuals.safetensors; attention is left out, and a row says why, where there is none.

    Args:
        run: where to write.
        setting: model, site and positions.
        prompt: the shown prompt.
        vectors: named vectors, the base first; attention is drawn for the first two, presence for all.
        code: a prompt on which the model shows the base's behaviour by itself; presence is also measured on the
            unsteered completion of it. None measures presence on the shown prompt only.
        layer: whose attention is drawn.
    """
    prompts = setting.prompts([prompt])
    prompt_pieces = shown_pieces(setting, prompts)
    arrays: dict[str, Tensor] = {}
    try:
        arrays["attention_unsteered"] = prompt_pieces.attention(_attention(setting, prompts, None, layer))
        for name in list(vectors)[:2]:
            arrays[f"attention_{name}"] = prompt_pieces.attention(_attention(setting, prompts, vectors[name], layer))
    except ValueError as error:
        run.record({"kind": "left_out", "what": ATTENTION, "reason": str(error)})
    items: list[dict[str, object]] = [_attention_item(key, layer) for key in arrays]
    names, directions = list(vectors)[:SHOWN], torch.stack(list(vectors.values())[:SHOWN])
    for title, key, written in _passages(setting, prompt, code):
        read_on = shown_pieces(setting, written)
        arrays[key] = read_on.mean(presence(setting, written, directions))
        items.append(
            {"title": title, "kind": "token_values", "key": key, "tokens": list(read_on.texts), "labels": names}
        )
    run.save_tensors("visuals", arrays)
    listing = {"prompt_tokens": list(prompt_pieces.texts), "items": items}
    write_file(run.path / "visuals.json", to_json(listing, indent=1) + "\n")


def _attention_item(key: str, layer: int) -> dict[str, object]:
    title = f"Attention of layer {layer}, {key.removeprefix('attention_').replace('_', ' ')}"
    return {"title": title, "kind": "attention", "layer": layer, "key": key}


def _passages(setting: Setting, prompt: str, code: str | None) -> list[tuple[str, str, Prompts]]:
    passages = []
    for title, key, text in (
        ("Presence while the model answers the shown prompt, unsteered", "presence_prompt", prompt),
        ("Presence while the model shows the behaviour by itself, unsteered", "presence_behaviour", code),
    ):
        if text is not None:
            d_model = int(setting.model.cfg.d_model)
            done = unsteered_completions(setting, [text], d_model, setting.prompts([text]).tokens.device)[0]
            if done.ids:
                passages.append((title, key, setting.prompts([text], [list(done.ids)])))
    return passages


def presence(setting: Setting, written: Prompts, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "pos n"]:
    """cos(h, theta) at every position of one sequence: the signed root of the share of |h|^2 along each vector."""
    residual = read(setting.model, written, [setting.site])[setting.site][0].float()
    unit = torch.nn.functional.normalize(directions, dim=-1)
    return einsum(torch.nn.functional.normalize(residual, dim=-1), unit.to(residual), "pos d, n d -> pos n")


def shown_pieces(setting: Setting, prompts: Prompts) -> Pieces:
    """The first row's tokens as readable pieces: byte-level tokens that only together make a character are joined."""
    return pieces(setting.model.tokenizer, prompts.tokens[0].tolist())


def _attention(
    setting: Setting, prompts: Prompts, vector: Float[Tensor, " d_model"] | None, layer: int
) -> Float[Tensor, "head q k"]:
    site = attn_pattern(layer)
    if vector is None:
        return read(setting.model, prompts, [site])[site][0].float()
    with intervene(setting.model, {setting.site: Add(vector)}, prompts=prompts, where=setting.where):
        return read(setting.model, prompts, [site])[site][0].float()
