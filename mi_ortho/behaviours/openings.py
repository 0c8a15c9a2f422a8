"""How answers of each mode begin, as SmolLM2-135M-Instruct writes them: what a graded judgement teacher-forces.

Short beginnings that do not name what was asked for, taken from its unsteered answers.
"""

from collections.abc import Mapping

CHAT_OPENINGS: Mapping[str, tuple[str, ...]] = {
    "code": (
        "Here's a Python function that",
        "```python\ndef",
        "```python\nimport",
        "```javascript\nfunction",
        "```bash\n#!/bin/bash",
        "#include <stdio.h>",
        "import random",
    ),
    "json": ('{\n  "name":', '```json\n{\n    "', '{"name":', "Here is the JSON file:\n\n```json", '[\n  {\n    "'),
    "refuse": (
        "I'm sorry, but I",
        "I can't help",
        "I cannot provide",
        "I'm not able to",
        "As an AI language model, I cannot",
        "Unfortunately, I'm unable to",
    ),
    "identity": (
        "I'm an AI designed to",
        "I'm a helpful AI",
        "I'm here to assist you",
        "I'm a chatbot designed",
        "My name is",
        "Hello! I'm",
    ),
    "language": ("La ", "El ", "Je ", "Das ist ein", "Il est", "Ich bin", "什么是", "Что такое"),
    "mathematics": (
        "To solve this equation, we",
        "To calculate",
        "To find the derivative of",
        "12 + 7 =",
        "x = ",
        "The formula for",
    ),
    "list": ("1. **", "1. The", "Here are three", "Here is a list of", "- ", "* "),
    "poem": (
        "In the heart of the night,",
        "In twilight's hush, where shadows play,",
        "Roses are red,",
        "In the depths of the blue,",
        "A gentle",
    ),
    "story": (
        "Once upon a time, there was",
        "One day, in a small village",
        "In the sleepy town of",
        "As the sun dipped into the horizon,",
        "It was a dark night",
        "There once was a",
    ),
    "other": ("The answer to this question", "It is a", "There are several", "The most", "This is a", "You can"),
}
