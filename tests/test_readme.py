"""The README's code runs, and what it points to exists."""

import re
from pathlib import Path

from mi_ortho.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_the_python_of_the_readme_runs(capsys):
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert re.fullmatch(r"[A-Z_]+ norm [\d.]+, relative loss [\d.]+\n", capsys.readouterr().out)


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_of_the_readme_are_understood(capsys):
    commands = re.findall(r"^mi-ortho (.+)$", README, re.MULTILINE)
    assert commands
    for command in commands:
        words = command.split()
        options = [word for word in words if word.startswith("--")]
        main([words[0], "--help"])
        text = capsys.readouterr().out
        assert all(option in text for option in options), command


def test_targets_of_the_readme_exist():
    rules = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"^make (\S+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", rules, re.MULTILINE), target
