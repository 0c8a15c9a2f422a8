"""Bounds on how many orthogonal vectors can share an effect, and the constructions that reach them.

Each takes a norm budget and tells how many mutually orthogonal vectors no longer than that could have the effect if the
response were linear, or quadratic. More vectors than a bound allows refute that kind of response.
"""

import math

import torch
from jaxtyping import Float
from scipy.stats import beta
from torch import Tensor


def chance_bound(rate: float, d_model: int) -> float:
    """The most orthogonal vectors, all of one norm, that pass a threshold on a linear effect which random ones pass.

    If a behaviour appears where <g, theta> exceeds a threshold, a share `rate` of isotropic random vectors of the norm
    shows it, and the squared cosines with g that are needed sum to at most 1 over an orthogonal set. So the count
    follows from the random control alone, and a control of about 6 % already allows 0.4 d_model vectors. More than this
    at the control's norm, and the behaviour is not a threshold on one direction.

    Args:
        rate: share of isotropic random vectors of that norm that show the behaviour, above 0 and below one half.
        d_model: the width of the space.

    >>> round(chance_bound(0.05, 128)), round(chance_bound(0.001, 128))
    (47, 14)
    """
    if not 0 < rate < 0.5 or d_model < 2:
        raise ValueError(
            f"got rate {rate} and d_model {d_model}; expected 0 < rate < 0.5 and at least 2 dimensions; "
            "measure more random vectors, or shorter ones"
        )
    return 1 / float(beta.isf(2 * rate, 0.5, (d_model - 1) / 2))


def capacity_bound(radius: float, norm: float, loss: float, efficiency: float = 1.0) -> float:
    """The most orthogonal vectors a linear response allows, whatever the algorithm and the order.

    N <= (norm / radius)^2 / ((1 - loss)^2 efficiency^2): more vectors than this at that norm and relative loss, and the
    response is not linear. From the mean of N orthogonal vectors, which is short (norm / sqrt N) and yet must work.

    Args:
        radius: norm of the base vector.
        norm: largest norm among the family.
        loss: largest relative loss among the family, below 1.
        efficiency: |J base| / (sigma_max |base|), 1 for a base that is optimal for the linear map.

    >>> round(capacity_bound(7, 20, 0.0), 1)
    8.2
    """
    if not (radius > 0 and norm > 0 and 0 <= loss < 1 and 0 < efficiency <= 1):
        raise ValueError(
            f"got radius={radius}, norm={norm}, loss={loss}, efficiency={efficiency}; "
            "expected positive norms, 0 <= loss < 1 and 0 < efficiency <= 1"
        )
    return (norm / radius) ** 2 / ((1 - loss) ** 2 * efficiency**2)


def ridge_norm(jacobian: Float[Tensor, "m d_model"], effect: Float[Tensor, " m"], loss: float) -> float:
    """nu: the norm of the shortest theta with |J theta - effect| <= loss * |effect|.

    Decides what the effect costs on the linear map, whatever direction is used. The optimum lies on the ridge path
    theta(mu) = (J'J + mu)^-1 J' effect, along which the loss grows with mu; mu is found by bisection in float64.

    Args:
        jacobian: J, outputs by d_model.
        effect: what to reproduce: J base, or the measured z(base) - z(0).
        loss: relative loss allowed, from 0 to below 1.

    Raises:
        ValueError: a loss outside [0, 1), an effect of 0, entries that are not finite, or an effect so far outside the
            range of J that the loss cannot be reached.
    """
    if not (bool(torch.isfinite(jacobian).all()) and bool(torch.isfinite(effect).all())):
        raise ValueError("got a Jacobian or an effect with NaN or infinity; expected finite ones; measure them again")
    if not 0 <= loss < 1 or not effect.norm() > 0:
        raise ValueError(
            f"got loss {loss} and an effect of norm {float(effect.norm()):.3g}; expected 0 <= loss < 1 "
            "and an effect that is not 0; correct them"
        )
    left, singular, _ = torch.linalg.svd(jacobian.double(), full_matrices=False)
    nonzero = singular > 1e-12 * singular.max().clamp_min(torch.finfo(torch.float64).tiny)
    singular, share = singular[nonzero], left.mT[nonzero] @ effect.double() / effect.double().norm()
    outside = (1 - share.square().sum()).clamp_min(0)
    allowed = loss**2 - float(outside)
    if allowed < -1e-12:
        raise ValueError(
            f"got loss {loss}; expected at least {float(outside) ** 0.5:.3g}, the part of the effect outside the "
            "Jacobian's range; raise the loss"
        )
    ridge = _ridge(singular.square(), share, max(allowed, 0.0))
    return float((share * singular / (singular.square() + ridge)).norm() * effect.double().norm())


def _ridge(square: Float[Tensor, " k"], share: Float[Tensor, " k"], allowed: float) -> float:
    """The ridge at which the squared loss inside the range is `allowed`."""
    if allowed == 0:
        return 0.0

    def lost(ridge: float) -> float:
        return float((share * ridge / (square + ridge)).square().sum())

    low, high = 1e-30 * float(square.max()), float(square.max())
    while lost(high) < allowed:
        high *= 4
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if lost(middle) < allowed else (low, middle)
    return low


def ridge_capacity(
    jacobian: Float[Tensor, "m d_model"], effect: Float[Tensor, " m"], norm: float, loss: float
) -> float:
    """The most orthogonal vectors of at most this norm and relative loss that the linear map J allows: (norm / nu)^2.

    Sharper than `capacity_bound`, which knows only the largest singular value: the mean of N such vectors is no longer
    than norm / sqrt(N), has at most their loss, and nothing shorter than nu has. See `ridge_norm`.
    """
    if not norm > 0:
        raise ValueError(f"got norm {norm}; expected a positive number; give the largest norm of the family")
    return (norm / ridge_norm(jacobian, effect, loss)) ** 2


def behaviour_bound(norm: float, gradient_norm: float, threshold: float) -> float:
    """The most orthogonal vectors of at most this norm that raise a linear readout g'theta to the threshold.

    N <= (norm |g| / threshold)^2: the capacity bound for a number (a log-odds) instead of activations.

    >>> behaviour_bound(norm=20, gradient_norm=0.5, threshold=2.5)
    16.0
    """
    if not (norm > 0 and gradient_norm >= 0 and threshold > 0):
        raise ValueError(
            f"got norm={norm}, gradient_norm={gradient_norm}, threshold={threshold}; expected a positive "
            "norm and threshold and a gradient norm of at least 0; correct them"
        )
    return (norm * gradient_norm / threshold) ** 2


def schur_horn_count(eigenvalues: Float[Tensor, " d"], norm: float, threshold: float) -> int:
    """N(norm): how many orthogonal vectors of at most this norm have a quadratic effect theta'Q theta >= threshold.

    Exact: the largest N with the sum of the N largest eigenvalues at least N threshold / norm^2. No set of vectors can
    do better (Ky Fan), and `equal_effect_vectors` builds one that does as well (Schur and Horn). Converts the spectrum
    of an effect into a count without any fit.

    Args:
        eigenvalues: of Q, in any order: half those of the effect's Hessian.
        norm: cap on every vector's norm.
        threshold: effect each vector must reach, above 0.

    >>> schur_horn_count(torch.tensor([4.0, 1.0, 1.0, 0.0]), norm=1.0, threshold=1.5)
    4
    """
    if not (norm > 0 and threshold > 0) or not bool(torch.isfinite(eigenvalues).all()):
        raise ValueError(
            f"got norm={norm}, threshold={threshold} and {len(eigenvalues)} eigenvalues; expected "
            "positive numbers and finite eigenvalues; correct them"
        )
    mean = eigenvalues.double().sort(descending=True).values.cumsum(0) / _numbers(eigenvalues)
    return int((mean >= threshold / norm**2 * (1 - 1e-12)).sum())


def second_order_count(eigenvalues: Float[Tensor, " d"], gradient_norm: float, norm: float, threshold: float) -> int:
    """At most how many orthogonal vectors of at most this norm have an effect g'theta + theta'Q theta >= threshold.

    The largest N with N threshold <= norm sqrt(N) |g| + norm^2 (sum of the N largest positive eigenvalues): the linear
    parts of N orthogonal vectors add up to at most sqrt(N) of one. `schur_horn_count` where the effect has no gradient,
    `behaviour_bound` where it has no curvature; in between an upper bound that need not be reached.
    """
    if not gradient_norm >= 0 or not (norm > 0 and threshold > 0) or not bool(torch.isfinite(eigenvalues).all()):
        raise ValueError(
            f"got gradient_norm={gradient_norm}, norm={norm}, threshold={threshold}; expected positive "
            "numbers and finite eigenvalues; correct them"
        )
    count = _numbers(eigenvalues)
    curved = eigenvalues.double().sort(descending=True).values.clamp_min(0).cumsum(0)
    possible = norm * gradient_norm * count.sqrt() + norm**2 * curved >= count * threshold * (1 - 1e-12)
    return int(count[possible][-1]) if bool(possible.any()) else 0


def equal_effect_vectors(form: Float[Tensor, "d d"], n: int, norm: float) -> Float[Tensor, "n d"]:
    """n orthogonal vectors of one norm that all have the same quadratic effect, the largest n vectors can share.

    The n top eigenvectors of the form, turned in n - 1 planes until every diagonal entry is their mean eigenvalue:
    each effect is norm^2 (sum of the n largest eigenvalues) / n.

    Raises:
        ValueError: a form that is not symmetric, n outside 1 to d, or a norm that is not positive.
    """
    if not 1 <= n <= len(form) or not norm > 0 or not torch.allclose(form, form.mT, rtol=1e-5, atol=1e-8):
        raise ValueError(
            f"got n={n}, norm={norm} and a form of width {len(form)}; expected 1 <= n <= {len(form)}, "
            "a positive norm and a symmetric form; correct them"
        )
    values, columns = torch.linalg.eigh(form.double())
    rows, small = columns[:, -n:].mT.clone(), torch.diag(values[-n:])
    mean, open_rows = values[-n:].mean(), list(range(n))
    while len(open_rows) > 1:
        low, high = min(open_rows, key=lambda i: small[i, i]), max(open_rows, key=lambda i: small[i, i])
        if low == high:
            break
        turn = _to_diagonal(small[low, low], small[low, high], small[high, high], mean)
        pair = torch.tensor([low, high])
        rows[pair] = turn @ rows[pair]
        small[pair] = turn @ small[pair]
        small[:, pair] = small[:, pair] @ turn.mT
        open_rows.remove(low)
    return (norm * rows).to(form)


def _to_diagonal(a: Tensor, b: Tensor, c: Tensor, goal: Tensor) -> Float[Tensor, "2 2"]:
    """The plane rotation after which the symmetric [[a, b], [b, c]] has `goal`, between a and c, at its top left."""
    root = (b**2 - (a - goal) * (c - goal)).clamp_min(0).sqrt()
    # of the two tangents the one without cancellation; goal = a needs none
    tangent = -(a - goal) / (b + torch.where(b < 0, -root, root))
    tangent = torch.where(torch.isfinite(tangent), tangent, torch.zeros_like(tangent))
    cosine = 1 / (1 + tangent**2).sqrt()
    sine = tangent * cosine
    return torch.stack([torch.stack([cosine, sine]), torch.stack([-sine, cosine])])


def effect_budget(norms: Float[Tensor, " n"], radius: float) -> float:
    """Sum of (radius / norm)^2 over a family: how much of a quadratic form's trace it has used.

    At most `effective_dimension` of the form's eigenvalues, when every vector has the effect of a base of norm
    `radius` at the form's top eigenvector.
    """
    if not radius > 0 or not bool((norms > 0).all()):
        raise ValueError(f"got radius={radius} and norms down to {float(norms.min()):.3g}; expected positive norms")
    return float((radius / norms.double()).square().sum())


def effective_dimension(eigenvalues: Float[Tensor, " d"]) -> float:
    """Sum of the positive eigenvalues over the largest: how many equally strong directions the form is worth.

    >>> effective_dimension(torch.tensor([2.0, 1.0, 1.0, -3.0]))
    2.0
    """
    positive = eigenvalues.double().clamp_min(0)
    if not positive.max() > 0:
        raise ValueError("got no positive eigenvalue; expected at least one; the effect grows in no direction")
    return float(positive.sum() / positive.max())


def kaarel_bound(cosine: float, overlap: float) -> float:
    """The most unit vectors with cosine >= `cosine` to one direction and cosines <= `overlap` to each other.

    n <= (1 - overlap) / (cosine^2 - overlap) where cosine^2 > overlap; below that exponentially many fit and there is
    no bound. With overlap 0 it is Bessel's inequality, n <= 1 / cosine^2. (Argument by Kaarel in the comments of
    Goldman-Wetzler and Turner 2024; the bound here counts each pair twice, as the sum over ordered pairs does.)

    >>> kaarel_bound(0.3, 0.01)
    12.375
    """
    if not (0 < cosine <= 1 and -1 < overlap < cosine**2):
        raise ValueError(
            f"got cosine={cosine}, overlap={overlap}; expected 0 < cosine <= 1 and -1 < overlap < "
            f"cosine^2; from cosine^2 on nothing bounds the number"
        )
    return (1 - overlap) / (cosine**2 - overlap)


def bessel_mass(vectors: Float[Tensor, "n d_model"], direction: Float[Tensor, " d_model"]) -> float:
    """Sum of squared cosines with one direction: at most 1 for an orthogonal family, n / d_model for a random one.

    Every orthogonal family has a direction that all its vectors share equally (their mean), so a large mass with a
    direction made from the family proves nothing; with one measured apart, such as a gradient, it does.
    """
    if not (direction.norm() > 0 and bool((vectors.norm(dim=-1) > 0).all())):
        raise ValueError("got a vector or a direction of norm 0; expected a direction; leave it out")
    unit = torch.nn.functional.normalize(direction.double(), dim=0)
    return float((torch.nn.functional.normalize(vectors.double(), dim=-1) @ unit).square().sum())


def _numbers(values: Tensor) -> Tensor:
    """1, 2, ..., len(values) in float64, on the device of the values."""
    return torch.arange(1, len(values) + 1, dtype=torch.float64, device=values.device)
