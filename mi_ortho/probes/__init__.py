"""Are vectors present in real activations? Streaming measurements, their null models, and linear probes."""

from mi_ortho.probes.linear import FitProbe, LinearProbe, discriminant_probe, logistic_probe
from mi_ortho.probes.nullspace import NullspaceProbes, nullspace_probes, shuffled_labels
from mi_ortho.probes.sampling import Reservoir, Strongest, reservoir, strongest
from mi_ortho.probes.second_moments import (
    SecondMoments,
    batched_second_moments,
    class_difference,
    cosines_with,
    mean_shares,
    no_second_moments,
    second_moments,
    sign_coherence,
    variance_explained,
)
from mi_ortho.probes.separation import (
    PresenceCounts,
    bootstrapped_auc,
    counted_auc,
    permuted_auc,
    presence_counts,
    token_presence,
)
from mi_ortho.probes.sets import covariance_set, isotropic_set, null_sets, rotated_set
from mi_ortho.probes.significance import false_discoveries, upper_p_values

__all__ = [
    "FitProbe",
    "LinearProbe",
    "SecondMoments",
    "NullspaceProbes",
    "PresenceCounts",
    "Reservoir",
    "Strongest",
    "bootstrapped_auc",
    "class_difference",
    "cosines_with",
    "counted_auc",
    "covariance_set",
    "discriminant_probe",
    "false_discoveries",
    "isotropic_set",
    "logistic_probe",
    "mean_shares",
    "second_moments",
    "no_second_moments",
    "null_sets",
    "nullspace_probes",
    "permuted_auc",
    "presence_counts",
    "reservoir",
    "rotated_set",
    "shuffled_labels",
    "sign_coherence",
    "batched_second_moments",
    "strongest",
    "token_presence",
    "upper_p_values",
    "variance_explained",
]
