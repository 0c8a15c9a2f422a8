"""Files of prompts in every form people have them, and one line with the row for every form that cannot be read."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mi_ortho.model.prompt_files import LONGEST, read_prompts, read_texts
from mi_ortho.model.prompt_sets import PromptSet, load_prompts, shipped_prompts

TWO = ("Tell me about kites.", 'Say "hé, you", twice')

FORMS = {
    "list.json": json.dumps(list(TWO)),
    "objects.json": json.dumps([{"instruction": TWO[0], "input": ""}, {"instruction": TWO[1]}]),
    "alpaca.json": json.dumps([{"instruction": "left out", "input": "more"}, *({"instruction": t} for t in TWO)]),
    "upper.json": json.dumps([{"Prompt": t, "id": 3} for t in TWO]),
    "train.json": json.dumps({"train": list(TWO), "held_out": ["another"]}),
    "data.json": json.dumps({"version": 1, "data": [{"question": t} for t in TWO]}),
    "lines.jsonl": "\n".join(json.dumps({"goal": t}) for t in TWO) + "\n\n",
    "texts.ndjson": "\r\n".join(json.dumps(t) for t in TWO),
    "advbench.csv": 'goal,target\n"Tell me about kites.","Sure, here is"\n"Say ""hé, you"", twice",Sure\n',
    "spaced.csv": 'id, Text \n1,Tell me about kites.\n2,"Say ""hé, you"", twice"\n',
    "table.tsv": 'behavior\tx\nTell me about kites.\t1\n"Say ""hé, you"", twice"\t2\n',
    "plain.txt": f"{TWO[0]}\n\n{TWO[1]}\n",
    "noending": f"{TWO[0]}\r\n{TWO[1]}",
}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_prompts(tmp_path, name: str, mark: bytes) -> None:
    (tmp_path / name).write_bytes(mark + FORMS[name].encode())
    assert read_prompts(tmp_path / name) == TWO
    assert load_prompts(str(tmp_path / name)).instructions == TWO


BAD = {
    "missing.json": (None, "does not exist"),
    "utf16.txt": ("kite".encode("utf-16"), "UTF-16"),
    "latin.txt": ("ok\nok\nhé".encode("latin-1"), "row 3"),
    "nul.txt": (b"ok\nki\0te", "row 2"),
    "empty.txt": (b"\n  \n", "holds no prompts"),
    "number.json": (b"3", "holds no list"),
    "text.json": (b'{"train": "abc"}', "holds no list"),
    "other.json": (b'{"a": 1}', "an object of a"),
    "torn.json": (b'["a", ', "no JSON"),
    "deep.json": (b"[" * 100_000, "nested too deeply"),
    "mixed.json": (b'["a", 3]', "row 2"),
    "keys.json": (b'[{"words": "a"}]', "row 1, of words"),
    "null.json": (b'[{"prompt": null}]', "row 1"),
    "torn.jsonl": (b'"a"\n\n{"prompt": ', "row 3"),
    "half.json": (b'["\\ud800"]', "lone surrogate"),
    "names.csv": (b"words,more\na,b\n", "columns words, more"),
    "short.csv": (b"id,goal\n1,a\n2\n", "row 3"),
    "quote.csv": (b'goal\n"a" b\n', "no row of a table"),
    "long.txt": (b"a" * (LONGEST + 1), "row 1, of"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_one_line_with_its_row(tmp_path, name: str) -> None:
    content, wanted = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="expected") as error:
        read_prompts(tmp_path / name)
    assert wanted in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 600
    assert name in str(error.value)


def test_a_column_can_be_named(tmp_path) -> None:
    path = tmp_path / "two.csv"
    path.write_text("goal,target\na,b\n")
    assert read_prompts(path, column="target") == ("b",)
    with pytest.raises(ValueError, match="one called words"):
        read_prompts(path, column="words")


def test_texts_that_name_files_are_read(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    (tmp_path / "my prompts.csv").write_text("prompt\nthree\n")
    assert read_texts(["zero", "p.txt", "@p.txt"]) == ("zero", "one", "two", "one", "two")
    assert read_texts(["my prompts.csv"]) == ("three",)
    kept = [
        "What is in a file.txt or p.txt?",
        "@ home",
        "a" * 5000,
        "",
        "See notes.json\nand more",
        "e-mail me @noon please",
    ]
    assert read_texts(kept) == tuple(kept)
    for missing in ("q.txt", "@q", "folder/x.JSONL", "q.csv"):
        with pytest.raises(ValueError, match="does not exist"):
            read_texts([missing])


def test_large_files_are_read_in_linear_time(tmp_path) -> None:
    (tmp_path / "large.txt").write_text("a prompt\n" * 200_000)
    (tmp_path / "large.csv").write_text("goal\n" + "a prompt\n" * 200_000)
    began = time.process_time()
    assert len(read_prompts(tmp_path / "large.txt")) == len(read_prompts(tmp_path / "large.csv")) == 200_000
    assert time.process_time() - began < 20  # two seconds here; a quadratic reader takes minutes


def test_prompt_sets_from_files(tmp_path: Path) -> None:
    rows = [{"instruction": "a"}, {"instruction": "b"}, {"instruction": "a"}, {"instruction": "c", "input": "more"}]
    (tmp_path / "set.json").write_text(json.dumps(rows))
    assert load_prompts(str(tmp_path / "set.json")) == PromptSet("set", ("a", "b"))
    (tmp_path / "plain.json").write_text(json.dumps(["x", "y"]))
    assert load_prompts(str(tmp_path / "plain.json")).instructions == ("x", "y")
    (tmp_path / "other.json").write_text(json.dumps([{"words": "a"}]))
    with pytest.raises(ValueError, match="of words; expected a text as one of instruction"):
        load_prompts(str(tmp_path / "other.json"))
    assert load_prompts(str(tmp_path / "other.json"), column="words").instructions == ("a",)
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no prompts"):
        load_prompts(str(tmp_path / "empty.json"))
    with pytest.raises(ValueError, match="does not exist"):
        load_prompts(str(tmp_path / "missing.json"))


def test_a_data_set_needs_its_package(monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install datasets"):
        load_prompts("some/name")


def test_shipped_prompts_are_two_sets_of_the_same_forms() -> None:
    harmful, harmless = shipped_prompts("harmful"), shipped_prompts("harmless")
    assert len(harmful) == len(harmless) == 32 and not set(harmful.instructions) & set(harmless.instructions)
    first = [[text.split()[0] for text in one.instructions] for one in (harmful, harmless)]
    assert first[0] == first[1]
    with pytest.raises(ValueError, match="expected harmful or harmless"):
        shipped_prompts("both")


def test_splits_are_disjoint_and_shrink_in_proportion() -> None:
    parts = PromptSet("s", tuple(map(str, range(10)))).split(16, 4, seed=1)
    assert [len(p) for p in parts] == [8, 2] and len({t for p in parts for t in p.instructions}) == 10
    for sizes in ((96, 1, 1), (1, 96, 1), (1, 1, 96), (1000, 1, 1), (3, 3, 3)):  # none may shrink to nothing
        parts = PromptSet("s", tuple(map(str, range(72)))).split(*sizes, seed=2)
        lengths, drawn = [len(p) for p in parts], [t for p in parts for t in p.instructions]
        assert min(lengths) >= 1 and len(set(drawn)) == len(drawn) == min(sum(sizes), 72)
        assert lengths.index(max(lengths)) == sizes.index(max(sizes))
    with pytest.raises(ValueError, match="for 3 parts"):
        PromptSet("s", ("a", "b")).split(1, 1, 1, seed=0)
    with pytest.raises(ValueError, match="at least 1 each"):
        PromptSet("s", ("a", "b")).split(2, 0, seed=0)
