"""Theories that expand the effect on a sphere of random vectors: T3 in theta, T5 in the normalised stream."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import isotonic_regression
from torch import Tensor

from mi_ortho.elicitation.objectives import Objective
from mi_ortho.elicitation.search import value_and_gradient
from mi_ortho.nulls.bounds import second_order_count
from mi_ortho.nulls.theories.prediction import Prediction, start_value


@dataclass(frozen=True, eq=False)
class SphereForm:
    """The quadratic effect that an effect looks like from a sphere around 0, see `sphere_form`.

    Attributes:
        eigenvalues: of the form Q, largest first, without the gain that comes from choosing eigenvectors by noise.
        slope: norm of the mean gradient, likewise.
        trace_error: standard error of the eigenvalues' sum, as if directions were independent; those of one frame repel
            each other, so it is rather too large.
        rows: gradients it was measured from.
    """

    eigenvalues: Float[Tensor, " d_model"]
    slope: float
    trace_error: float
    rows: int


def sphere_form(
    effect: Objective,
    like: Float[Tensor, " d_model"],
    norm: float,
    *,
    generator: torch.Generator,
    samples: int | None = None,
    chunk: int = 64,
) -> SphereForm:
    """Mean gradient and symmetrised Q = d / (2 norm) E[grad b(norm u) u'], u uniform on the unit sphere.

    For b = c + g'theta + theta'Q theta the gradient at norm u is g + 2 norm Q u, and E[u u'] = 1 / d, so both come out
    exactly. The u are rows of random orthonormal frames, each with its negative: each is uniform, odd and even parts do
    not disturb each other, and a whole frame has no sampling error on a quadratic effect.

    The samples are split. Eigenvectors from one half get their eigenvalues as Rayleigh quotients from the other, and
    both ways are averaged: sums of the first k are then, in expectation, at most what k directions have, whatever the
    noise. They are made monotone by isotonic regression, not by sorting, which would choose by noise again. The slope
    is likewise one half's mean gradient along the other's. What noise is left is above all the trace's, d / (2 norm)
    times that of the mean radial derivative, which is told.

    Args:
        effect: maps (n, d_model) to (n,), rows independent.
        like: any vector of the space, for its width, dtype and device.
        norm: radius of the sphere.
        generator: of the frames.
        samples: gradients, a multiple of 4, each a forward and a backward pass; 4 d_model by default. With fewer the
            eigenvectors are poor and the eigenvalues too small, never too large.
        chunk: rows per pass.

    Raises:
        ValueError: samples that are not a positive multiple of 4, a norm that is not positive, or gradients that are
            not finite.
    """
    samples = 4 * len(like) if samples is None else samples
    if samples < 4 or samples % 4 or not norm > 0:
        raise ValueError(f"got samples={samples}, norm={norm}; expected a positive multiple of 4 and a positive norm")
    halves = [_half(effect, like, norm, samples // 4, generator, chunk) for _ in range(2)]
    (first, slope, radial), (second, other, outward) = halves
    ways = torch.stack([_rayleigh(first, second), _rayleigh(second, first)]).mean(0)
    if not bool(torch.isfinite(ways).all()):
        raise ValueError(f"got gradients with NaN or infinity at norm {norm:.3g}; expected finite; take a smaller norm")
    unit, beside = (torch.nn.functional.normalize(part, dim=0) for part in (slope, other))
    along = (slope @ beside + other @ unit) / 2
    values = torch.from_numpy(isotonic_regression(ways.cpu().numpy(), increasing=False).x.copy())
    spread = torch.cat([radial, outward])
    error = len(like) / (2 * norm) * float(spread.std()) / len(spread) ** 0.5
    return SphereForm(values, float(along.clamp_min(0)), error, samples)


def _half(
    effect: Objective, like: Tensor, norm: float, pairs: int, generator: torch.Generator, chunk: int
) -> tuple[Float[Tensor, "d d"], Float[Tensor, " d"], Float[Tensor, " pairs"]]:
    """The form, the mean gradient and every pair's radial derivative, in float64, from so many pairs u and -u."""
    width, radial = len(like), []
    form, slope = (torch.zeros(*shape, dtype=torch.float64, device=like.device) for shape in ((width, width), (width,)))
    for u in random_frames(pairs, like, generator).split(max(1, chunk // 2)):
        gradients = value_and_gradient(effect, norm * torch.cat([u, -u]))[1].double()
        plus, minus = gradients.chunk(2)
        form += (plus - minus).mT @ u.double() / (2 * pairs)
        slope += (plus + minus).sum(0) / (2 * pairs)
        radial.append(((plus - minus) * u.double()).sum(-1) / 2)
    form *= width / (2 * norm)
    return (form + form.mT) / 2, slope, torch.cat(radial)


def random_frames(
    rows: int, like: Float[Tensor, " d_model"], generator: torch.Generator
) -> Float[Tensor, "rows d_model"]:
    """Rows of random orthonormal frames, one frame after the other; only the last may be cut. Each row is uniform."""
    width = len(like)
    frames = []
    for start in range(0, rows, width):
        square = torch.randn(width, width, generator=generator, device=generator.device, dtype=torch.float64)
        frame, upper = torch.linalg.qr(square)
        frames.append((frame * upper.diagonal().sign()).mT[: rows - start])  # the signs make it uniform
    return torch.cat(frames).to(like)


def _rayleigh(by: Float[Tensor, "d d"], of: Float[Tensor, "d d"]) -> Float[Tensor, " d"]:
    """What the eigenvectors of one form, largest first, have in the other."""
    vectors = torch.linalg.eigh(by).eigenvectors.flip(-1)
    return (vectors * (of @ vectors)).sum(0)


def finite_radius(
    effect: Objective,
    like: Float[Tensor, " d_model"],
    norm: float,
    *,
    generator: torch.Generator,
    threshold: float = 0.5,
    samples: int | None = None,
    chunk: int = 64,
) -> Prediction:
    """T3: Schur and Horn's count at finite radius: `second_order_count` of the effect's `sphere_form` at `norm`.

    T2 sees the form at 0 only; this one as random vectors of the norm in question meet it. Its trace is that of the
    radial derivative, so it counts too few where the effect no longer grows with the norm (see `in_stream`), and none
    where random vectors see nothing of it, as with separate features. The interval is that of
    the trace alone, spread over all directions: a wide one asks for more samples, a narrow one does not vouch for them.
    Where noise moves single eigenvalues by threshold / norm^2 the count is noise, often large: compare two seeds.
    A forward and a backward pass a sample.

    Args and errors as `sphere_form` and `second_order_at_zero`.
    """
    start = start_value(effect, like, threshold)
    form = sphere_form(effect, like, norm, generator=generator, samples=samples, chunk=chunk)
    shifts = (1.96 * form.trace_error / len(like) * side for side in (-1, 0, 1))
    low, count, high = (
        float(second_order_count(form.eigenvalues + shift, form.slope, norm, threshold - start)) for shift in shifts
    )
    source = f"{form.rows} gradients at norm {norm:.3g}"
    return Prediction("T3", count, len(like), source, form.rows + 1, form.rows, (low, high))


def in_stream(
    effect: Objective,
    stream: Float[Tensor, "read d_model"],
    norm: float,
    *,
    generator: torch.Generator,
    threshold: float = 0.5,
    samples: int | None = None,
    chunk: int = 64,
) -> Prediction:
    """T5: T3 in the coordinates w = theta / |x + theta| of the stream that the next block's norm leaves.

    Orthogonal vectors stay orthogonal in w, only their lengths change. Over several positions |x + theta| is the root
    mean square. The cap becomes norm / sqrt(mean |x|^2 + norm^2), exact for theta at right angles to the mean of x.

    Args:
        stream: the unsteered stream x where the vector is added, one position a row, sinks left out.

    The others, the cost and the errors as `finite_radius`.
    """
    cap = norm / (float(stream.double().square().sum(-1).mean()) + norm**2) ** 0.5
    moved = stream_coordinates(effect, stream)
    settings = {"generator": generator, "threshold": threshold, "samples": samples, "chunk": chunk}
    inner = finite_radius(moved, stream[0], cap, **settings)
    source = f"{inner.source} of theta / |x + theta|"
    return Prediction("T5", inner.count, inner.d_model, source, inner.forward, inner.backward, inner.interval)


def stream_coordinates(
    effect: Objective, stream: Float[Tensor, "read d_model"]
) -> Callable[[Float[Tensor, "n d_model"]], Float[Tensor, " n"]]:
    """The effect as a function of w = theta / |x + theta|, root mean square over the rows x, for |w| < 1.

    theta = t w / |w| with t^2 = |w|^2 (mean |x|^2 + 2 t mean x.w / |w| + t^2), a quadratic equation for t.
    """
    square, mean = stream.square().sum(-1).mean(), stream.mean(0)

    def moved(w: Tensor) -> Tensor:
        room = 1 - w.square().sum(-1, keepdim=True)
        along = (w @ mean)[:, None]  # |w| times the stream's part along w; with t = |w| s no |w| is divided by
        scale = (along + (along.square() + room * square).sqrt()) / room
        return effect(scale * w)

    return moved
