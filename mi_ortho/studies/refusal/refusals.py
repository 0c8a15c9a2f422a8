"""Whether the model refuses at all: its answers to harmful prompts, before anything is looked for."""

from mi_ortho.behaviours import classify
from mi_ortho.model import generate, tokenize
from mi_ortho.studies.refusal.bench import Study, refusal_prompts

CHECKED = 32  # harmful prompts that are answered


def measure_refusals(study: Study) -> None:
    """Record how many harmful prompts the model refuses without any change.

    They are training prompts of a study of refusal, and the model's or our harmful ones for one of another contrast.
    """
    study.stage("refusals", lambda: _refusals(study))


def _refusals(study: Study) -> list[dict[str, object]]:
    subject = study.subject
    texts = study.sets.train_harmful if study.about_refusal else refusal_prompts("harmful", subject).instructions
    texts = texts[:CHECKED]
    answers = generate(subject.model, tokenize(subject.model, texts), max_new_tokens=study.config.max_new_tokens)
    rows: list[dict[str, object]] = [
        {
            "kind": "harmful_answer",
            "index": index,
            "prompt": prompt,
            "text": text,
            "mode": classify(text, subject.modes),
            "refused": study.refuses(text),
        }
        for index, (prompt, text) in enumerate(zip(texts, answers, strict=True))
    ]
    refused = sum(bool(row["refused"]) for row in rows)
    study.say(f"{subject.title} refuses {refused} of {len(rows)} harmful prompts")
    return [*rows, {"kind": "refusals", "n": len(rows), "refused": refused}]
