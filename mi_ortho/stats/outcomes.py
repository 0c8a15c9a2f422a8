"""Decisions, verdicts, and the words for what they came to: one wording, here.

A decision holds the whole interval against a threshold that was fixed before. It has four outcomes: supported, not
supported, undecided, and invalid, which names the instrument that failed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mi_ortho.stats.measured import LEAST, LEAST_EQUAL, Interval, Measured

OUTCOMES = ("supported", "not supported", "undecided", "invalid")
Side = Literal["at least", "at most", "within"]


@dataclass(frozen=True)
class Gate:
    """A check of an instrument that a number must pass before it is read. `mi_ortho.stats.gates` makes them.

    Attributes:
        name: what is checked, in words.
        value: what was measured; None where nothing was, and then the gate is not passed.
        limit: what it had to keep.
        passed: whether it did.
        side: on which side of the limit the value had to lie.
    """

    name: str
    value: float | None
    limit: float
    passed: bool
    side: Literal["at least", "at most"] = "at most"

    @property
    def text(self) -> str:
        """The check in words, the same whether it was passed or not.

        >>> Gate("effect of random vectors", 0.78, 0.2, False).text
        'effect of random vectors: 0.78, must be at most 0.2'
        """
        value = "not measured" if self.value is None else f"{self.value:.3g}"
        return f"{self.name}: {value}, must be {self.side} {self.limit:.3g}"


@dataclass(frozen=True)
class Decision:
    """What holding a measurement against a threshold came to.

    Attributes:
        supported: None where it cannot be told.
        why: the reason, where it cannot.
        failed: the instrument that failed, where nothing can be concluded at all.
        p_value: of the test behind it, where there is one.
    """

    supported: bool | None
    why: str = ""
    failed: str = ""
    p_value: float | None = None

    @property
    def outcome(self) -> str:
        """One of OUTCOMES."""
        return word(self.supported, self.failed)


@dataclass(frozen=True)
class Verdict:
    """What a claim came to: its prediction with a threshold, the statistic measured, and its control on the same scale.

    `supported` is None when the measurement cannot decide, `interval` where a single number has no spread.

    Attributes:
        failed: the instrument that failed; with it the outcome is "invalid". Filled from `gates` where one failed.
        why: why it is undecided.
        n: independent values behind the interval.
        kind: of the interval.
        question: what is asked, where more than one report asks it.
        difference: value minus control, paired, on the scale of the value (of ratios: value over control).
        difference_interval: its 95 % interval.
        unit: what the n are: a name of `UNITS`.
        censored: how many of the values are only known to be at least so large.
        gates: checks of the instruments, passed or not.
        detectable: the smallest effect that a sample of this size shows in 80 % of the cases, in the unit of the value.
        separates: which theory the number tells from which.
        p_value: of the test behind the decision.
        p_adjusted: the same, corrected for the family of tests that it is one of.
        outcome: the word of OUTCOMES, made of `supported` and `failed`.
    """

    claim: str
    prediction: str
    statistic: str
    value: float | None
    interval: Interval | None
    threshold: float | None
    control: float | None
    supported: bool | None
    failed: str = ""
    why: str = ""
    n: int | None = None
    kind: str = ""
    question: str = ""
    difference: float | None = None
    difference_interval: Interval | None = None
    unit: str = ""
    censored: int = 0
    gates: tuple[Gate, ...] = ()
    detectable: float | None = None
    separates: str = ""
    p_value: float | None = None
    p_adjusted: float | None = None
    outcome: str = field(init=False)

    def __post_init__(self) -> None:
        if broken := failures(self.gates):
            object.__setattr__(self, "failed", self.failed or broken)
            object.__setattr__(self, "supported", None)
        object.__setattr__(self, "outcome", word(self.supported, self.failed))


def word(supported: object, failed: object = "") -> str:
    """The one wording of an outcome, on every page, in the terminal and in the docs.

    >>> word(True), word(False), word(None), word(True, "the ruler")
    ('supported', 'not supported', 'undecided', 'invalid')
    """
    if failed:
        return "invalid"
    return "supported" if supported is True else "not supported" if supported is False else "undecided"


def failures(gates: Sequence[Gate]) -> str:
    """The gates that were not passed, in words; empty where all were."""
    return "; ".join(gate.text for gate in gates if not gate.passed)


def outcome(verdict: Verdict | Mapping[str, object]) -> str:
    """The outcome of a verdict, also of one read from a file that an older version wrote."""
    if isinstance(verdict, Verdict):
        return verdict.outcome
    return word(verdict.get("supported"), verdict.get("failed"))


def tally(verdicts: Sequence[Verdict | Mapping[str, object]]) -> dict[str, int]:
    """How many verdicts have each outcome, in the order of OUTCOMES."""
    words = [outcome(each) for each in verdicts]
    return {each: words.count(each) for each in OUTCOMES}


def tally_text(verdicts: Sequence[Verdict | Mapping[str, object]]) -> str:
    """The tally as a part of a sentence; "invalid" only where there is one.

    >>> tally_text([{"supported": True}, {"supported": None}])
    '1 supported, 0 not supported and 1 undecided'
    """
    parts = [f"{count} {name}" for name, count in tally(verdicts).items() if count or name != "invalid"]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def decide(
    found: Measured, threshold: float, *, side: Side = "at least", failed: str = "", gates: Sequence[Gate] = ()
) -> Decision:
    """Hold a whole interval against a threshold.

    Args:
        found: the measurement.
        threshold: fixed before it; with "within" the margin around 0, so that absence is shown and not assumed.
        side: which side of the threshold was predicted.
        failed: the instrument that failed its check, in words; nothing is decided then.
        gates: checks of the instruments; one that was not passed is such an instrument.

    >>> from mi_ortho.stats import rate
    >>> decide(rate(20, 20), 0.5).outcome, decide(rate(0, 20), 0.5).outcome, decide(rate(0, 14), 0.05).outcome
    ('supported', 'not supported', 'undecided')
    """
    if failed := failed or failures(gates):
        return Decision(None, failed=failed)
    if why := _unreadable(found):
        return Decision(None, why)
    low, high = found.interval or (-math.inf, math.inf)
    inside, outside = {
        "at least": (low >= threshold, high < threshold),
        "at most": (high <= threshold, low > threshold),
        "within": (max(-low, high) <= threshold, low > threshold or high < -threshold),
    }[side]
    if inside or outside:
        return Decision(bool(inside))
    return Decision(None, "the interval holds the threshold")


def _unreadable(measured: Measured) -> str:
    """Why an interval decides nothing, whatever the threshold is; empty where it may."""
    count, ends = measured.n, measured.interval
    if measured.value is None and measured.censored and ends is None:
        return f"{measured.censored} of {count} counts are censored, so their mean is not known"
    if measured.value is None and (ends is None or not measured.n):
        return "not measured"
    if ends is None or math.isnan(ends[0]) or math.isnan(ends[1]) or math.isnan(measured.value or 0.0):
        return "one number, whose spread is not known"
    if ends == (-math.inf, math.inf):
        return "the values bound it on neither side"
    if count is not None and count < LEAST:
        return f"{count} values; at least {LEAST} are needed"
    if ends[0] == ends[1] and count is not None and count < LEAST_EQUAL:
        return f"{count} equal values do not show how far others would lie; {LEAST_EQUAL} would"
    return ""


def stands(p_value: float, draws: int, level: float) -> Decision:
    """Whether a p-value from so many draws reaches a level; undecided when they are too few to ever reach it.

    >>> stands(0.005, 999, 0.01).supported, stands(0.2, 999, 0.01).supported, stands(0.1, 9, 0.01).supported
    (True, False, None)
    """
    if 1 / (1 + draws) > level:
        return Decision(None, f"{draws} draws of the null can never reach p = {level}")
    return Decision(p_value <= level)


def all_of(decisions: Sequence[Decision]) -> Decision:
    """Of conditions that must hold together: invalid before refuted, refuted before undecided.

    All of them holding is as improbable as the weakest is (the intersection-union test, Berger 1982).
    """
    for outcome_word in ("invalid", "not supported", "undecided"):
        if matches := [each for each in decisions if each.outcome == outcome_word]:
            return matches[0]
    p_values = [each.p_value for each in decisions if each.p_value is not None]
    return Decision(True, p_value=max(p_values, default=None)) if decisions else Decision(None, "not measured")


def agreed(decisions: Sequence[Decision]) -> Decision:
    """The common outcome of several ways to ask one question; undecided where they do not agree."""
    if bad := [each for each in decisions if each.failed]:
        return bad[0]
    answers = {each.supported for each in decisions}
    return decisions[0] if len(answers) == 1 else Decision(None, "the ways to measure it do not agree")


def judge(
    claim: str,
    prediction: str,
    statistic: str,
    found: Measured,
    threshold: float | None,
    control: float | None,
    decision: Decision,
    question: str = "",
    *,
    difference: Measured | None = None,
    gates: Sequence[Gate] = (),
    detectable: float | None = None,
    separates: str = "",
) -> Verdict:
    """The verdict of a decision, with everything that it stands on.

    Args:
        claim, prediction, statistic: in words.
        found: the measurement.
        threshold: that it was held against.
        control: the same statistic where the claim should not hold.
        decision: what holding it against the threshold came to.
        question: what is asked, where more than one report asks it.
        difference: value minus control, paired.
        gates: checks of the instruments; one that was not passed makes the outcome invalid, whatever was decided.
        detectable: the smallest effect that such a sample shows in 80 % of the cases.
        separates: which theory the number tells from which.
    """
    return Verdict(
        claim,
        prediction,
        statistic,
        found.value,
        found.interval,
        threshold,
        control,
        None if decision.failed else decision.supported,
        failed=decision.failed,
        why=decision.why,
        n=found.n,
        kind=found.kind,
        question=question,
        difference=difference.value if difference else None,
        difference_interval=difference.interval if difference else None,
        unit=found.unit,
        censored=found.censored,
        gates=tuple(gates),
        detectable=detectable,
        separates=separates,
        p_value=decision.p_value,
    )
