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
# # 2. Is my vector in the model's own activations?
#
# A vector that makes a model write code need not be one the model uses when it writes code by itself. This page takes
# a small family of such vectors, lets the model write code and prose unsteered, and asks whether the vectors are
# visible in its activations: beside directions drawn at random, and beside random directions that follow the
# activations' covariance.

# %%
from itertools import islice

import torch

import mi_ortho as mo
from mi_ortho import pages

torch.set_num_threads(1)
subject = mo.open_subject()
model, modes = subject.model, subject.modes
SOURCE, TARGET, RADIUS = mo.resid_post(3), mo.resid_post(6), 13.8

# %% [markdown]
# ## Vectors that make it write code
#
# As in [the first tutorial](1_first_family.py): MELBO vectors at a prompt the model refuses, and what it says then.

# %%
question = "How can I build a bomb?"
refused = mo.tokenize(model, [question])
z = mo.slice_model(model, refused, source=SOURCE, target=TARGET, where="prompt", readout="all")
found = mo.melbo(mo.displace(z), radius=RADIUS, n=32, generator=torch.Generator().manual_seed(0))


def said(vector):
    """The completion with this vector, and the name of its behaviour."""
    [text] = mo.generate(model, refused, {SOURCE: mo.Add(vector)}, where="prompt", max_new_tokens=48)
    return text, mo.classify(text, modes)


shown = [said(each.vector) for each in found]
names = [mode for _, mode in shown]
print({mode: names.count(mode) for mode in sorted(set(names))})

# %% [markdown]
# One of them is the base of a family: vectors orthogonal to it and to each other that predict the same next tokens.

# %%
first = names.index("code") if "code" in names else 0
base, text = found[first].vector, shown[first][0]
logits = mo.logit_slice(model, mo.tokenize(model, [question], answers=[text]), source=SOURCE, where="prompt")
goal = mo.match_distribution(logits, base, real=logits.real)
family = mo.melbo_ortho(
    goal,
    base,
    seed=0,
    settings=mo.OrthoSettings(max_norm=1.6 * RADIUS),
    curvature=mo.derivatives.gauss_newton(goal, base, generator=torch.Generator().manual_seed(0)),
)
steering = torch.stack([base, *(each.vector for each in islice(family, 7))])
modes_of_family = [said(vector)[1] for vector in steering]
print({mode: modes_of_family.count(mode) for mode in sorted(set(modes_of_family))}, "of", len(steering), "vectors")

# %% [markdown]
# ## Code and prose the model writes by itself

# %%
asked = {"code": subject.texts.natural["code"][:6], "prose": subject.texts.natural["explain"][:6]}
answers, activations = {}, {}
for name, questions in asked.items():
    prompts = mo.tokenize(model, list(questions))
    answers[name] = mo.generate(model, prompts, max_new_tokens=40)
    written = mo.tokenize(model, list(questions), answers=answers[name])
    states = mo.read(model, written, [SOURCE])[SOURCE]
    after = written.prompt_length
    activations[name] = states[:, after:][written.mask[:, after:]]
    print(f"{name}: {activations[name].shape[0]} positions; for example {answers[name][0][:50]!r}")

# %% [markdown]
# ## Presence
#
# Presence of a vector at a position: ⟨h, θ̂⟩, the activation's component along it. For each vector two numbers: the
# share ⟨h, θ̂⟩² / ‖h‖² (a random direction has 1 / d_model), and the AUC of presence, code against prose: 0.5 is
# chance, and values on either side of it separate the two.

# %%
directions = {
    "vectors of the family": steering,
    "random directions": mo.random_vectors(64, model.cfg.d_model, 1.0, torch.Generator().manual_seed(0)),
    "random, covariance of the activations": mo.nulls.covariance_matched(
        torch.cat(list(activations.values())), 64, torch.Generator().manual_seed(0)
    ),
}
for name, rows in directions.items():
    unit = torch.nn.functional.normalize(rows, dim=-1)
    code, prose = (activations[kind] @ unit.T for kind in ("code", "prose"))
    share = (code.square() / activations["code"].square().sum(-1, keepdim=True)).mean(0)
    values = mo.stats.auc(torch.cat([code, prose]), torch.arange(len(code) + len(prose)) < len(code))
    away = (values - 0.5).abs()
    print(f"{name:38} share {share.mean():.4f}  mean |AUC - 0.5| {away.mean():.3f}  largest {away.max():.3f}")

# %% [markdown]
# The comparison that matters is with the last row: activations fill few directions, so a direction that follows their
# covariance separates code from prose too, without ever having steered anything.
#
# ## Where in the text

# %%
text = answers["code"][0]
written = mo.tokenize(model, [asked["code"][0]], answers=[text])
states = mo.read(model, written, [SOURCE])[SOURCE][0]
tokens = model.tokenizer.convert_ids_to_tokens(written.tokens[0].tolist())
tokens = [token.replace("Ġ", " ").replace("Ċ", "\\n") for token in tokens]
unit = torch.nn.functional.normalize(steering, dim=-1)
pages.token_values(tokens, states @ unit.T, labels=[f"vector {k}" for k in range(len(unit))], title="Presence by token")

# %% [markdown]
# The command `mi-ortho presence` measures a whole family at every layer on the model's own code and on Python's
# standard library, against three kinds of random orthonormal sets, with permutation tests and false-discovery control.
