"""Rows about depth: variance and norm of both streams, their growth, the gap between them, and block updates."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.geometry import Growth, fit_exponential, fit_power, stream_moments
from mi_ortho.model.trajectories import Trajectories
from mi_ortho.runs.rows import Row
from mi_ortho.stats import bootstrap, central_interval

STATISTICS = ("mean_variance", "max_variance", "mean_norm")
STREAMS = ("pre", "mid")
FORMS = {"exponential": fit_exponential, "power": fit_power}
STILL = 1e-9  # variance as a share of the squared norm, below which it is rounding error


def depth_curves(x: Float[Tensor, "samples point d_model"]) -> Float[Tensor, "three point"]:
    """Mean variance, largest variance and mean norm at each point."""
    moments = stream_moments(x)
    return torch.stack([moments.mean_variance, moments.max_variance, moments.mean_norm])


def growth_rows(paths: Trajectories, draws: int, generator: torch.Generator) -> list[Row]:
    """The three curves of both streams with bootstrap intervals, and how well each growth law fits them.

    Points where nothing varies over prompts (the embedding of a last token that is the same for all) are left out.
    `preference` is AICc of the power law minus AICc of the exponential, above 0 where the exponential fits better.
    """
    rows: list[Row] = []
    for stream in STREAMS:
        points = _stream(paths, stream)
        if points is None:
            continue
        value = depth_curves(points)
        moves = value[0] > STILL * value[2].square() / points.shape[-1]
        resamples = bootstrap(points, depth_curves, draws, generator)
        low, high = central_interval(resamples)
        depths = [depth for depth in range(points.shape[1]) if bool(moves[depth])]
        for index, statistic in enumerate(STATISTICS):
            rows += [
                {
                    "kind": "point",
                    "stream": stream,
                    "statistic": statistic,
                    "depth": depth,
                    "value": float(value[index, depth]),
                    "low": float(low[index, depth]),
                    "high": float(high[index, depth]),
                }
                for depth in depths
            ]
            fits = _fit_rows(stream, statistic, depths, value[index, depths], resamples[:, index][:, depths])
            rows += [{**row, "samples": len(points)} for row in fits]
    return rows


def gap_rows(paths: Trajectories, draws: int, generator: torch.Generator) -> list[Row]:
    """log(variance of mid / variance of pre) by layer, paired over samples, and attention's share of the growth.

    `share` is log(mid / pre) over log(post / pre), means over layers. At one half, mid is above pre only because it is
    half a block later.
    """
    pre, mid, post = (_stream(paths, stream) for stream in ("pre", "mid", "post"))
    if pre is None or mid is None or post is None:
        return []
    stacked = torch.stack([pre, mid, post], dim=1)
    varies = pre.double().var(0).mean(-1) > STILL * pre.double().square().mean((0, 2))
    moves = varies.nonzero().flatten().tolist()

    def gaps(x: Float[Tensor, "samples three layer d_model"]) -> Float[Tensor, "two n"]:
        logs = x[:, :, moves].double().var(0).mean(-1).log()
        gap = logs[1] - logs[0]
        share = gap.mean() / (logs[2] - logs[0]).mean()
        return torch.stack([torch.cat([gap, gap.mean()[None]]), share.expand(len(gap) + 1)])

    value, resamples = gaps(stacked), bootstrap(stacked, gaps, draws, generator)
    low, high = central_interval(resamples)
    rows: list[Row] = [
        {"kind": "gap", "depth": depth, "value": float(value[0, k]), "low": float(low[0, k]), "high": float(high[0, k])}
        for k, depth in enumerate(moves)
    ]
    means = {"value": float(value[0, -1]), "low": float(low[0, -1]), "high": float(high[0, -1])}
    shares = {"share": float(value[1, 0]), "share_low": float(low[1, 0]), "share_high": float(high[1, 0])}
    return [*rows, {"kind": "mean_gap", "samples": len(stacked), **means, **shares}]


def update_rows(paths: Trajectories, draws: int, generator: torch.Generator) -> list[Row]:
    """The update of each block: its length, its cosine with the state before it and with the next block's update.

    The last row has the slope of log length over depth, 0 if all updates are equally long.
    """
    pre, post = _stream(paths, "pre"), _stream(paths, "post")
    assert pre is not None and post is not None
    blocks = torch.cat([pre, post[:, -1:]], dim=1)

    def updates(x: Float[Tensor, "samples point d_model"]) -> Float[Tensor, "four layer"]:
        moments = stream_moments(x)
        slope = _slope(moments.step_norm.log())
        turns = torch.cat([moments.alignment, moments.alignment.mean()[None]])
        return torch.stack([moments.step_norm, moments.outwardness, turns, slope.expand(len(moments.step_norm))])

    value, resamples = updates(blocks), bootstrap(blocks, updates, draws, generator)
    low, high = central_interval(resamples)
    last = value.shape[1] - 1
    rows: list[Row] = [
        {
            "kind": "update",
            "depth": k,
            "norm": float(value[0, k]),
            "norm_low": float(low[0, k]),
            "norm_high": float(high[0, k]),
            "outward": float(value[1, k]),
            "alignment": float(value[2, k]) if k < last else None,
        }
        for k in range(last + 1)
    ]
    summary: Row = {"kind": "updates", "samples": len(blocks)}
    for name, index in (("alignment", 2), ("slope", 3)):
        summary |= {
            name: float(value[index, last]),
            f"{name}_low": float(low[index, last]),
            f"{name}_high": float(high[index, last]),
        }
    return [*rows, summary]


def _fit_rows(
    stream: str, statistic: str, depths: Sequence[int], value: Float[Tensor, " n"], resamples: Float[Tensor, "draws n"]
) -> list[Row]:
    fits = {form: fit(depths, value.tolist()) for form, fit in FORMS.items()}
    refits = [{form: fit(depths, row) for form, fit in FORMS.items()} for row in resamples.tolist()]
    rows: list[Row] = []
    for form, fit in fits.items():
        named: Row = {"kind": "fit", "stream": stream, "statistic": statistic, "form": form}
        rows.append(
            named
            | _spread("slope", fit.slope, [refit[form].slope for refit in refits])
            | _spread("r_squared", fit.r_squared, [refit[form].r_squared for refit in refits])
            | {"aicc": fit.aicc, "intercept": fit.intercept}
        )
    wins = [_preference(refit) for refit in refits]
    return [
        *rows,
        {"kind": "law", "stream": stream, "statistic": statistic, **_spread("preference", _preference(fits), wins)},
    ]


def _preference(fits: dict[str, Growth]) -> float:
    return fits["power"].aicc - fits["exponential"].aicc


def _spread(name: str, value: float, resamples: Sequence[float]) -> Row:
    low, high = central_interval(torch.tensor(resamples, dtype=torch.float64)).tolist()
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _slope(y: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    at = torch.arange(len(y)).to(y)
    at = at - at.mean()
    return (at * y).sum() / at.square().sum()


def _stream(paths: Trajectories, name: str) -> Float[Tensor, "samples layer d_model"] | None:
    """One stream; None if the architecture does not have it."""
    kinds = {site.kind for site in paths.sites}
    return None if name == "mid" and "resid_mid" not in kinds else paths.kind(f"resid_{name}")
