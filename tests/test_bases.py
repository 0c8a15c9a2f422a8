"""Bases and their families: chosen by behaviour, followed to their end, continued bit for bit after interruptions."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from planted_bases import bench_of, energy, planted_base
from small_runs import tiny_subject
from toys import flat_energy, linear, rotation, spread

from experiments.lab import Bench, Place, bases
from mi_ortho.elicitation import Penalised
from mi_ortho.stats import Count

Tensor = torch.Tensor


def tiny_bench(folder: Path, *texts: str) -> Bench:
    """A bench on a tiny model with these prompts."""
    subject = tiny_subject()
    run: Any = SimpleNamespace(path=folder / "claim" / "run")
    texts_of = replace(subject.texts, train=texts)
    return Bench(run, replace(subject, digest="tiny", texts=texts_of), lambda line: None)


SMALL = Place(source=0, target=1, radius=3.0, candidates=2, behaviours=("code", "poem"), bases=1, tokens=2)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Completions whose behaviours are planted: of each prompt, one for every candidate."""
    shown: dict[str, list[str]] = {}

    def complete(setting: Any, texts: Any, vectors: Tensor) -> list[list[Any]]:
        return [[SimpleNamespace(mode=shown[text][k], text="") for text in texts] for k in range(len(vectors))]

    monkeypatch.setattr(bases, "complete", complete)
    plain = [SimpleNamespace(mode="help")]
    monkeypatch.setattr(bases, "unsteered_completions", lambda *_: plain)
    return shown


def test_bases_are_chosen_by_what_they_make_the_model_show(judged: dict[str, list[str]], tmp_path: Path) -> None:
    judged |= {"bomb": ["help", "code"], "story": ["code", "poem"]}
    bench = tiny_bench(tmp_path, "bomb", "story")
    found = bases.bases_of(bench, SMALL)
    assert [(one.behaviour, one.index, one.texts) for one in found] == [
        ("code", 0, ("bomb",)),  # what it shows unsteered makes no base
        ("poem", 0, ("story",)),  # its first candidate shows what there is a base of already
    ]
    assert all(one.norm == pytest.approx(3.0, rel=1e-4) for one in found)
    assert float(torch.nn.functional.cosine_similarity(found[0].vector, found[1].vector, dim=0)) < 0.999
    again = bases.bases_of(bench, SMALL)
    assert all(torch.equal(one.vector, other.vector) for one, other in zip(found, again, strict=True))
    judged |= {"bomb": ["help", "unreadable"], "story": ["help", "help"]}
    with pytest.raises(ValueError, match="got no MELBO vector with code or poem"):
        bases.bases_of(bench, SMALL)


def test_the_effect_is_0_unsteered_and_1_under_the_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, "bomb")
    modes = {name: ("bomb", "story")[k % 2 : k % 2 + 1] for k, name in enumerate(("code", "poem", "a", "b", "c"))}
    monkeypatch.setattr(bases, "opened", lambda *_: modes)
    case = replace(bases.unbased(bench, SMALL, ("bomb",)), behaviour="code")
    tried = 3.0 * torch.nn.functional.normalize(torch.randn(8, bench.width, generator=bench.generator(0)), dim=-1)
    values = case.posterior.of("code", torch.cat([0 * tried[:1], tried]))
    base = replace(case, vector=tried[int(values[1:].argmax())])
    both = base.effect(torch.stack([0 * base.vector, base.vector]))
    assert both.tolist() == pytest.approx([0.0, 1.0], abs=1e-5)
    assert float(base.effect(tried).max()) == pytest.approx(1.0, abs=1e-5)
    assert base.stream > 0 and base.displacement(0 * tried[:1]).tolist() == [0.0]


def test_displaced_vectors_move_the_target_as_far_as_the_base() -> None:
    z = linear(spread(12, 30.0), seed=1)[0]
    base = planted_base(0, 2.0 * rotation(12)[0], lambda theta: theta[:, 0], z=z)
    moved = base.displacement(base.displaced(6, 1))
    assert torch.allclose(moved, base.displacement(base.vector[None]), rtol=0.02)
    assert base.displaced(6, 1).norm(dim=-1).unique().numel() == 6
    assert base.along(0.5 * base.vector[None], base.vector[None]).tolist() == pytest.approx([0.5])
    assert torch.allclose(base.random(torch.full((4,), 3.0), 1).norm(dim=-1), torch.tensor(3.0).double())


def followed(folder: Path, k: int = 0, **changes: Any) -> Any:
    """A base with five vectors that do what it does, in sixteen dimensions."""
    z, inside = flat_energy(16, 6, seed=3)
    made = planted_base(k, 2.0 * inside[0], energy(inside, 2.0), z=z, folder=folder)
    given = {name: value for name, value in vars(made).items() if name not in ("effect", "match", "yard")}
    return type(made)(**{**given, "place": replace(made.place, lost=3, norm_cap=1.0, **changes)})


def test_a_family_is_followed_to_its_end(tmp_path: Path) -> None:
    family = followed(tmp_path).family()
    assert family.ended and family.count(effect=0.5) == Count(5, False)
    assert family.count(loss=0.5) == Count(5, False) and len(family.working()) == 5
    assert len(family.vectors) < 14  # it ends before the space does
    part = followed(tmp_path).family(most=3)
    assert not part.ended and part.count(effect=0.5) == Count(3, True)
    few = followed(tmp_path, most=3, most_kl=2)  # by goal, as those that run the whole model take longer
    assert len(few.family().vectors) == 3
    assert len(few.grow("other", Penalised(few.match, 1e-9, 1.0), few.vector).vectors) == 2
    assert len(family.spread(2)) == 2 and torch.equal(family.spread(99), family.vectors)


def test_effects_are_measured_when_they_are_asked_for_and_once(tmp_path: Path) -> None:
    asked: list[int] = []
    made = followed(tmp_path)

    def response(theta: Tensor) -> Tensor:
        asked.append(len(theta))
        return made.response(theta)

    family = replace(made, response=response).family()
    assert len(family.vectors) > 3 and not asked
    before = family.effects
    assert not before.isnan().any() and len(asked) == len(before) and torch.equal(family.effects, before)
    assert torch.equal(followed(tmp_path).family().effects, before)
    few = followed(tmp_path / "few").family(most=3)
    first = few.effects
    assert torch.equal(followed(tmp_path / "few").family().effects[:3], first)  # the rest is measured beside


def test_an_interrupted_family_is_continued_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = followed(tmp_path / "whole").family()
    search, made = bases.melbo_ortho, []

    def interrupted(*args: Any, **options: Any) -> Any:
        for result in search(*args, **options):
            made.append(result)
            if len(made) == 4:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(bases, "SAVE_EVERY", 1)
    monkeypatch.setattr(bases, "melbo_ortho", interrupted)
    with pytest.raises(KeyboardInterrupt):
        followed(tmp_path / "parts").family()
    rest = followed(tmp_path / "parts").family()
    assert all(torch.equal(getattr(rest, name), getattr(whole, name)) for name in ("vectors", "losses", "effects"))
    monkeypatch.setattr(bases, "melbo_ortho", None)  # what has ended is only read
    assert torch.equal(followed(tmp_path / "parts").family().vectors, whole.vectors)


def test_a_base_that_makes_sinks_is_not_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, "bomb")
    monkeypatch.setattr(bases, "new_sinks", lambda _, vectors: [0] * len(vectors))
    monkeypatch.setattr(bases, "unsteered_completions", lambda *_: [])
    shown = lambda _, texts, vectors: [[SimpleNamespace(mode="code")] for _ in vectors]  # noqa: E731
    monkeypatch.setattr(bases, "complete", shown)
    first = bases.strongest(bench, SMALL, ("bomb",))["code"]
    monkeypatch.setattr(bases, "new_sinks", lambda _, vectors: [int(torch.equal(v, first)) for v in vectors])
    second = bases.strongest(bench, SMALL, ("bomb",))["code"]
    assert not torch.equal(first, second) and second.norm() == pytest.approx(float(first.norm()), rel=1e-3)


def test_a_place_is_what_the_file_of_its_model_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "MODELS", tmp_path)
    (tmp_path / "a-b.toml").write_text('source = 1\nbehaviours = ["poem"]\nbases = 2\n')
    place = bases.at_model(Place(), "a/b")
    assert (place.model, place.source, place.behaviours, place.bases) == ("a/b", 1, ("poem",), 2)
    small = bases.at_model(Place(bases=1, behaviours=("code",)), "a/b", smoke=True)
    assert (small.source, small.behaviours, small.bases) == (1, ("code",), 1)
    assert bases.at_model(Place(), "unknown").source == Place.source
    (tmp_path / "a-b.toml").write_text("sauce = 1\n")
    with pytest.raises(ValueError, match=r"a-b.toml with sauce; expected settings of a place"):
        bases.at_model(Place(), "a/b")


def test_what_is_kept_of_a_base_is_named_by_all_it_depends_on() -> None:
    def key(place: Place, **changes: Any) -> dict[str, object]:
        values = {"behaviour": "code", "index": 0, "texts": ("a",), **changes}
        return bases.key_of(bench_of(), place, **values)

    same = key(Place())
    assert key(Place(bases=9, most=5, most_kl=3, behaviours=("x",))) == same
    others = (key(Place(radius=1.0)), key(Place(), texts=("b",)), key(Place(), index=1), key(Place(seed=2)))
    assert all(other != same for other in others)


def test_a_family_ends_only_where_all_of_the_last_vectors_lost_it() -> None:
    def ended(lost: list[float], left: int = 0) -> bool:
        return bases.has_ended({"lost": torch.tensor(lost), "counts": torch.tensor([len(lost), 0, left])}, 3)

    assert ended([0, 0, 1, 1, 1]) and ended([0, 0], left=1)
    assert not ended([1, 1, 0, 1, 1]) and not ended([1, 1, 1, 0]) and not ended([1, 1])
