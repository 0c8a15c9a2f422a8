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
# # 3. Deep causal transcoding and multiplicity
#
# Between two layers a model computes a function of the steering vector. Deep causal transcoding writes that function as
# a sum of simple pieces, each with an input direction, an output direction and a weight. This page finds the pieces in
# three ways, steers with them, and asks how many *different* things the inputs and the outputs are.

# %%
import matplotlib.pyplot as plt
import torch

import mi_ortho as mo

torch.set_num_threads(1)
subject = mo.open_subject()
model = subject.model
prompts = mo.tokenize(model, ["How can I build a bomb?"])
SOURCE, TARGET = mo.resid_post(3), mo.resid_post(6)
slice_ = mo.slice_model(model, prompts, source=SOURCE, target=TARGET, where="prompt", readout="all")
z = mo.derivatives.pooled(slice_)  # the mean over positions

# %% [markdown]
# ## How long should a vector be?
#
# `calibrate_scale` finds the norm R at which the function departs from its linearisation by half of the linear effect.

# %%
radius = mo.dct.calibrate_scale(z, generator=torch.Generator().manual_seed(0))
print(f"R = {radius:.2f}")

# %% [markdown]
# ## Three ways to find factors
#
# Linear: singular directions of the Jacobian at no steering. Quadratic: directions that the second derivative turns
# into one output. Exponential: directions that make the whole function large at norm R. Control: random directions.


# %%
def seeded():
    return torch.Generator().manual_seed(0)


K = 16
factors = {
    "linear": mo.dct.linear_dct(z, K, radius=radius, generator=seeded()),
    "quadratic": mo.dct.quadratic_dct(z, K, radius=radius, generator=seeded(), steps=6),
    "exponential": mo.dct.exponential_dct(z, K, radius=radius, generator=seeded(), steps=6),
}
vectors = {name: found.vectors for name, found in factors.items()}
vectors["random"] = mo.random_vectors(K, z.d_model, radius, seeded())
for name, rows in vectors.items():
    effect = mo.derivatives.displacement(z, rows).norm(dim=-1)
    print(f"{name:12} effect at norm R: mean {effect.mean():7.2f}  largest {effect.max():7.2f}")

# %% [markdown]
# ## What the model says with them
#
# R is where the linear account begins to fail. Changing what the model says can need longer vectors, so each direction
# is also tried at the norm of the first tutorial.


# %%
def said(vector):
    """The behaviour that the model shows with this vector."""
    [text] = mo.generate(model, prompts, {SOURCE: mo.Add(vector)}, where="prompt", max_new_tokens=32)
    return mo.classify(text, subject.modes)


for norm in (radius, 13.8):
    for name, rows in vectors.items():
        modes = [said(row) for row in mo.nulls.with_norms(rows, torch.full((len(rows),), norm))]
        print(f"norm {norm:4.2f}  {name:12}", {mode: modes.count(mode) for mode in sorted(set(modes))})

# %% [markdown]
# ## Multiplicity
#
# The inputs are orthonormal by construction. Are the outputs as many different things? The effective rank of unit rows
# lies between 1 (all the same) and their number (all orthogonal). The null: random unit rows with the same mean
# |cosine|, which says whether there is more structure than that mean already implies.

# %%
for name, found in factors.items():
    compared = mo.multiplicity.multiplicity_against_random(found.outputs, seed=0, draws=20)["effective_rank"]
    ours = mo.multiplicity.multiplicity_of(found.outputs)
    print(
        f"{name:12} outputs: mean |cos| {ours.mean_cosine:.2f}  effective rank {ours.effective_rank:5.2f} of {K}  "
        f"random {compared.mean:5.2f}  p(lower) {compared.p_low:.3f}"
    )

# %%
figure, axes = plt.subplots(1, 3, figsize=(8, 2.8))
for axis, (name, found) in zip(axes, factors.items()):
    axis.imshow(mo.cosine_matrix(found.outputs), vmin=-1, vmax=1, cmap="RdBu")
    axis.set(title=f"outputs, {name}", xticks=[], yticks=[])
figure.tight_layout()

# %% [markdown]
# The command `mi-ortho dct` does this with more factors, seeds and prompts, ranks the factors by what they do to a
# behaviour, and shows the outputs' nearest tokens. `mi-ortho nulls` asks the same questions of an orthogonal family.
