"""The summary page: sentences stand only on intervals that carry them, and the rest is listed as it was measured."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from experiments.lab.claims import load, names
from experiments.lab.earlier import earlier, statements
from experiments.lab.paper import CAPS, FAMILIES, TEMPLATE, Quoting, by_norm, forest, paper, write_paper
from experiments.lab.results import correct
from mi_ortho import Verdict
from mi_ortho.stats import Gate


def verdict(supported: bool | None, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        **{"claim": "Is a | large?", "prediction": "p", "statistic": "share", "separates": "large from small"},
        **{"value": 0.75, "interval": (0.5, 0.9), "threshold": 0.5, "control": 0.125, "supported": supported},
        **{"n": 8, "unit": "base", "detectable": 0.3},
    }
    return asdict(Verdict(**{**values, **changes}))


def entry(name: str, model: str, *verdicts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    plain = {"experiment": name, "model": model, "verdicts": verdicts, "confirmatory": [True], "sides": ["at least"]}
    return {**plain, "keys": ["size", "growth"][: len(verdicts)], "rows": [], **changes}


def base(k: int, specific: float) -> dict[str, Any]:
    numbers = {"norm": 2.0, "of_stream": 0.1, "displacement": 9.0, "random_displacement": 3.0, "works": 1.0}
    texts = {"prompt": "Why?", "unsteered": "No.", "text": "x = 1"}
    return {"kind": "base", "behaviour": "code", "base": k, "specific": specific, **numbers, **texts}


def count(k: int, times: float, found: int) -> dict[str, Any]:
    return {"kind": "count", "behaviour": "code", "base": k, "times": times, "loss": 0.7, "found": found} | {
        "linear": 2,
        "bound": 3.5,
    }


@pytest.fixture
def entries() -> list[dict[str, Any]]:
    grown = [base(0, 0.1), base(1, 56.0), *(count(k, times, 10 + 90 * k) for k in (0, 1) for times in (1.0, 2.0))]
    family = [{"kind": "count", "behaviour": "code", "base": 0, "group": "random", "found": 4}]
    return [
        entry(CAPS, "large", verdict(True), verdict(None, claim="Does it grow?"), rows=grown),
        entry(CAPS, "small", verdict(False, value=0.1, interval=(0.0, 0.2))),
        entry(FAMILIES, "large", verdict(None, claim="Is it within?"), sides=["within"], rows=family),
    ]


def test_a_sentence_stands_only_where_the_whole_interval_carries_it(entries: list[dict[str, Any]]) -> None:
    quoting = Quoting(correct(entries))
    assert (
        "0.75 [0.50, 0.90], 8 bases" in (text := quoting.above(CAPS, "size", "large", 0.5)) and f"({CAPS}.md)" in text
    )
    assert "0.1" in quoting.below(CAPS, "size", "small", 0.2) and quoting.within(CAPS, "size", "large", 0.4, 1.0)
    for refused in (
        lambda: quoting.above(CAPS, "size", "large", 0.6),
        lambda: quoting.below(CAPS, "size", "large", 0.8),
        lambda: quoting.within(CAPS, "size", "small", -1.0, 0.1),
    ):
        with pytest.raises(ValueError, match=r"expected a valid interval between .* a sentence of why-hundreds"):
            refused()
    with pytest.raises(ValueError, match="got no result of .* run `python -m experiments"):
        quoting.measured(FAMILIES, "size", "small")


def test_a_failed_instrument_carries_no_sentence(entries: list[dict[str, Any]]) -> None:
    broken = verdict(True, gates=(Gate("works", 0.0, 0.5, False, "at least"),))
    quoting = Quoting(correct([entry(CAPS, "large", broken)]))
    with pytest.raises(ValueError, match="invalid"):
        quoting.above(CAPS, "size", "large", 0.5)


def test_models_that_differ_are_said_to(entries: list[dict[str, Any]]) -> None:
    quoting = Quoting(correct(entries))
    central = quoting.questions(central=True).splitlines()
    assert len(central) == 2 and central[0].endswith("The models differ.") and "Asked of one model." in central[1]
    assert "large **" in central[0] and "small **not supported**" in central[0]
    assert quoting.questions(central=False).count("Does it grow?") == 1
    agreed = Quoting(correct([entries[1], {**entries[1], "model": "other"}])).questions(central=True)
    assert agreed.endswith("All 2 models agree.")
    table = quoting.power().splitlines()
    assert len(table) == 4 and all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in table)


def test_bases_that_random_vectors_imitate_are_not_drawn(entries: list[dict[str, Any]]) -> None:
    lines = by_norm(Quoting(correct(entries)), "large")
    assert lines is not None and by_norm(Quoting(correct(entries)), "small") is None
    drawn = {one.label: list(one.y) for one in lines.series}
    assert drawn == {
        "the family": [10, 10],
        "search on the linear map": [2, 2],
        "bound": [3.5, 3.5],
        "random base": [5],
    }


def test_readings_that_belong_within_are_drawn_by_their_difference(entries: list[dict[str, Any]]) -> None:
    svg = forest(Quoting(correct(entries)))
    assert svg.count("<svg") == 1 and "Is it within?" in svg and "measured ÷ threshold" in svg
    far = [entry(CAPS, "m", verdict(None, threshold=0.0, value=1e9, interval=None))]
    assert "<svg" in forest(Quoting(correct(far)))  # neither a threshold of 0 nor a huge value breaks the drawing


def test_the_page_and_its_figures_are_written(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    plain = "{{ questions(central=True) }}{% for file, caption in figures %}![{{ caption }}]({{ file }}){% endfor %}"
    assert "why-hundreds-large.svg" not in paper(correct(entries), plain)
    pages = write_paper(correct(entries), tmp_path, plain)
    assert [path.name for path in pages] == ["why-hundreds.md", "why-hundreds-forest.svg", "why-hundreds-large.svg"]
    assert "(why-hundreds-large.svg)" in pages[0].read_text("utf-8") and all(path.is_file() for path in pages)


def test_what_was_said_earlier_stands_beside_what_is_said_now(entries: list[dict[str, Any]]) -> None:
    every = statements()
    assert len(every) == 98 and {one.claim for one in every} == set(names())
    for one in every:
        predictions = load(one.claim).predictions
        assert one.why and (predictions is None or one.now in predictions.each), one
    first = every[0]
    changed = entry(first.claim, "embedded", verdict(None, interval=(0.1, 0.9)), keys=[first.now])
    lines = earlier(correct([changed])).splitlines()
    row = next(line for line in lines if first.words in line)
    assert f"| {first.verdict} | **changed** embedded: undecided (0.75, control 0.125) |" in row and first.why[0] in row
    assert (
        "Of the 1 that have been asked again" in " ".join(lines)
        and sum("not asked again yet" in line for line in lines) == 97
    )
    kept = entry(first.claim, "embedded", verdict(False, value=0.1, interval=(0.0, 0.2)), keys=[first.now])
    assert "changed** " not in earlier(correct([kept]))


def test_the_template_quotes_known_experiments_and_shows_no_measured_number_of_its_own() -> None:
    text = TEMPLATE.read_text(encoding="utf-8")
    quoted = set(re.findall(r"'([a-z_]{12,})'", text))
    assert quoted <= set(names())
    prose = re.sub(r"```.*?```|`[^`]*`|\{[{%].*?[%}]\}|\]\([^)]*\)|^#.*?$", " ", text, flags=re.DOTALL | re.MULTILINE)
    numbers = set(re.findall(r"\d+(?:\.\d+)?", prose))
    assert numbers <= {"2024", "800", "128", "576", "64", "16", "2", "135", "95", "80", "0", "1", "05", ".05"}, numbers
