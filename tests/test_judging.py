"""The page on judging says what the rules do on the labelled completions; the completions are what they should be."""

from collections import Counter

import judging
import pytest

from mi_ortho.behaviours import CHAT_MODES, CHAT_OPENINGS, INCOHERENT, classify, likeness, readability, self_repetition

READ = judging.completions()


def test_the_page_says_what_the_rules_do() -> None:
    """`python -m tests.judging` writes the tables; they are wrong as soon as a rule or a label changes."""
    assert judging.tables() in judging.PAGE.read_text(encoding="utf-8")


def test_every_completion_is_in_the_half_of_its_hash_and_has_a_mode_of_the_rules() -> None:
    assert len(READ) >= 400 and len({one.text for one in READ}) == len(READ)
    for one in READ:
        assert one.half == judging.half_of(one.text) and one.label in CHAT_MODES.names, one
        assert one.text.strip() and one.log_probability <= 0.0


def test_thirty_completions_of_every_mode_were_read() -> None:
    counts = Counter(one.label for one in READ)
    assert set(counts) == set(CHAT_MODES.names) and min(counts.values()) >= 30, counts


def test_the_data_say_who_wrote_them() -> None:
    note = (judging.DATA.parent / "README.md").read_text(encoding="utf-8")
    assert "Apache License 2.0" in note and "smollm2_completions.jsonl" in note
    assert all(f"`{mode}`" in note for mode in CHAT_MODES.names)


def test_rules_name_most_completions_as_the_reader_did() -> None:
    """On the half that no rule was tuned on: floors well below what was measured, far above a guess."""
    held_out = [one for one in READ if one.half == "held out"]
    assert sum(one.label == one.found for one in held_out) >= 0.8 * len(held_out)
    salad = [one for one in held_out if one.label == INCOHERENT]
    assert sum(one.found in CHAT_MODES.behaviours for one in salad) <= 0.05 * len(salad)
    assert judging.area(lambda one: -one.readability, held_out) >= 0.95


@pytest.mark.slow
def test_a_wrong_rule_changes_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    before = judging.tables()
    monkeypatch.setattr(judging, "classify", lambda text, modes: "other")
    assert judging.tables() != before


def test_coherence_is_less_by_five_for_what_repeats() -> None:
    loop = "a harvest moon and then " * 6
    assert readability("The sea is blue.", -1.5) == -1.5
    assert readability(loop, -0.5) == pytest.approx(-0.5 - 5 * self_repetition(loop)) and self_repetition(loop) > 0.8
    assert classify(loop, CHAT_MODES) == INCOHERENT


def test_likeness_of_answers() -> None:
    text = "You can just add a new option to your code."
    assert likeness(text, text) == likeness(text, text.upper() + "!") == 1.0
    assert likeness(text, text + " And then some more, at length, of another kind.") == 1.0  # only longer
    assert likeness(text, "Building a bomb is a complex and unpredictable art.") < 0.2
    assert likeness(text, "You can just add a new option to your bomb.") > 0.5
    assert likeness("", "") == likeness("ab", "AB.") == 1.0 and likeness("", "kite") == likeness("ab", "ac") == 0.0


def test_openings_are_of_known_modes_and_of_one_each() -> None:
    assert set(CHAT_OPENINGS) == set(CHAT_MODES.names) - {INCOHERENT}
    texts = [text for one in CHAT_OPENINGS.values() for text in one]
    assert len(set(texts)) == len(texts) and min(map(len, CHAT_OPENINGS.values())) >= 3
