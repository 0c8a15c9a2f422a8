"""The replication of the published experiment: which bases, which commands, and a page from finished runs only."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_run import HOSTILE, records

import mi_ortho as mo
from experiments.__main__ import main
from experiments.lab import post
from experiments.lab.post import choose, finished, members, replicate, replication
from experiments.lab.post_page import write_post
from mi_ortho.runs import start

MODES = ("code", "list", "other", "story", "list", "incoherent", "identity", "code", "refuse")


def melbo_run(folder: Path, modes: tuple[str, ...] = MODES) -> None:
    with start(folder, "melbo", {}, at=folder / "melbo") as run:
        run.record({"kind": "unsteered", "mode": "other", "text": "x"})
        for index, mode in enumerate(modes):
            run.record(
                {"kind": "melbo", "index": index, "mode": mode, "objective": 100.0 + (7 * index) % 5, "text": "x"}
            )
        run.save_tensors("candidates", {"melbo": torch.eye(len(modes), 12)})
        run.summary({"headline": "x"})


def family_run(place: Path, settings: dict[str, Any]) -> None:
    with start(place.parent, "family", settings, at=place) as run:
        for k, row in enumerate(records(sizes={"activation": 32, "kl": 8})):
            text = HOSTILE[k % len(HOSTILE)] if row["kind"] in ("vector", "mean", "base") else row.get("text")
            run.record({"last_kl_vector_base": 0.5, **row, "text": f"a|b `c` {text}"})
        run.summary({"headline": "x"})


def options_of(words: list[str]) -> dict[str, str]:
    pairs = zip(words[4:], words[5:])
    return {a[2:]: b for a, b in pairs if a.startswith("--") and not b.startswith("--")}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run; each leaves a small finished run."""
    seen: list[list[str]] = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        seen.append(words)
        options, place = options_of(words), Path(words[words.index("--at") + 1])
        if words[3] == "melbo":
            melbo_run(place.parent)
        else:
            sizes = {"n": int(options["n"]), "n_kl": int(options["n-kl"]), "until_lost": int(options["until-lost"])}
            family_run(place, sizes)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(post, "subprocess", SimpleNamespace(run=run))
    return seen


def test_bases_are_code_and_the_behaviours_that_move_most(tmp_path: Path) -> None:
    melbo_run(tmp_path)
    run = mo.open_run(tmp_path / "melbo")
    # objectives 100 + 7 k mod 5: of the two lists the second moves more, and no base is other or incoherent
    assert list(choose(run, 4).items()) == [("code", 7), ("list", 4), ("identity", 6), ("story", 3)]
    assert list(choose(run, 6)) == ["code", "list", "identity", "story", "refuse", "answer-2"]  # no rule names it
    with pytest.raises(ValueError, match="expected code and 6 others"):
        choose(run, 7)


def test_without_code_there_is_no_replication(tmp_path: Path) -> None:
    melbo_run(tmp_path, ("list", "story", "refuse"))
    with pytest.raises(ValueError, match="show .*; expected code"):
        choose(mo.open_run(tmp_path / "melbo"), 2)


def test_every_family_is_one_command_with_the_settings_of_the_file(tmp_path: Path, commands: list[list[str]]) -> None:
    what = replication("smollm2")
    replicate(what, tmp_path, workers=1, threads=1, device="cpu")
    assert [words[3] for words in commands] == ["melbo"] + ["family"] * 8
    families = [options_of(words) for words in commands[1:]]
    assert [one["norm-cap"] for one in families] == ["2.86"] * 4 + ["1.6"] * 4
    assert [one["n-kl"] for one in families] == ["64"] + ["0"] * 7  # one is matched on distributions, too
    assert "--no-shrink" in commands[1] and families[0]["source"] == "10"
    base = mo.load_vectors(Path(families[0]["base"]))
    assert base.vectors.argmax().item() == 7 and base.meta["behaviour"] == "code" and base.site == mo.resid_post(10)
    assert len({one["at"] for one in families}) == 8


def test_a_command_that_fails_ends_the_replication_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = SimpleNamespace(run=lambda words, **_: subprocess.CompletedProcess(words, 2))
    monkeypatch.setattr(post, "subprocess", failing)
    with pytest.raises(ValueError, match=r"exit code 2 from `mi-ortho melbo --at .*continues"):
        replicate(replication("smollm2"), tmp_path, workers=1, threads=1, device="cpu")


def test_the_page_is_written_from_what_is_finished(
    tmp_path: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["post", "--model", "smollm2", "--out", str(tmp_path / "runs"), "--to", str(tmp_path)]
    assert main(asked) == 0
    page = tmp_path / "the-post-on-smollm2.md"
    assert str(page) in capsys.readouterr().out
    text = page.read_text("utf-8")
    rows = [row for row in records(sizes={"activation": 32, "kl": 8}) if row["kind"] == "vector"]
    kept = sum(row["keeps"] for row in rows if row["match"] == "activation")
    assert "Of 32 mutually orthogonal vectors" in text and f"{kept} show the base's behaviour (code)" in text
    assert text.count("python -m experiments post --model smollm2") == 1
    for name in ("kept", "code-norms", "code-last-kl", "code-losses"):
        assert (tmp_path / f"the-post-on-smollm2-{name}.svg").is_file() and f"({page.stem}-{name}.svg)" in text
    written = [line for line in text.splitlines() if "a¦b ˋcˋ" in line]
    assert len(written) > 50 and "<script" in text
    assert all(line.count("`") == 2 for line in written)  # what the model wrote is all inside one piece of code
    assert {line.count("|") for line in written if line.startswith("|")} == {9}  # and inside one cell
    (tmp_path / "runs" / "post-smollm2" / "list-1.6" / "summary.json").unlink()
    what = replication("smollm2")
    left = list(finished(what, tmp_path / "runs"))
    assert len(left) == len(members(what, ["code", "list", "identity", "story"])) - 1
    assert "1 of its families are not finished" in write_post(what, left, tmp_path).read_text("utf-8")


def test_without_a_finished_family_there_is_no_page(tmp_path: Path) -> None:
    what = replication("smollm2")
    assert not list(finished(what, tmp_path))
    with pytest.raises(ValueError, match="no finished family"):
        write_post(what, [], tmp_path)


def test_models_without_settings_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["post", "--model", "gpt2"]) == 2
    assert "expected Qwen/Qwen1.5-1.8B-Chat or smollm2" in capsys.readouterr().err
