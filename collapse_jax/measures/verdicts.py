"""The one place where an interval becomes a verdict: for the headline, the tables and the collapse profile.

An interval is held against two limits: "yes" where all of it lies above the first, "no" where none of it lies
above the second, "undecided" otherwise and without an interval. The limits are one where a definition draws a
line. They are two where it asks for any change at all: "yes" then is a t test of a change, "no" a test of
equivalence (two one-sided tests, Schuirmann 1987), which excludes changes beyond a margin. Without a margin no
number of seeds could ever say "no".
"""

import math
from dataclasses import dataclass

from collapse_jax.measures.changes import contrast, not_finite, usable
from collapse_jax.measures.evidence import Thresholds, logarithm
from collapse_jax.measures.series import Curve
from collapse_jax.measures.stats import NOTHING, Estimate, Interval

YES, NO, UNDECIDED, NOT_APPLICABLE = "yes", "no", "undecided", "does not apply"
TOO_FEW = "too few seeds for this tail"


def above(x: Interval, limit: float, within: float | None = None) -> str:
    """Whether a value exceeds `limit`, and if not, whether it stays `within` (default: the same limit)."""
    if x.low > limit:
        return YES
    return NO if x.high <= (limit if within is None else within) else UNDECIDED


def beyond(x: Interval, limit: float, within: float | None = None) -> str:
    """The same in either direction: beyond +-limit, within +-within."""
    sides = above(x, limit, within), above(-x, limit, within)
    return YES if YES in sides else NO if sides == (NO, NO) else UNDECIDED


def tolerance(curve: Curve, column: int, unit: str, limits: Thresholds) -> float:
    """How much of a rise over this column counts as none: a share of its mean, in the curve's unit.

    A loss in nats or bits has no natural zero: it is taken to be 1 at least, and its tolerance is never more
    than the likelihood ratio that counts as catastrophic.
    """
    size, most = abs(float(curve.mean_G[column])), limits.catastrophic - 1
    scale = logarithm(unit)
    if not scale:
        return min(limits.margin, max(most, 0.0)) * size
    return min(limits.margin * max(size, 1.0), math.log(max(limits.catastrophic, 1.0)) / scale)


@dataclass(frozen=True)
class Trend:
    """What became of a curve from its first usable column to its last; `word` is the verdict on the change."""

    first: int
    last: int
    change: Estimate
    word: str


def trend(curve: Curve, unit: str = "", limits: Thresholds | None = None) -> Trend:
    """The change from first to last generation, paired by seed, in one word.

    rises, falls: the interval of the change excludes 0 (slightly: its mean is within the margin); flat: it
    holds 0 and excludes changes beyond the margin; undecided: neither. One seed has no interval: up or down.
    """
    limits = limits or Thresholds()
    columns, gone = usable(curve), not_finite(curve)
    if not len(columns):
        return Trend(0, 0, NOTHING, "diverges" if gone else "no value")
    first, last = int(columns[0]), int(columns[-1])
    change = contrast(curve, {last: 1, first: -1} if last > first else {first: 0}, limits.level)
    if gone:
        return Trend(first, last, change, "diverges")
    if last == first:
        return Trend(first, last, change, "one generation")
    if curve.tail_G[[first, last]].any():
        return Trend(first, last, change, TOO_FEW)
    return Trend(first, last, change, word(change, tolerance(curve, first, unit, limits)))


def word(change: Estimate, margin: float) -> str:
    """`trend` for a change whose first value is known by its margin only."""
    if change.n == 1:
        return f"{'up' if change.mean > 0 else 'down' if change.mean < 0 else 'flat'} (one seed)"
    verdict = beyond(change.interval, 0.0, margin)
    if verdict == YES:
        way = "rises" if change.mean > 0 else "falls"
        return way if abs(change.mean) > margin else f"{way} slightly"
    return "flat" if verdict == NO else UNDECIDED
