"""The report of `mi-ortho nulls`: each null model's prediction beside what was measured, drawn from the records."""

from pathlib import Path

from mi_ortho.nulls.chance import CONTROLS
from mi_ortho.pages.sections import glossary, left_out_section, write_report
from mi_ortho.runs.directory import open_run
from mi_ortho.studies.nulls.page_linear import gradients_section, linear_section
from mi_ortho.studies.nulls.page_shape import completions_section, composition_section, dose_section
from mi_ortho.studies.nulls.page_structure import clusters_section, multiplicity_section, spectrum_section

PARTS = (
    *(linear_section, gradients_section, dose_section, completions_section),
    *(composition_section, spectrum_section, multiplicity_section, clusters_section),
)


def nulls_report(run_dir: Path) -> Path:
    """Write report.html of a run of `mi-ortho nulls` and return its path."""
    rows = open_run(run_dir).records()
    sections = [section for part in PARTS if (section := part(rows)) is not None]
    left_out = [section for section in [left_out_section(rows)] if section is not None]
    return write_report(Path(run_dir), "Null models", [*sections, *left_out, glossary(TERMS)])


TERMS = (
    (
        "effect",
        "a number as a share of what the base does to it: 0 unsteered, 1 under the base. For the KL match the "
        "log-odds of the base's answers against the unsteered ones; for the activation match the displacement of "
        "the target activations along the base's.",
    ),
    ("works", "reaches the threshold, half of the base's effect unless set otherwise"),
    (
        "ridge capacity",
        "the most orthogonal vectors of a norm and loss that a linear map allows: (norm / shortest norm "
        "with that loss)²",
    ),
    (
        "mean Jacobian",
        "averaged along the straight path from 0 to the base, where its product with the base is exactly "
        "the base's displacement",
    ),
    ("critical scale s*(n)", "the smallest factor at which the mean of n vectors works"),
    ("composition exponent", "1 / (1 − slope of log s* on log n); 99 where s* grows like n or faster"),
    ("effective rank", "exp of the entropy of the normalised singular values of the unit vectors"),
    (CONTROLS["mixture"].label, "differences of two Gaussian draws with the covariance of real activations"),
)
