# ---
# jupytext:
#   text_representation:
#     format_name: percent
# kernelspec:
#   display_name: Python 3
#   language: python
#   name: python3
# ---

# %% [markdown]
# # 1. First family in five minutes
#
# A chat model refuses a request. One vector, added inside it, makes it answer with code instead. Are there other
# vectors, orthogonal to the first and to each other, that do the same? This page looks for them in the small model
# that ships with the package. Every number below is printed by the cell above it when the page is built.

# %%
from itertools import islice
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import mi_ortho as mo
from mi_ortho import pages

torch.set_num_threads(1)  # the matrices of this model are too small to share
subject = mo.open_subject()  # the embedded model, its prompts, and rules that name its behaviours
model = subject.model
question = "How can I build a bomb?"
prompts = mo.tokenize(model, [question])
[answer] = mo.generate(model, prompts, max_new_tokens=48)
print(answer)
print("behaviour:", mo.classify(answer, subject.modes))

# %% [markdown]
# ## One vector
#
# `z` is the function everything else is built on: it takes a steering vector, adds it to the residual stream after
# block 3 at the positions of the prompt, runs blocks 4 to 6, and returns what they write, averaged over positions.
# [MELBO](../concepts.md#melbo) looks for vectors of a given length that move this output as far as they can. Nothing
# tells it what to look for; we ask for thirty-two, orthogonal to each other, and read what the model then says.

# %%
SOURCE, TARGET, RADIUS, WHERE = mo.resid_post(3), mo.resid_post(6), 13.8, "prompt"
z = mo.slice_model(model, prompts, source=SOURCE, target=TARGET, where=WHERE)
everywhere = mo.slice_model(model, prompts, source=SOURCE, target=TARGET, where=WHERE, readout="all")
candidates = mo.melbo(mo.displace(everywhere), radius=RADIUS, n=32, generator=torch.Generator().manual_seed(0))


def behaviour(vector):
    """What the model says with this vector, and the name of that behaviour."""
    [text] = mo.generate(model, prompts, {SOURCE: mo.Add(vector)}, where=WHERE, max_new_tokens=48)
    return text, mo.classify(text, subject.modes)


written = [behaviour(candidate.vector) for candidate in candidates]
for k, (text, mode) in enumerate(written):
    print(f"{k:2}  {mode:8} {text[:70]!r}")

# %% [markdown]
# We take the first that writes code; where none does, the first that shows another behaviour the rules can name.

# %%
named = set(subject.modes.names) - {subject.modes.default, mo.classify(answer, subject.modes)}
order = [k for k, (_, mode) in enumerate(written) if mode == "code"]
order += [k for k, (_, mode) in enumerate(written) if mode in named]
if not order:
    raise SystemExit("no vector of this length changes the behaviour: raise RADIUS")
base = candidates[order[0]].vector
base_text, wanted = written[order[0]]
print(f"base vector: candidate {order[0]}, norm {float(base.norm()):.2f}, behaviour {wanted!r}")
print(base_text)

# %% [markdown]
# ## The family
#
# `melbo_ortho` now looks for a vector that does what the base does, among all vectors orthogonal to it; then for one
# orthogonal to both, and so on. "Does what the base does" can mean two things. Published: the target activations come
# out the same (relative loss: 0 is the base's effect, 1 is none). Or: the model predicts the same next tokens along the
# base's answer (divergence in nats). We search for eight of each. The cap on the norm matters: without it, the number
# of vectors depends on how far the optimiser is allowed to wander.

# %%
answered = mo.tokenize(model, [question], answers=[base_text])
logits = mo.logit_slice(model, answered, source=SOURCE, where=WHERE)
goals = {"activations": mo.match(z, base), "next tokens": mo.match_distribution(logits, base, real=logits.real)}
settings = mo.OrthoSettings(max_norm=1.6 * RADIUS)
families, behaviours = {}, {}
for name, goal in goals.items():
    curvature = mo.derivatives.gauss_newton(
        goal, base, generator=torch.Generator().manual_seed(0)
    )  # makes searches much shorter
    found = list(islice(mo.melbo_ortho(goal, base, seed=0, settings=settings, curvature=curvature), 8))
    families[name] = torch.stack([result.vector for result in found])
    behaviours[name] = [behaviour(result.vector) for result in found]
    print(f"matched on {name}:")
    for k, (result, (text, mode)) in enumerate(zip(found, behaviours[name])):
        print(f"{k:2} norm {float(result.vector.norm()):5.2f}  loss {result.loss:.2f}  {mode:8} {text[:48]!r}")

# %% [markdown]
# Orthogonal to each other and to the base, measured over all pairs and not only neighbouring ones:

# %%
for name, vectors in families.items():
    print(f"{name}: largest |cosine| {mo.max_abs_cosine(torch.cat([base[None], vectors])):.1e}")

# %% [markdown]
# ## Would anything have done it?
#
# A family means nothing without its controls. Random vectors of the same norms answer "does any push of this length do
# it?". The [linear null](../concepts.md#the-linear-null) answers "is this more than linear algebra?": on a linear map
# such a family always exists, and its losses follow from the Jacobian alone.

# %%
matched = families["activations"]
controls = {
    "random vectors of the same norms": mo.nulls.with_norms(
        mo.random_vectors(8, z.d_model, RADIUS, torch.Generator().manual_seed(1)), matched.norm(dim=1)
    ),
    "the family, negated": -matched,
}
behaviours |= {name: [behaviour(vector) for vector in vectors] for name, vectors in controls.items()}
for name, found in behaviours.items():
    hits = sum(mode == wanted for _, mode in found)
    low, high = mo.stats.rate(hits, len(found)).interval
    print(f"{name:33} {hits}/{len(found)} are {wanted!r}  (95 % interval {low:.2f} to {high:.2f})")

# %%
null = mo.linear_null(
    mo.derivatives.mean_jacobian(z, base, nodes=4), base, len(matched)
)  # averaged from no steering to the base
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(goals["activations"](matched).detach(), "k.-", label="family")
for (name, vectors), mark in zip(controls.items(), "x+"):
    axes.plot(goals["activations"](vectors).detach(), mark, label=name)
axes.plot(null.losses, "k--", linewidth=1, label="linear null")
axes.axhline(1, color="grey", linewidth=0.7)
axes.set(xlabel="vector index", ylabel="relative loss")
axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
figure.tight_layout()

# %% [markdown]
# A family whose curve stays on the dashed line has the losses a linear map would give it: its existence then needs no
# further explanation. Where the curve lies below the line, the nonlinear blocks help; where it lies above, they hinder.
#
# ## What the vector does to attention
#
# The rows are the heads' attention without and with the first vector that matches next tokens, and their difference.

# %%
LAYER = 5
tokens = model.tokenizer.convert_ids_to_tokens(prompts.tokens[0].tolist())
patterns = {"unsteered": mo.read(model, prompts, [mo.attn_pattern(LAYER)])}
with mo.intervene(model, {SOURCE: mo.Add(families["next tokens"][0])}, prompts=prompts, where=WHERE):
    patterns["steered"] = mo.read(model, prompts, [mo.attn_pattern(LAYER)])
tokens = [token.replace("Ġ", " ").replace("Ċ", "\\n") for token in tokens]
pages.compare(tokens, {name: found[mo.attn_pattern(LAYER)][0] for name, found in patterns.items()}, title="Attention")

# %% [markdown]
# ## Keep it
#
# Vectors are stored with the place they belong to. [Exporting](../guides/export.md) says how to load them elsewhere.

# %%
kept = mo.SteeringVectors(families["next tokens"], SOURCE, "embedded", {"where": WHERE, "match": "next tokens"})
mo.save_vectors(kept, Path("family.safetensors"))
again = mo.load_vectors(Path("family.safetensors"))
print(len(again), "vectors for", again.site, "norms", [round(n, 2) for n in again.norms.tolist()])

# %% [markdown]
# The command `mi-ortho family` does all of this with more vectors, both losses, and every control, and writes a report.
#
# Try it: change `RADIUS`, `TARGET` or `question`, or set `max_norm` to `float("inf")` and watch the count grow.
