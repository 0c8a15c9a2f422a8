"""How answers of each mode begin, as SmolLM2-135M-Instruct writes them: what a graded judgement teacher-forces.

Short beginnings that do not name what was asked for, taken from its unsteered answers.
"""

from collections.abc import Mapping

CHAT_OPENINGS: Mapping[str, tuple[str, ...]] = {  # few, since every vector is tried on all of them
    "code": ("Here's a Python function that", "```python\ndef", "```python\nimport"),
    "json": ('{\n  "name":', '```json\n{\n    "', '{"name":'),
    "refuse": ("I'm sorry, but I", "I can't help", "I cannot provide"),
    "identity": ("I'm an AI designed to", "I'm here to assist you", "My name is"),
    "language": ("La ", "El ", "Je ", "Das ist ein"),
    "mathematics": ("To solve this equation, we", "To calculate", "To find the derivative of"),
    "list": ("1. **", "Here are three", "Here is a list of"),
    "poem": ("In the heart of the night,", "In twilight's hush, where shadows play,", "Roses are red,"),
    "story": ("Once upon a time, there was", "One day, in a small village", "As the sun dipped into the horizon,"),
    "other": ("The answer to this question", "There are several", "The most"),
}
