"""Linear probes of two classes: Fisher's discriminant in closed form, and logistic regression."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A direction and an offset: the class is positive where <h, direction> + offset > 0.

    >>> LinearProbe(torch.tensor([2.0, 0.0]), -1.0).scores(torch.tensor([[1.0, 5.0], [0.0, 5.0]])).tolist()
    [1.0, -1.0]
    """

    direction: Float[Tensor, " d_model"]
    offset: float

    def scores(self, activations: Float[Tensor, "samples d_model"]) -> Float[Tensor, " samples"]:
        """The signed score of each activation."""
        return activations.to(self.direction) @ self.direction + self.offset

    def accuracy(self, activations: Float[Tensor, "samples d_model"], labels: Bool[Tensor, " samples"]) -> float:
        """Balanced accuracy, the mean of the shares of positives and negatives classified correctly: 1/2 by chance."""
        right = (self.scores(activations) > 0) == labels
        return float((right[labels].double().mean() + right[~labels].double().mean()) / 2)


FitProbe = Callable[[Float[Tensor, "samples d_model"], Bool[Tensor, " samples"]], LinearProbe]


def discriminant_probe(
    activations: Float[Tensor, "samples d_model"], labels: Bool[Tensor, " samples"], *, ridge: float = 1e-3
) -> LinearProbe:
    """Fisher's linear discriminant: S^-1 (m1 - m0), the boundary half way between the means m1 and m0.

    S is the covariance within the classes plus `ridge` times its mean variance on the diagonal.
    """
    _require_classes(labels)
    x = activations.double()
    high, low = x[labels], x[~labels]
    inside = torch.cat([high - high.mean(0), low - low.mean(0)])
    within = inside.mT @ inside / max(1, len(x) - 2)
    within += ridge * float(within.trace() / len(within)) * torch.eye(len(within)).to(within)
    direction = torch.linalg.lstsq(within, (high.mean(0) - low.mean(0))[:, None], driver="gelsd").solution[:, 0]
    return LinearProbe(direction, -float(direction @ (high.mean(0) + low.mean(0))) / 2)


def logistic_probe(
    activations: Float[Tensor, "samples d_model"], labels: Bool[Tensor, " samples"], *, penalty: float = 1e-2
) -> LinearProbe:
    """Logistic regression, classes weighted equally, by L-BFGS.

    `penalty` times half the squared norm of the direction is added to the mean loss, with activations scaled so that
    their mean squared norm around the mean is d_model.
    """
    _require_classes(labels)
    x = activations.double()
    centre = x.mean(0)
    scale = ((x - centre).square().mean()).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
    rows, truth = (x - centre) / scale, labels.double()
    weights = torch.where(labels, 0.5 / truth.mean(), 0.5 / (1 - truth.mean()))
    parameters = torch.zeros(x.shape[1] + 1, dtype=x.dtype, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [parameters], max_iter=200, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-7
    )

    def loss() -> Tensor:
        solver.zero_grad()
        logits = rows @ parameters[:-1] + parameters[-1]
        wrong = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, weight=weights)
        total = wrong + penalty / 2 * parameters[:-1].square().sum()
        total.backward()
        return total

    solver.step(loss)  # pyright: ignore[reportArgumentType]
    direction = parameters.detach()[:-1] / scale
    return LinearProbe(direction, float(parameters.detach()[-1] - direction @ centre))


def _require_classes(labels: Bool[Tensor, " samples"]) -> None:
    if int(labels.sum()) < 2 or int((~labels).sum()) < 2:
        raise ValueError(
            f"got {int(labels.sum())} positive and {int((~labels).sum())} negative samples; expected at "
            "least 2 of each; read more text"
        )
