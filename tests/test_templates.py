"""Chat templates are foreign programs: what they render, and that they end."""

import sys
import time
from collections.abc import Callable
from typing import Any

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


HUGE = {
    "text": "{{ 'a' * 10**10 }}",
    "text, other way": "{{ 10**10 * 'a' }}",
    "never reached": "{% if false %}{{ 'a' * 10**10 }}{% endif %}{% set x = [0] * 10**10 %}",
    "list": "{% set x = [0] * 10**10 %}",
    "power": "{{ 10**(10**10) }}",
    "power of a power": "{{ 10**1000**1000 }}",
    "product": "{% set ns = namespace(x=10**9) %}{% for a in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "filter": "{{ 'x' | center(10**10) }}",
    "method": "{{ 'x'.ljust(10**10) }}",
    "method of an expression": "{{ ('x' ~ 'y').zfill(width=10**10) }}",
    "format": "{{ '%10000000000d' % 1 }}",
    "format filter": "{{ '%*d' | format(10**10, 1) }}",
    "format method": "{{ '{:>{w}}'.format(1, w=10**10) }}",
    "mapped": "{{ ['x'] | map('center', 10**10) | list }}",
    "indent": "{{ 'x\ny' | indent(10**10) }}",
    "range": "{% set x = range(10**9) | list %}",
    "doubled": "{% set ns = namespace(s='ab') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "added": "{% set ns = namespace(s=[1]) %}{% for a in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "replaced": "{% set s = 'a' * 10**5 %}{{ s | replace('a', s) }}",
    "replaced by a method": "{% set s = 'a' * 10**5 %}{{ s.replace('a', s) }}",
    "joined": "{% set s = 'a' * 10**6 %}{{ ([s] * 10**4) | join(s) }}",
    "joined by a method": "{% set s = 'a' * 10**6 %}{{ s.join([s] * 10**4) }}",
    "summed": "{% set s = [0] * 10**6 %}{{ ([s] * 10**4) | sum(start=[]) | length }}",
    "written": "{% set s = 'a' * 10**6 %}{% for a in range(9999) %}{{ s }}{% endfor %}",
    "macro": "{% macro m() %}{% for a in range(9999) %}{{ 'a' * 10**6 }}{% endfor %}{% endmacro %}{{ m() }}",
    "kept": "{% set ns = namespace(l=[]) %}{% for a in range(9999) %}{% set ns.l = ns.l + ['a' * 10**6] %}{% endfor %}",
    "lists of lists": "{% set ns = namespace(l=[1]) %}{% for a in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}"
    "{{ ns.l }}",
    "as JSON": "{% set ns = namespace(l=[1]) %}{% for a in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}"
    "{{ ns.l | tojson }}",
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{{ [0] * 10**6 }}{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("name", HUGE)
def test_one_huge_step_is_refused_in_one_line(name: str, with_template: Callable[[str], Model]) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match="chat template") as error:
        tokenize(with_template(HUGE[name] + "{{ messages[-1].content }}"), ["river stone"])
    assert time.process_time() - started < 5 and "\n" not in str(error.value)
    assert "characters or items" in str(error.value)


MODEST = (
    "{{ '-' * 10 }}{{ 2**10 }}{{ '%05.1f' % 1.5 }}{{ 'x' | center(9) }}{{ 'a' ~ 1 ~ none }}{{ [1, 2] + [3] }}",
    "{{ messages | tojson }}{{ messages[0] | string }}{{ messages | map(attribute='role') | join(', ') }}",
    "{{ '{:>5}|{}'.format('a', 1700000000) }}{{ 'a\nb' | indent(4) }}{{ 'a b'.replace(' ', '__').split('_') }}",
    "{{ [1, 2] | sum }}{{ [[1], [2]] | sum(start=[]) }}{{ 'x'.join(['a', 'b']) }}{{ range(5) | batch(2) | list }}",
    "{% macro m(a) %}<{{ a ~ '>' }}{% endmacro %}{{ m(messages[0].content) }}{% set x %}{{ 7 % 4 }}{% endset %}{{ x }}",
)


@pytest.mark.parametrize("template", MODEST)
def test_what_is_not_huge_is_rendered_as_ever(template: str) -> None:
    tokenizer = architectures.model("qwen2").tokenizer
    own = {"chat_template": template, "add_generation_prompt": True, "tokenize": False}

    class Other:
        def apply_chat_template(self, messages: Any, **options: Any) -> str:
            return tokenizer.apply_chat_template(messages, **(options | own))

    for _ in range(3):
        assert render(Other(), USER) == tokenizer.apply_chat_template(USER, **own)
