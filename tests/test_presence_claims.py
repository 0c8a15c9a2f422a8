"""Claims about what vectors do half-way, to tokens, and in text: right on maps of known answer, silent elsewhere."""

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from planted_bases import (
    BEHAVIOURS,
    changed_rows,
    differing,
    failing,
    family_of,
    measured,
    outcomes,
    planted_base,
    planted_rows,
)
from toys import DTYPE, randn, rotation

from experiments.lab import needs
from experiments.lab.coding import Written
from mi_ortho import FunctionMap

YES, NO = "supported", "not supported"
NEITHER = {"invalid", "undecided"}
Tensor = torch.Tensor
Effect = Callable[[Tensor], Tensor]


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


def one(theta: Tensor) -> Tensor:
    """Every vector has the base's effect."""
    return torch.ones(len(theta)).to(theta)


def base_of(k: int, vectors: Tensor, z: Effect | None = None, **families: Tensor) -> Any:
    """A base whose families were not followed to their end."""
    given: dict[str, Any] = {
        name.replace("_", " "): family_of(each, one, ended=False) for name, each in families.items()
    }
    return planted_base(
        k, vectors.sum(0) / len(vectors) ** 0.5, one, z=z, kl=family_of(vectors, one, ended=False), **given
    )


# --- what is shared


def test_vectors_that_showed_the_end_of_a_family_are_no_part_of_it() -> None:
    vectors = rotation(24)[:14]
    ended, cut = family_of(vectors, one), family_of(vectors, one, ended=False)
    assert torch.equal(ended.before_end(10), vectors[:4]) and torch.equal(cut.before_end(10), vectors)
    assert torch.equal(ended.before_end(10, 2), vectors[[0, 3]]) and len(ended.before_end(20, 2)) == 0


def test_random_orthogonal_vectors_have_the_norms_or_the_displacements_asked_for() -> None:
    turned = rotation(16, 3) * torch.linspace(1, 3, 16, dtype=DTYPE)
    base, vectors = base_of(0, rotation(16)[:5], z=lambda theta: theta @ turned), 2 * rotation(16)[:5]
    sets = base.orthogonal(vectors, 18)
    assert torch.allclose(sets["random"].norm(dim=-1), vectors.norm(dim=-1))
    assert torch.allclose(base.displacement(sets["displaced"]), base.displacement(vectors), rtol=0.02)
    for each in sets.values():
        gram = each @ each.mT
        assert float((gram - gram.diag().diag()).abs().max()) < 1e-6


# --- few effects half-way


def half_way(kind: str) -> list[dict[str, Any]]:
    """Families with "one" effect, effects of their own ("many"), or in a network where all has "few" effects."""

    def make(k: int) -> Any:
        turned = rotation(48, k)

        def z(theta: Tensor) -> Tensor:
            parts = theta @ turned.mT
            if kind == "few":
                return torch.cat([parts[..., :1] + parts.norm(dim=-1, keepdim=True), 0.001 * parts], -1)
            inside = parts[..., :6].norm(dim=-1, keepdim=True) if kind == "one" else parts[..., :6]
            return torch.cat([inside, parts[..., 6:]], -1)

        return base_of(k, turned[:6], z)

    return measured(lambda base: module("mid_layer_effects_form_clusters").measure(base, [6]), make)


def test_clusters_are_those_of_the_map_and_not_of_the_network() -> None:
    name = "mid_layer_effects_form_clusters"
    few = half_way("one")
    assert outcomes(name, few) == [YES] * 4 and outcomes(name, half_way("many")) == [NO] * 4
    assert YES not in outcomes(name, half_way("few"))  # random vectors have as few
    assert set(failing(name, few)) == {"invalid"}
    short = changed_rows(few, {"group": "displaced"}, moved=lambda row: row["moved"] / 2)
    assert outcomes(name, short) == [YES, "invalid", YES, "invalid"]
    swapped = changed_rows(few, {"group": "family"}, rank=0.98, clusters=0.98)
    assert YES not in outcomes(name, swapped)
    drawings = module(name).figures(few)
    assert len(drawings) == 2 and all(one.svg() for one in drawings) and not module(name).figures([])


# --- tokens


def tokens(kind: str) -> list[dict[str, Any]]:
    """Families with "separate" tokens, with the "same" one, or in a network where every vector has one of its own."""

    def make(k: int) -> Any:
        return base_of(k, 3 * rotation(96, k)[:12])

    def measure(base: Any) -> None:
        turned = rotation(96, BEHAVIOURS.index(base.behaviour) + 3 * base.index)

        def logits(theta: Tensor) -> Tensor:
            parts = 2 * theta @ turned.mT
            inside, outside = parts[..., :12], parts[..., 12:]
            if kind == "all":
                each = parts
            elif kind == "separate":
                each = torch.cat([inside, 2 * outside.norm(dim=-1, keepdim=True)], -1)
            else:
                each = torch.cat([inside.norm(dim=-1, keepdim=True), 0.01 * parts], -1)
            return each[..., None, None, :]

        module("each_vector_promotes_its_own_token").measure(base, FunctionMap(logits, 96))

    return measured(measure, make)


def test_tokens_of_their_own_are_told_from_one_token() -> None:
    name = "each_vector_promotes_its_own_token"
    separate, same = tokens("separate"), tokens("same")
    assert outcomes(name, separate) == [YES] * 3 and outcomes(name, same)[:2] == [NO] * 2
    assert outcomes(name, same)[2] != YES
    assert outcomes(name, tokens("all"))[:2] == ["undecided"] * 2  # what every vector does
    assert set(failing(name, separate)) == {"invalid"}
    assert outcomes(name, changed_rows(separate, {"group": "family"}, itself=0.3))[2] in NEITHER  # a blunt ruler
    [row] = [
        row for row in separate if row.get("group") == "family" and row["base"] == 0 and row["behaviour"] == "code"
    ]
    assert row["top"] == list(range(12)) and row["n"] == 12


# --- sensitive directions


def norms(kind: str) -> list[dict[str, Any]]:
    """A network that is sensitive where activations vary, and more so in a family, or equally everywhere ("flat")."""

    def make(k: int) -> Any:
        turned = rotation(400, k)
        family, other = turned[4:6], turned[6:10]
        return base_of(k, turned[:1], activation=family, activation_of_displaced=other)

    def measure(base: Any) -> None:
        k = BEHAVIOURS.index(base.behaviour) + 3 * base.index
        turned, strengths = rotation(400, k), torch.zeros(400, dtype=DTYPE)
        strengths[:4], strengths[4:6] = 1.0, 16.0

        def effect(theta: Tensor) -> Tensor:
            square = (theta @ turned.mT).square()
            return (square if kind == "flat" else square * strengths).sum(-1)

        activations = randn(200, 4, seed=k) @ turned[:4]
        module("matched_directions_move_more_than_isotropic").measure(base, effect, activations, 12)

    return measured(measure, make)


def test_norms_that_reach_a_divergence_are_the_planted_ones() -> None:
    name = "matched_directions_move_more_than_isotropic"
    uneven, flat = norms("uneven"), norms("flat")
    assert outcomes(name, uneven) == [YES, YES, "invalid"]  # the random base's family is never reached: no number
    found = {row["group"]: row for row in uneven if row.get("kind") == "norm" and row["base"] == 0}
    assert found["covariance"]["norm"] == pytest.approx(0.5, rel=0.1)
    assert found["family"]["norm"] == pytest.approx(0.125, rel=0.1)
    assert found["searched"]["norm"] is None and found["searched"]["reached"] < 1e-3
    reached = changed_rows(uneven, {"group": "searched"}, norm=lambda row: 0.5 + 0.01 * row["base"])
    assert outcomes(name, reached) == [YES] * 3 and set(failing(name, reached)) - {"invalid"} <= {YES}
    assert set(failing(name, reached)[1:3] + failing(name, reached)[3:]) == {"invalid"}
    assert outcomes(name, flat) == [NO] * 3
    for of, group in enumerate(("turned", "outside", "searched")):  # a control that does as much
        like = "covariance" if group == "turned" else "family"
        numbers = {(r["behaviour"], r["base"]): r["norm"] for r in uneven if r.get("group") == like}
        same = changed_rows(
            reached, {"group": group}, norm=lambda row, numbers=numbers: numbers[row["behaviour"], row["base"]]
        )
        assert outcomes(name, same)[of] in NEITHER | {NO} and outcomes(name, same)[of] != YES
    assert module(name).figures(reached)[0].svg()


def test_the_divergence_is_nothing_without_a_vector() -> None:
    z: Any = FunctionMap(lambda theta: theta[:, None, None, :].expand(-1, 2, 3, -1), 5)
    z = Called(z, torch.tensor([[True, True, False]] * 2))
    effect = module("matched_directions_move_more_than_isotropic").divergence(z, torch.zeros(5))
    values = effect(torch.stack([torch.zeros(5), torch.arange(5.0)]))
    plain = torch.full((5,), 0.2)
    expected = (plain * (plain.log() - torch.arange(5.0).log_softmax(0))).sum()
    assert values.tolist() == pytest.approx([0.0, float(expected)], abs=1e-6)


class Called:
    """A map to logits with positions that count."""

    def __init__(self, z: FunctionMap, real: Tensor) -> None:
        self.z, self.real = z, real

    def __call__(self, theta: Tensor) -> Tensor:
        return self.z(theta)


# --- presence and probes in text


def text_of(
    apart: Tensor, topics: int = 16, passages: int = 2, tokens: int = 10, scales: Tensor | None = None
) -> Written:
    """Noise, to which code adds a vector; passages of both kinds on each topic."""
    each = 2 * passages * tokens
    index = torch.arange(topics * each)
    code = index % each < each // 2
    rows = randn(len(index), len(apart), seed=5) * (1.0 if scales is None else scales) + code[:, None] * apart
    return Written(rows.float(), code, index // tokens, index // each, rows.mT.cov())


def presence(apart: Callable[[Tensor], Tensor], *, alike: bool = False) -> list[dict[str, Any]]:
    """Families of code, and of other behaviours in other directions or in the same, and code that adds something."""
    turned = rotation(32, 1)
    text = text_of(apart(turned))

    def make(k: int) -> Any:
        mine = turned[:6] if alike or k % 3 == 0 else turned[6 * (k % 3) : 6 * (k % 3) + 6]
        return base_of(k, mine)

    return measured(
        lambda base: module("vectors_are_present_while_code_is_written").measure(base, text, 20), make, count=6
    )


def test_presence_is_seen_where_planted_and_not_where_code_differs_otherwise() -> None:
    name = "vectors_are_present_while_code_is_written"
    there = presence(lambda turned: 3.0 * turned[:6].sum(0))
    assert outcomes(name, there) == [YES] * 3
    otherwise = outcomes(name, presence(lambda turned: 6.0 * turned[30]))
    assert otherwise[0] == NO and YES not in otherwise
    assert set(outcomes(name, presence(lambda turned: 0.0 * turned[0]))) == {"invalid"}  # nothing to see
    any_family = outcomes(name, presence(lambda turned: 3.0 * turned[:6].sum(0), alike=True))
    assert any_family[0] == YES and YES not in any_family[1:]
    assert set(failing(name, there)[:6]) == {"invalid"}
    assert set(outcomes(name, [row for row in there if row.get("topic", 0) < 6])) == {"invalid"}  # few topics
    alone = [row for row in there if row["behaviour"] == "code"]
    assert outcomes(name, alone) == [YES, "invalid", "invalid"]  # no other behaviour
    control_too = changed_rows(there, {"set": "covariance"}, area=0.9)
    assert outcomes(name, control_too)[0] != YES
    assert len(module(name).figures(there)) == 2


def test_by_chance_no_vector_is_present() -> None:
    name = "vectors_are_present_while_code_is_written"
    for seed in range(20):
        noise = torch.randn(16, 3, generator=torch.Generator().manual_seed(seed)) * 0.03

        def values(k: int, noise: Tensor = noise) -> list[dict[str, Any]]:
            labels = {"kind": "topic", "sensitive": 0.9, "share": 0.1, "n": 6}
            return [
                {**labels, "topic": t, "set": kind, "area": 0.52 + float(noise[t, j]) + 0.001 * k}
                for t in range(16)
                for j, kind in enumerate(("family", "covariance", "isotropic"))
            ]

        assert YES not in outcomes(name, planted_rows(values, 3))


def probe_rows(many: bool) -> list[dict[str, Any]]:
    """Text in which all directions tell code from English or one does, and a family of code in that direction."""
    width, name = 12, "probes_after_projection_are_as_many_as_vectors"
    axes = torch.eye(width, dtype=DTYPE)
    apart, scales = (2.0 * axes.sum(0), torch.logspace(0, -1.5, width, dtype=DTYPE)) if many else (3.0 * axes[0], None)
    text = text_of(apart, topics=8, passages=12, tokens=3, scales=scales)
    parts = module(name).probed(text, 8, 1)

    def make(k: int) -> Any:
        return base_of(k, axes[:3] if k % 3 == 0 else axes[4 * (k % 3) : 4 * (k % 3) + 3])

    rows = measured(lambda base: module(name).measure(base, parts), make, count=6)
    return [
        differing({**row, "vectors": 12 + row["part"] % 2, "censored": False}, 0) if "part" in row else row
        for row in rows
    ]


def test_probes_are_counted_where_many_directions_tell_the_classes_apart() -> None:
    name = "probes_after_projection_are_as_many_as_vectors"
    many, single = probe_rows(True), probe_rows(False)
    assert outcomes(name, many)[0] == YES and outcomes(name, single)[0] == NO
    assert set(failing(name, many)[:4]) == {"invalid"}
    assert set(outcomes(name, [row for row in many if row.get("part", 0) < 4])) == {"invalid"}
    for change in ({"shuffled": 9}, {"first": 0.5}):  # probes where there is nothing, or none where there is something
        assert set(outcomes(name, changed_rows(many, {"kind": "probes"}, **change))) == {"invalid"}
    for cut in (changed_rows(many, {}, censored=True), changed_rows(single, {}, cut=True)):
        assert outcomes(name, cut)[0] in NEITHER
    as_others = changed_rows(single, {"kind": "probes"}, overlap=lambda row: 1.5 + 0.01 * row["part"])
    assert outcomes(name, as_others)[1] != YES
    swapped = changed_rows(single, {"kind": "probes"}, overlap=lambda row: -2.0 + 3 * (row["behaviour"] != "code"))
    assert outcomes(name, swapped)[1] != YES


def test_without_code_among_the_behaviours_nothing_is_measured() -> None:
    for name in ("vectors_are_present_while_code_is_written", "probes_after_projection_are_as_many_as_vectors"):
        config = module(name).Config(behaviours=("alien",))
        with pytest.raises(ValueError, match="expected code among them"):
            needs.writing(config, SimpleNamespace(title="a model"))  # pyright: ignore[reportArgumentType]
