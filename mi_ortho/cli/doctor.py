"""`mi-ortho doctor`."""

from typing import Annotated

from cyclopts import Parameter

from mi_ortho.studies.shared.command import app, small_threads

Markdown = Annotated[bool, Parameter(name="--markdown", negative="", help="Print the table as Markdown.")]


@app.command
def doctor(
    *,
    model: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    markdown: Markdown = False,
) -> None:
    """Check a model with the installed libraries and print a table for a bug report; exit code 2 if a check fails.

    Without arguments: the embedded model. A cached step is compared with an uncached one, slices with hooks, padded
    batches with their rows, weights and tokenizer with their files, edits and readouts with a second way.

    Args:
        model: a name or folder instead of the embedded model.
        device: cpu, cuda, cuda:1, mps.
        dtype: float32, bfloat16, float16.
        trust_remote_code: run the code a model brings along.
    """
    import torch

    from mi_ortho.model import load_model
    from mi_ortho.model.check import check_model, machine_facts
    from mi_ortho.studies.shared.subject import device_of, dtype_of

    torch.set_num_threads(small_threads(model))
    try:
        loaded = load_model(model, device=device_of(device), dtype=dtype_of(dtype), trust_remote_code=trust_remote_code)
    except ValueError:  # the versions are what a report needs most
        print("\n".join(f"{name}: {value}" for name, value in machine_facts().items()))
        raise
    report = check_model(loaded)
    print(report.markdown() if markdown else report)
    if not report.passed:
        raise SystemExit(2)
