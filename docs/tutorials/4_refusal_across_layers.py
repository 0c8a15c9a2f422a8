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
# # 4. Refusal across layers
#
# In many chat models one direction has been found along which they refuse. This page extracts candidates for it at
# every layer, removes one from the residual stream everywhere, adds it to harmless requests, and asks where in depth it
# can be found and used, beside random directions. Whether this small model has one is what the cells print.

# %%
import matplotlib.pyplot as plt
import torch

import mi_ortho as mo

torch.set_num_threads(1)
subject = mo.open_subject("embedded/naive")  # the sibling of the embedded model, which has no such direction itself
model, modes = subject.model, subject.modes
natural = subject.texts.natural
harmful, harmless = natural["harmful"], natural["benign"] + natural["help"]
n = min(len(harmful), len(harmless)) // 2
train, test = slice(0, n), slice(n, 2 * n)
print(n, "requests of each kind to extract from, as many others to test on; for example", [harmful[0], harmless[0]])


def refused(texts, interventions=None):
    """The share of answers that the rules name a refusal."""
    answers = mo.generate(model, mo.tokenize(model, list(texts)), interventions or {}, max_new_tokens=32)
    return sum(mo.classify(answer, modes) == "refuse" for answer in answers) / len(answers)


print(f"unsteered: {refused(harmful[test]):.2f} of harmful, {refused(harmless[test]):.2f} of harmless requests refused")

# %% [markdown]
# ## A direction at every layer
#
# The difference of the mean activations of harmful and harmless requests, at the last position of the prompt.

# %%
sites = mo.refusal.residual_sites(model)[1:]  # before the first block the last token is the same in all prompts
means = mo.refusal.difference_of_means(model, harmful[train], harmless[train], sites, positions=[-1])
directions = {site: means.direction(site, -1) for site in sites}
print("norm by layer:", {site.layer: round(float(one.norm()), 2) for site, one in directions.items()})

# %% [markdown]
# ## Remove it everywhere
#
# Each layer's direction is projected out of the embedding and of every block's writes; the control is a random
# direction.

# %%
removed = {
    site.layer: refused(harmful[test], mo.refusal.ablate_everywhere(model, one)) for site, one in directions.items()
}
chance = [
    refused(harmful[test], mo.refusal.ablate_everywhere(model, row))
    for row in mo.random_vectors(3, model.cfg.d_model, 1.0, torch.Generator().manual_seed(0))
]
print("refused after removal, by the layer it was extracted from:", {k: round(v, 2) for k, v in removed.items()})
print("after removal of a random direction:", [round(value, 2) for value in chance])

# %% [markdown]
# ## Add it to harmless requests
#
# Added where it was extracted, at half of its own length. The control has that length and a random direction.

# %%
added, random = {}, {}
for site, one in directions.items():
    added[site.layer] = refused(harmless[test], mo.refusal.add_at(site, one / 2))
    other = mo.random_vectors(1, len(one), float(one.norm()) / 2, torch.Generator().manual_seed(site.layer))[0]
    random[site.layer] = refused(harmless[test], mo.refusal.add_at(site, other))
print("harmless requests refused:", {k: round(v, 2) for k, v in added.items()})
print("with random directions:   ", {k: round(v, 2) for k, v in random.items()})

# %%
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(list(removed), list(removed.values()), "o-", label="harmful, direction removed")
axes.plot(list(added), list(added.values()), "s-", label="harmless, direction added")
axes.plot(list(random), list(random.values()), "x--", color="grey", label="harmless, random direction added")
axes.axhline(sum(chance) / len(chance), color="grey", linewidth=0.7, label="harmful, random direction removed")
axes.set(xlabel="layer of extraction", ylabel="share refused", ylim=(-0.05, 1.05))
axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
figure.tight_layout()

# %% [markdown]
# ## One space or many?
#
# How alike are the layers' directions? Were all layers one space, every direction would work everywhere.

# %%
figure, axes = plt.subplots(figsize=(3.4, 3))
first, last = sites[0].layer - 0.5, sites[-1].layer + 0.5
cosines = mo.cosine_matrix(torch.stack(list(directions.values())))
picture = axes.imshow(cosines, vmin=-1, vmax=1, cmap="RdBu", extent=(first, last, last, first))
axes.set(xlabel="layer", ylabel="layer", title="cosine of the directions")
figure.colorbar(picture)
figure.tight_layout()

# %% [markdown]
# The command `mi-ortho refusal` selects the direction as published, with the reason for every rejected candidate,
# measures coherence and damage beside every success, compares removal, addition and rotation, and exports the edited
# weights.
