"""T4: the behaviour as many separate features, each of which does on its own."""

import math

import torch
from jaxtyping import Float
from scipy.special import gammaln, roots_gegenbauer
from torch import Tensor

from mi_ortho.elicitation.objectives import Objective
from mi_ortho.nulls.theories.prediction import Prediction, limited, start_value
from mi_ortho.nulls.theories.sphere import random_frames


def feature_multiplicity(
    effect: Objective,
    like: Float[Tensor, " d_model"],
    norm: float,
    norms: Float[Tensor, " k"],
    exponent: float,
    *,
    generator: torch.Generator,
    threshold: float = 0.5,
    samples: int = 256,
    chunk: int = 64,
) -> Prediction:
    """T4: K equal orthonormal features f with b = sum_f |<f, theta> / c|^p, counted from p, one feature, and noise.

    p is the exponent of pairs of top directions (`composition_exponent` with sizes (2,)), r the norm at which one of
    them reaches the threshold, so that c = r threshold^(-1/p).

    How many features: on the sphere of radius `norm` the mean of b is K (norm / c)^p m, where m = E|u_1|^p =
    Gamma((p + 1) / 2) Gamma(d / 2) / (sqrt(pi) Gamma((p + d) / 2)) for a uniform unit u. So K is the measured mean over
    threshold (norm / r)^p m; at least as many as there are top directions that work within the norm, at most d.

    How many vectors, with s = r / norm: a unit vector v works where sum_f |v_f|^p >= s^p.

    - Each vector on one feature with v_f = s: the rows' v_f form a column of norm at most 1, so floor(1 / s^2) of them
      can use one feature, K floor(1 / s^2) in all, where d leaves room.
    - Each on all features alike, |v_f| = n^(-1/2) for n >= K vectors: K n^(-p/2) >= s^p, that is n = K^(2/p) / s^2.

    The larger of the two, at most d, is predicted; 0 where neither one feature (s <= 1) nor, for p < 2, an equal
    mixture of all (s <= K^(1/p - 1/2)) works. Both are reached by a construction. For p >= 2 no set has more than
    K / s^2: |.|_p <= |.|_2 asks every vector for a share s^2 of its square inside, and there is K in all (equality in
    Ky Fan's bound; at p = 2 it is Schur and Horn's count). So the prediction is within a factor 2 of the truth if the
    features are equal, and for p > 2 the exponent enters through K alone.

    A forward pass a sample; the norms and the exponent cost theirs.

    Args:
        effect: maps (n, d_model) to (n,), rows independent, even in theta; of one-sided features half are seen.
        like: any vector of the space, for its width, dtype and device.
        norm: cap on the vectors' norm.
        norms: at which each orthogonal top direction reaches the threshold (`smallest_scale` times its norm); infinite
            where none does.
        exponent: p, at least 1.
        generator: of the random vectors.
        threshold: effect that counts as working.
        samples: random vectors of norm `norm`.
        chunk: rows per pass.

    Raises:
        ValueError: an exponent below 1, no norm that is finite, or an effect that reaches the threshold at 0.
    """
    if not exponent >= 1 or not bool((norms > 0).all()) or not bool(torch.isfinite(norms).any()):
        raise ValueError(
            f"got exponent {exponent} and {len(norms)} norms; expected at least 1, and positive norms of which one is "
            "finite; take directions that work"
        )
    start, width = start_value(effect, like, threshold), len(like)
    p, single = min(exponent, 64.0), _typical(norms, norm)
    power = p * math.log(norm / single) + gammaln((p + 1) / 2) + gammaln(width / 2) - gammaln((p + width) / 2)
    expected = (threshold - start) * math.exp(power) / math.pi**0.5
    features = _features(effect, like, norm, norms, expected, start, generator, samples, chunk)
    source = f"p = {exponent:.3g}, {features:.3g} features, {samples} random vectors"
    count = limited(packed(features, p, single / norm), width)
    return Prediction("T4", count, width, source, samples + 1)


def feature_profile(
    effect: Objective,
    directions: Float[Tensor, "k d_model"],
    norm: float,
    norms: Float[Tensor, " k"],
    *,
    generator: torch.Generator,
    threshold: float = 0.5,
    samples: int = 256,
    nodes: int = 64,
    chunk: int = 64,
) -> Prediction:
    """T4 without a power law: K equal orthonormal features with b = sum_f phi(<f, theta>) and a measured phi.

    K is the mean effect of random vectors of the norm over E phi(norm u_1), u_1 a coordinate of a uniform unit vector,
    by Gauss and Gegenbauer's rule (weight (1 - x^2)^((d - 3) / 2)) on both signs of the directions, so phi may have a
    threshold or one side; an odd effect gives no K but that of the directions that work. The count is
    K floor((norm / r)^2), one feature a vector as in `feature_multiplicity`: for a rotation-invariant effect up to half
    too small. Where the effect depends on the norm too, or is no sum, K is wrong, mostly too large.

    `nodes` forward passes a direction and one a sample.

    Args:
        directions: top directions of any norm, each with the sign that works.
        nodes: of the quadrature.

    The others as `feature_multiplicity`.
    """
    if not len(directions) or not bool((norms > 0).all()) or not bool(torch.isfinite(norms).any()):
        raise ValueError(
            f"got {len(directions)} directions; expected some, with positive norms of which one is finite; take "
            "directions that work"
        )
    start, width = start_value(effect, directions[0], threshold), directions.shape[1]
    points, weights = (torch.from_numpy(part) for part in roots_gegenbauer(nodes, (width - 2) / 2))
    unit = torch.nn.functional.normalize(directions, dim=-1)
    places = (norm * points.to(unit)[:, None, None] * unit).flatten(0, 1)
    with torch.no_grad():
        profile = torch.cat([effect(part) for part in places.split(chunk)]).reshape(nodes, -1).mean(-1).cpu() - start
    mean, size = (float(part.double() @ weights / weights.sum()) for part in (profile, profile.abs()))
    expected = mean if mean > 1e-6 * size else 0.0  # an odd effect has no mean to count by
    features = _features(effect, directions[0], norm, norms, expected, start, generator, samples, chunk)
    count = limited(features * packed(1.0, math.inf, _typical(norms, norm) / norm), width)
    source = f"profiles of {len(unit)} directions, {features:.3g} features, {samples} random vectors"
    return Prediction("T4 profile", count, width, source, samples + 1 + len(places))


def packed(features: float, exponent: float, scale: float) -> float:
    """How many orthonormal vectors v have sum_f |v_f|^p >= scale^p over so many features, see `feature_multiplicity`.

    >>> packed(10, 4.0, 0.9), round(packed(10, 2.0, 0.9), 2), packed(10, 2.0, 1.1)
    (10.0, 12.35, 0.0)
    """
    if scale > max(1.0, features ** (1 / exponent - 0.5)):
        return 0.0
    return max(features * float(math.floor(scale**-2 + 1e-9)), features ** (2 / exponent) * scale**-2)


def _typical(norms: Float[Tensor, " k"], norm: float) -> float:
    """The median norm of the directions that work within the cap, or the smallest of all."""
    within = norms[norms <= norm]
    return float(within.median() if len(within) else norms.min())


@torch.no_grad()
def _features(
    effect: Objective,
    like: Tensor,
    norm: float,
    norms: Tensor,
    expected: float,
    start: float,
    generator: torch.Generator,
    samples: int,
    chunk: int,
) -> float:
    """K: the mean effect of random vectors over what one feature gives, between the directions that work and d."""
    if samples < 1:
        raise ValueError(f"got samples={samples}; expected at least 1")
    members = norm * random_frames(samples, like, generator)
    mean = float(torch.cat([effect(part) for part in members.split(chunk)]).double().mean()) - start
    least = float((norms <= norm).sum())
    ratio = mean / expected if expected > 0 else 0.0
    return max(limited(ratio, len(like)), least, 1.0)
