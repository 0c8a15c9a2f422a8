"""The stages of the command `dct`: spectra, factors, what they do on the model, how many things they are."""

from mi_ortho.transcoding.copies import copy_rows
from mi_ortho.transcoding.findings import summarise
from mi_ortho.transcoding.fitting import RANDOM, agreement_rows, factor_sets, fit, load_fit, scale_rows, stacked
from mi_ortho.transcoding.spectrum import spectrum_rows
from mi_ortho.transcoding.study import Study, check, prepare_study, whole_rows
from mi_ortho.transcoding.trying import trial_rows, unsteered_rows

__all__ = [
    "RANDOM",
    "Study",
    "agreement_rows",
    "check",
    "copy_rows",
    "factor_sets",
    "fit",
    "load_fit",
    "prepare_study",
    "scale_rows",
    "spectrum_rows",
    "stacked",
    "summarise",
    "trial_rows",
    "unsteered_rows",
    "whole_rows",
]
