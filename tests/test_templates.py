"""Chat templates are foreign programs: what they render, and that they end."""

import sys
import time
from collections.abc import Callable

import architectures
import pytest

from mi_ortho.model import Model, tokenize
from mi_ortho.model.templates import STEPS, EndlessTemplate, render
from mi_ortho.refusal.extraction import instruction_suffix

USER = [{"role": "user", "content": "river stone"}]
ENDLESS = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
    "empty bodies": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "recursion": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for a in [[1, 2]] * 9 recursive %}{% for b in range(99999) %}{{ loop.index }}{% endfor %}"
    "{% for c in range(99999) %}{{ c }}{% endfor %}{% endfor %}{% for d in range(99999) %}{{ d }}{% endfor %}",
    "filters": "{% for a in range(99999) %}{{ range(99999) | map('abs') | select('odd') | list | length }}{% endfor %}",
}


@pytest.fixture
def with_template(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Model]:
    """The small model with another template."""

    def give(template: str) -> Model:
        model = architectures.model("qwen2")
        monkeypatch.setattr(model.tokenizer, "chat_template", template)
        return model

    return give


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_said_so(name: str, with_template: Callable[[str], Model]) -> None:
    started = time.process_time()
    with pytest.raises(EndlessTemplate, match=f"more than {STEPS:,} steps") as error:
        tokenize(with_template(ENDLESS[name]), ["river stone"])
    assert time.process_time() - started < 5 and "\n" not in str(error.value) and "chat_template" in str(error.value)


def test_the_suffix_of_an_endless_template_ends_too(with_template: Callable[[str], Model]) -> None:
    with pytest.raises(EndlessTemplate):
        instruction_suffix(with_template(ENDLESS["nested ranges"]))


def test_a_template_renders_as_the_tokenizer_does_it_and_tracing_goes_on_as_before() -> None:
    tokenizer = architectures.model("qwen2").tokenizer
    seen: list[str] = []

    def trace(frame, event, argument):
        seen.append(frame.f_code.co_name)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        text = render(tokenizer, USER)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert text == tokenizer.apply_chat_template(USER, add_generation_prompt=True, tokenize=False)
    assert "river stone" in text


def test_a_template_that_refuses_a_message_is_said_so(with_template: Callable[[str], Model]) -> None:
    with pytest.raises(ValueError, match="chat template refuses"):
        tokenize(with_template("{{ raise_exception('only tools') }}"), ["river stone"])
