"""The summary page: quotes are what finished runs hold, and a sentence for another outcome stops it."""

import json
import re
from pathlib import Path

import pytest

from experiments.lab.claims import names
from experiments.lab.paper import TEMPLATE, Quoting, paper
from mi_ortho import Run, open_run


def finished(folder: Path, *verdicts: dict[str, object]) -> Run:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "summary.json").write_text(json.dumps({"seconds": 1800.0, "verdicts": verdicts}))
    return open_run(folder)


def verdict(supported: bool | None, **changes: object) -> dict[str, object]:
    return {
        "claim": "a | claim <b>",
        "prediction": "p",
        "statistic": "s",
        "value": 1.5,
        "interval": [1.0, 2.0],
        "threshold": 0.25,
        "control": 0.125,
        "supported": supported,
        **changes,
    }


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Run]:
    return {
        "first": finished(tmp_path / "first", verdict(True), verdict(None, interval=None, value=None)),
        "second": finished(tmp_path / "second", verdict(False)),
    }


def test_quotes_are_what_the_runs_hold(runs: dict[str, Run]) -> None:
    quoted = "{{ measured('first') }}, {{ control('first') }}, {{ threshold('first') }}, {{ outcome('second') }}"
    text = paper(runs, quoted)
    assert text == "1.5 [1, 2], 0.125, 0.25, [not supported](second.md)"
    assert paper(runs, "{{ hours() }}") == "1"
    assert Quoting(runs).tally() == {"supported": 1, "not_supported": 1, "undecided": 1, "invalid": 0, "all": 3}


def test_a_row_for_each_verdict_and_nothing_that_breaks_a_table(runs: dict[str, Run]) -> None:
    lines = paper(runs, "{{ row('first') }}").splitlines()
    assert len(lines) == 2 and all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in lines)
    assert "<b>" not in lines[0] and lines[1].endswith("| [undecided](first.md) |")


def test_a_sentence_for_another_outcome_stops_the_page(runs: dict[str, Run]) -> None:
    assert paper(runs, "{{ given('first', 1, 'supported') }}so it is") == "so it is"
    with pytest.raises(ValueError, match="got verdict 'not supported' in second"):
        paper(runs, "{{ given('second', 1, 'supported') }}so it is")


@pytest.mark.parametrize(("name", "k", "said"), [("third", 1, "no finished run of third"), ("first", 3, "verdict 3")])
def test_what_is_not_there_is_named(runs: dict[str, Run], name: str, k: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Quoting(runs).verdict(name, k)


def test_the_page_quotes_known_experiments_and_shows_no_number_of_its_own() -> None:
    text = TEMPLATE.read_text(encoding="utf-8")
    quoted = {name for name in re.findall(r"'([a-z_]{12,})'", text) if name != "not_supported"}
    assert quoted and quoted <= set(names())
    prose = re.sub(r"```.*?```|`[^`]*`|\{[{%].*?[%}]\}|\]\([^)]*\)|^#.*?$", " ", text, flags=re.DOTALL | re.MULTILINE)
    numbers = set(re.findall(r"\d+(?:\.\d+)?", prose))
    assert numbers <= {"2024", "800", "128", "8", "95"}, numbers
