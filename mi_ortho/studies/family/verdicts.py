"""The results of a family run: counts, where the family ends, verdicts against thresholds fixed here, and a headline.

Pure functions of the recorded rows. The thresholds are constants of this file, written before any run.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mi_ortho.behaviours import AS_THE_BASE, OTHER
from mi_ortho.nulls.bounds import capacity_bound
from mi_ortho.nulls.chance import RANDOM_BASES
from mi_ortho.runs.rows import Record, numbers, pick
from mi_ortho.stats import Decision, Verdict, count_ratio, decide, judge, mean, paired_rates, rate
from mi_ortho.studies.family.finished import BEYOND_LINEAR
from mi_ortho.studies.shared.left_out import left_out

ABOVE_RANDOM = 0.2  # share kept minus that of random vectors of the same norms, from which a family exists
NORM_MATTERS = 0.2  # share that loses the behaviour at the base's norm, from which the norm matters
LINEAR_LOSS = 0.5  # vectors with at most this relative loss are counted against the linear capacity bound
TRANSFERS = 0.5  # of the base's own transfer
MEANS_DIFFER = 0.5  # share kept by sqrt(n)-scaled means minus share kept by plain means
WINDOW = 10  # a family ends where, from there on, fewer than half of any so many consecutive vectors keep the behaviour
AT_CAP = 0.99  # share of the norm cap from which a vector lies at it


def family_end(kept: Sequence[bool], window: int = WINDOW) -> int | None:
    """The first index from which fewer than half of any `window` consecutive vectors keep the behaviour; None if never.

    >>> family_end([True] * 12 + [False] * 12)
    8
    >>> family_end([False] * 12 + [True] * 12) is None
    True
    """
    starts = range(len(kept) - window + 1)
    holds = [start for start in starts if sum(kept[start : start + window]) >= window / 2]
    end = holds[-1] + 1 if holds else 0
    return end if end in starts else None


def modes_shown(rows: Sequence[Record]) -> str:
    """How many show each behaviour, the commonest first.

    >>> modes_shown([{"mode": "list"}, {"mode": "other"}, {"mode": "other"}])
    '2 other, 1 list'
    """
    return ", ".join(f"{count} {mode}" for mode, count in Counter(str(row.get("mode")) for row in rows).most_common())


def paired_column(a: Sequence[Record], b: Sequence[Record], name: str) -> tuple[list[bool], list[bool]]:
    """A yes-or-no column of both, paired by index; pairs with a missing value are left out."""
    other = {row["index"]: row.get(name) for row in b}
    pairs = [(row.get(name), other.get(row["index"])) for row in a]
    complete = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [bool(x) for x, _ in complete], [bool(y) for _, y in complete]


def paired_difference(a: Sequence[Record], b: Sequence[Record], name: str) -> list[float]:
    """a's column minus b's, paired by index."""
    other = {row["index"]: row for row in b}
    pairs = [(row.get(name), other[row["index"]].get(name)) for row in a if row["index"] in other]
    return [float(x) - float(y) for x, y in pairs if isinstance(x, (int, float)) and isinstance(y, (int, float))]


def exists(rows: Sequence[Record], match: str) -> Verdict | None:
    """Do orthogonal vectors keep the behaviour more often than random vectors of the same norms?"""
    family = pick(rows, kind="vector", match=match)
    random = pick(rows, kind="control", match=match, control="isotropic")
    kept, chance = paired_column(family, random, "keeps")
    if not kept:
        return None
    estimate = paired_rates(kept, chance)
    return judge(
        f"Many mutually orthogonal vectors repeat the base's behaviour ({match} match)",
        f"share kept exceeds that of random vectors of equal norms by at least {ABOVE_RANDOM}",
        "share kept minus share kept by isotropic random vectors, paired by norm",
        estimate,
        ABOVE_RANDOM,
        fmean(chance),
        decide(estimate, ABOVE_RANDOM),
    )


def norm_matters(rows: Sequence[Record], match: str) -> Verdict | None:
    """Do vectors longer than the base lose the behaviour when scaled down to its norm?"""
    base = pick(rows, kind="base")
    family = pick(rows, kind="vector", match=match)
    long = [row for row in family if base and float(row["norm"]) >= 1.2 * float(base[0]["norm"]) and row["keeps"]]
    long_ones = {row["index"] for row in long}
    scaled = [row for row in scaled_to_base(rows, match) if row["index"] in long_ones]
    still, _ = paired_column(scaled, long, "keeps")
    if len(still) < 8:
        return None
    estimate = rate(still.count(False), len(still))
    return judge(
        f"Scaled down to the base's norm, the orthogonal vectors lose their effect ({match} match)",
        f"of the vectors at least 1.2 times as long as the base that keep it, at least {NORM_MATTERS} lose it",
        "share that loses the behaviour at the base's norm",
        estimate,
        NORM_MATTERS,
        None,
        decide(estimate, NORM_MATTERS),
    )


def beyond_linear(rows: Sequence[Record]) -> Verdict | None:
    """Are there more vectors of small activation loss than any linear response allows?"""
    base, family = pick(rows, kind="base"), pick(rows, kind="vector", match="activation")
    null = numbers(pick(rows, kind="linear_null"), "efficiency")
    good = [row for row in family if isinstance(row.get("loss"), float) and row["loss"] <= LINEAR_LOSS]
    if not base or not family or not null:
        return None
    norm = max(numbers(good, "norm"), default=float(base[0]["norm"]))
    bound = capacity_bound(float(base[0]["norm"]), norm, LINEAR_LOSS, min(1.0, max(null[0], 1e-6)))
    predicted = len([x for x in numbers(pick(rows, kind="linear_null"), "loss") if x <= LINEAR_LOSS])
    count = count_ratio(len(good), bound)
    decision = decide(count, 1.0)
    if not decision.supported:  # no linear map exceeds the bound, but most hold far fewer: `nulls` measures how many
        decision = Decision(
            None, "fewer than the largest number any linear map could hold; `mi-ortho nulls` asks this one"
        )
    return judge(
        "There are more activation-matched vectors than a linear response can hold",
        f"vectors with relative loss at most {LINEAR_LOSS} exceed the capacity bound at their largest norm",
        f"count over the capacity bound of any linear map with the Jacobian's efficiency ({bound:.1f}); the control is "
        "the count that conjugate gradients predict",
        count,
        1.0,
        predicted / bound,
        decision,
        BEYOND_LINEAR,
    )


def transfers(rows: Sequence[Record], match: str) -> Verdict | None:
    """Do vectors that work on the training prompts work on prompts they never saw?"""
    base = numbers(pick(rows, kind="base"), "transfer")
    family = [row for row in pick(rows, kind="vector", match=match) if row["keeps"]]
    values = numbers(family, "transfer")
    if not base or not base[0] or len(values) < 2:
        return None
    estimate = mean([x / base[0] for x in values], scale=(0.0, 1 / base[0]))
    # the control meets the same condition: random vectors that keep the behaviour on the first prompt
    control = [row for row in pick(rows, kind="control", match=match, control="isotropic") if row["keeps"]]
    random = numbers(control, "transfer")
    return judge(
        f"The orthogonal vectors work on other prompts ({match} match)",
        f"on held-out prompts they show the behaviour at least {TRANSFERS} times as often as the base itself",
        "transfer of vectors that keep the behaviour, relative to the base's transfer",
        estimate,
        TRANSFERS,
        fmean(random) / base[0] if random else None,
        decide(estimate, TRANSFERS),
    )


def means_fail(rows: Sequence[Record], match: str) -> Verdict | None:
    """Does the plain mean of vectors lose the behaviour while the mean rescaled by sqrt(n) keeps it?"""
    means = [row for row in pick(rows, kind="mean", match=match) if int(str(row["n"])) >= 3]
    by_n = [[{**row, "index": row["n"]} for row in means if row["scale"] == scale] for scale in ("sqrt_n", "plain")]
    scaled, plain = paired_column(by_n[0], by_n[1], "keeps")
    if len(plain) < 2:
        return None
    estimate = paired_rates(scaled, plain)
    return judge(
        f"Plain means of the vectors fail, means rescaled by the root of their number work ({match} match)",
        f"over n >= 3, share kept by rescaled means minus share kept by plain means at least {MEANS_DIFFER}",
        "difference of shares kept",
        estimate,
        MEANS_DIFFER,
        fmean(plain),
        decide(estimate, MEANS_DIFFER),
    )


def base_is_special(rows: Sequence[Record], match: str) -> Verdict | None:
    """Is the chosen base easier to reproduce than a random vector of the same norm?"""
    random = pick(rows, kind="control", match=match, control="random_base")
    family = pick(rows, kind="vector", match=match)[: len(random)]
    differences = paired_difference(random, family, "loss")
    if len(differences) < 2:
        return None
    estimate = mean(differences)
    return judge(
        f"The chosen base is easier to reproduce than a random one of its norm ({match} match)",
        "mean relative activation loss of the random base's family minus that of the chosen base's family above 0",
        "paired difference of relative losses, same number of vectors",
        estimate,
        0.0,
        fmean(numbers(random, "loss")),
        decide(estimate, 0.0),
    )


def verdicts(rows: Sequence[Record]) -> list[Verdict]:
    """Every verdict the recorded rows allow."""
    claims: list[Verdict | None] = []
    for match in ("kl", "activation"):
        claims += [
            exists(rows, match),
            norm_matters(rows, match),
            transfers(rows, match),
            means_fail(rows, match),
            base_is_special(rows, match),
        ]
    return [verdict for verdict in [*claims, beyond_linear(rows)] if verdict is not None]


def scaled_to_base(rows: Sequence[Record], match: str) -> list[Record]:
    """The rows of the vectors scaled to the base's norm."""
    return pick(rows, kind="control", match=match, control="scaled_to_base")


def counts(rows: Sequence[Record], match: str, cap: float | None = None) -> dict[str, Any]:
    """How many vectors were found and kept the behaviour, by quarter, beside each control, and at which norms.

    `cap` is the largest norm allowed, as a multiple of the base's; None without one.
    """
    family = pick(rows, kind="vector", match=match)
    kept = [bool(row["keeps"]) for row in family]
    quarters = [sum(kept[len(kept) * i // 4 : len(kept) * (i + 1) // 4]) for i in range(4)]
    searched = pick(rows, kind="search", match=match)
    mode = next((row["mode"] for row in pick(rows, kind="base") if row.get("keeps", True)), None)
    # a random base's family keeps that base's own behaviour; what counts here is the chosen base's
    controls = {
        name: sum(row["mode"] == mode if name in RANDOM_BASES else bool(row["keeps"]) for row in control_rows)
        for name, control_rows in _controls(rows, match).items()
    }
    first = next((index for index, good in enumerate(kept) if not good), None)
    collapsed = sum(not row["kept"] for row in searched)
    norms, base = numbers(family, "norm"), numbers(pick(rows, kind="base"), "norm")
    return {
        "found": len(family),
        "kept": sum(kept),
        "judged": sum(row["keeps"] is not None for row in family),
        "at_base_norm": sum(bool(row["keeps"]) for row in scaled_to_base(rows, match)),
        "times_base": max(norms) / base[0] if norms and base else None,
        "at_cap": None if not cap or not base else sum(norm >= AT_CAP * cap * base[0] for norm in norms),
        "cap": cap,
        "stopped": sum(row.get("status") == "MAX_STEPS" for row in searched if row["kept"]),
        "stalled": sum(row.get("status") == "STALLED" for row in searched if row["kept"]),
        "quarters": quarters,
        "first_failure": first,
        "end": family_end(kept),
        "collapsed": collapsed,
        "controls": controls,
        "controlled": len(pick(rows, kind="control", match=match, control="isotropic")),
    }


def _controls(rows: Sequence[Record], match: str) -> dict[str, list[Record]]:
    names = dict.fromkeys(str(row["control"]) for row in rows if row["kind"] == "control" and row["match"] == match)
    return {name: pick(rows, kind="control", match=match, control=name) for name in names}


def summarise(
    rows: Sequence[Record], cosines: Mapping[str, float], model: str, cap: float | None = None
) -> dict[str, object]:
    """summary.json of a family run: headline, counts, where each family ends, verdicts.

    `cap` is the largest norm allowed, as a multiple of the base's; None without one.
    """
    matches = [match for match in ("kl", "activation") if pick(rows, kind="vector", match=match)]
    totals = {match: counts(rows, match, cap) for match in matches}
    return {
        "headline": headline(rows, totals, cosines, model),
        "counts": totals,
        "end": {match: total["end"] for match, total in totals.items()},
        "max_abs_cosine": dict(cosines),
        "sinks": left_out(rows),
        "verdicts": verdicts(rows),
    }


END = f"from there on fewer than half of any {WINDOW} consecutive vectors keep the behaviour"


def headline(
    rows: Sequence[Record], totals: Mapping[str, Mapping[str, Any]], cosines: Mapping[str, float], model: str
) -> str:
    """How many vectors keep the behaviour, under which conditions, and how many random vectors do the same."""
    base, plain = pick(rows, kind="base"), pick(rows, kind="unsteered")
    if not base or not totals:
        return f"No orthogonal family was found on {model}."
    match = max(totals, key=lambda name: (totals[name]["found"], name == "kl"))
    total = totals[match]
    vectors = f"{total['found']} mutually orthogonal vectors (largest |cosine| {cosines[match]:.0e})"
    if not total["judged"]:
        return (
            f"{vectors} were found on {model}. Whether they keep the behaviour is not defined: the base's answer to "
            f"“{plain[0]['prompt_text']}” shows none that is known ({base[0]['mode']})."
        )
    text = (
        f"{total['kept']} of {vectors}{_norms(total)} make {model} answer “{plain[0]['prompt_text']}” "
        f"{_shown(base[0], plain[0])}{_conditions(total)}. "
    )
    others = "".join(_also(rows, name, totals[name]) for name in totals if name != match)
    graded = f"{_graded(rows, match)}{_sinks(base[0])}"
    return f"{text}{_chance(rows, match, total)}{others}{graded}{_limits(total)}{_ending(total)}"


MATCHED_ON = {"kl": "next-token distributions", "activation": "target activations"}


def _also(rows: Sequence[Record], match: str, total: Mapping[str, Any]) -> str:
    """The same count for the family of the other match."""
    return f"Matched on {MATCHED_ON[match]}, {total['kept']} of {total['found']} do. " if total["judged"] else ""


def _graded(rows: Sequence[Record], match: str) -> str:
    """Between which posteriors of the base's behaviour the vectors lie, and random ones. It moves before a label."""
    family = numbers(pick(rows, kind="vector", match=match), "posterior")
    random = numbers(pick(rows, kind="control", match=match, control="isotropic"), "posterior")
    base = pick(rows, kind="base")[0]
    if not family or not random:
        return ""
    return (
        f"The posterior of {_named(base)} lies between {min(family):.2g} and {max(family):.2g} with all of them, "
        f"between {min(random):.2g} and {max(random):.2g} with random vectors. "
    )


def _sinks(base: Record) -> str:
    """What the base does to the stream where it makes attention sinks of ordinary positions."""
    count, positions = base.get("sinks"), base.get("positions")
    if not count:
        return ""
    return (
        f"The base turns {count} of {positions} positions into attention sinks, and its activations at the target are "
        "mostly theirs: no family that repeats them says anything about the behaviour. "
    )


def _named(base: Record) -> str:
    return "the base's own answer" if base["mode"] == AS_THE_BASE else str(base["mode"])


def _shown(base: Record, unsteered: Record) -> str:
    if base["mode"] != AS_THE_BASE:
        plain = "its usual answer" if unsteered["mode"] == OTHER else unsteered["mode"]
        return f"with {base['mode']} instead of {plain}, as their base vector does"
    begins = " ".join(str(base["text"]).split())[:60]
    return f"as their base vector does (“{begins}”; no rule names this behaviour: answers are compared with the base's)"


def _norms(total: Mapping[str, Any]) -> str:
    return "" if total["times_base"] is None else f" of up to {total['times_base']:.2g} × the base's norm"


def _conditions(total: Mapping[str, Any]) -> str:
    scaled = total["controls"].get("scaled_to_base")
    tried = f"of {_of(total)}" if _of(total) else ""
    return "" if scaled is None else f" ({total['at_base_norm']} {tried}at the base's own norm)"


def _chance(rows: Sequence[Record], match: str, total: Mapping[str, Any]) -> str:
    """How many random vectors do the same, and what follows if that is about as many."""
    if (random := total["controls"].get("isotropic")) is None:
        return ""
    verdict = exists(rows, match)
    low, high = (verdict.interval if verdict else None) or (0.0, 0.0)
    more = "" if low > 0 else ", which is as many" if high <= ABOVE_RANDOM else ", so it may be chance"
    return f"Of {_of(total)}random vectors of the same norms, {random} do{more}. "


def _of(total: Mapping[str, Any]) -> str:
    """How many vectors have controls, where not all of them do."""
    return "" if total["controlled"] == total["found"] else f"{total['controlled']} "


def _limits(total: Mapping[str, Any]) -> str:
    """How many vectors are at the norm cap, and how many searches stopped at the limit of steps or stalled."""
    parts = []
    if total["at_cap"]:
        parts.append(f"{total['at_cap']} lie at the norm cap ({total['cap']:g} × the base's)")
    if total["stopped"]:
        parts.append(f"{total['stopped']} searches stopped at the limit of steps")
    if total["stalled"]:
        parts.append(f"{total['stalled']} stalled before the gradient vanished")
    return f"{', '.join(parts[:-1])}{' and ' if parts[1:] else ''}{parts[-1]}. " if parts else ""


def _ending(total: Mapping[str, Any]) -> str:
    end = total["end"]
    if end is None:
        return "The family's end was not reached."
    return f"The family ends at index {end}: {END}."
