"""The eight definitions of model collapse, each held against the records of an experiment.

Schaeffer, Kazdan, Arulandu & Koyejo 2025 (arXiv 2503.03150). A verdict speaks of the generations that were
measured, at a declared threshold, with a 95 % interval over seeds: "yes" and "no" where the interval lies on
one side of the threshold, "undecided" where it does not (one seed never decides, but a loss that is not
finite does), "does not apply" where no record measures what the definition speaks of. The rule of each
definition stands at its function.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from collapse_jax.measures.changes import contrast, exponentiated, not_finite, ratio, usable
from collapse_jax.measures.evidence import EVIDENCE, NAMES, VANISHING, Evidence, Thresholds, measured_as
from collapse_jax.measures.scaling import clean, exponent_change
from collapse_jax.measures.series import Curve, Quantity, Record, curves
from collapse_jax.measures.stats import Estimate, Interval

YES, NO, UNDECIDED, NOT_APPLICABLE = "yes", "no", "undecided", "does not apply"


@dataclass(frozen=True)
class Finding:
    """One definition judged for one arm.

    interval: the estimate, in the threshold's unit; relation: "above", "below" or "beyond" (either way), what
    the definition asks of the estimate; how: metric and comparison in one line; seeds: how many were used;
    change: "rise" or "drop" where shares are compared by difference.
    """

    definition: int
    verdict: str
    interval: Interval = field(default=Interval(math.nan))
    relation: str = ""
    threshold: float = math.nan
    metric: str = ""
    how: str = ""
    seeds: int = 0
    change: str = ""

    @property
    def name(self) -> str:
        return NAMES[self.definition - 1]


Profile = dict[str, tuple[Finding, ...]]
Sizes = Mapping[str, tuple[str, float]]
Measured = tuple[Quantity, Curve]


def profile(
    records: Iterable[Record],
    thresholds: Thresholds | None = None,
    sizes: Sizes | None = None,
    evidence: Mapping[int, tuple[Evidence, ...]] = EVIDENCE,
) -> Profile:
    """The collapse profile: arm -> eight findings, in the order of the definitions.

    records: lines of records.jsonl of any family, one a seed or means with `se` and `seeds`.
    sizes: arm -> (name of a series, real rows): arms that differ in the size of their data only share a name;
    without it no change in scaling law can be seen.
    """
    return judge(curves(records), thresholds, sizes, evidence)


def judge(
    panels: Mapping[Quantity, Mapping[str, Curve]],
    thresholds: Thresholds | None = None,
    sizes: Sizes | None = None,
    evidence: Mapping[int, tuple[Evidence, ...]] = EVIDENCE,
) -> Profile:
    """`profile` of records that are curves already."""
    limits = thresholds or Thresholds()
    arms: dict[str, dict[str, Measured]] = {}
    for q in sorted(panels, key=_preference, reverse=True):
        for arm, curve in panels[q].items():
            arms.setdefault(arm, {})[q.metric] = q, curve
    order = list(dict.fromkeys(arm for by_arm in panels.values() for arm in by_arm))
    laws = _scaling(arms, sizes or {}, evidence[4], limits)
    return {
        arm: tuple(
            laws[arm] if k == 4 and arm in laws else _one(k, arms[arm], evidence[k], limits)
            for k in range(1, 9)
        )
        for arm in order
    }


def _preference(q: Quantity) -> tuple[bool, str, str]:
    """Held-out real data, the samples or the population before any other split."""
    return q.split not in ("real_test", "synthetic", "population"), q.split, q.unit


def _one(
    k: int, measured: Mapping[str, Measured], evidence: tuple[Evidence, ...], limits: Thresholds
) -> Finding:
    """The finding of the first evidence that applies."""
    if k == 4:
        how = "needs three arms or more that differ in their real rows only"
        return Finding(k, NOT_APPLICABLE, how=how)
    there = [e._replace(metric=m) for e in evidence if (m := measured_as(e.metric, measured))]
    if not there:
        return Finding(k, NOT_APPLICABLE, how=f"needs {' or '.join(e.metric for e in evidence)}")
    findings = (_judged(k, e, *measured[e.metric], limits) for e in there)
    first = next(findings)
    return next((f for f in (first, *findings) if f.verdict != NOT_APPLICABLE), first)


def _judged(k: int, e: Evidence, quantity: Quantity, curve: Curve, limits: Thresholds) -> Finding:
    columns = usable(curve)
    gone = not_finite(curve)
    if not len(columns) or curve.generations_G[columns[0]] != 1:
        return Finding(k, UNDECIDED, metric=e.metric, how=f"{e.metric}: no value in generation 1")
    if k in (1, 2) and gone:
        endless = Interval(math.inf, math.inf, math.inf)
        limit = limits.catastrophic if k == 1 else limits.increase
        how = f"{e.metric}: {gone}, and counts as infinite"
        return Finding(k, YES, endless, "above", limit, e.metric, how, int(curve.n_G.max()))
    if len(columns) < 2:
        return Finding(k, UNDECIDED, metric=e.metric, how=f"{e.metric}: one generation")
    if k == 2:
        return _any_increase(e.metric, curve, columns, limits)
    if k == 3:
        return _diverging(e.metric, curve, columns, limits, gone)
    return _compared(k, e, quantity.unit, curve, columns, limits, gone)


def _compared(
    k: int, e: Evidence, unit: str, curve: Curve, columns: np.ndarray, limits: Thresholds, gone: str
) -> Finding:
    """1, 5, 6, 7, 8: the last generation against generation 1, yes beyond the threshold, no within it.

    A definition that speaks of a limit of 0 is not answered "no" while the quantity still shrinks: undecided
    where the interval of last / middle generation lies below 1 - steady.
    """
    first, last = int(columns[0]), int(columns[-1])
    change, sign = _change(e.kind, unit, curve, first, last, limits.level)
    limit = getattr(limits, e.threshold)
    if math.isnan(change.value):
        how = f"{e.metric}: generation 1 is not above 0, so it has no ratio"
        return Finding(k, NOT_APPLICABLE, metric=e.metric, how=how)
    verdict = _side(change, limit, sign)
    notes = [gone] if gone else []
    if k in VANISHING and verdict == NO and sign < 0:
        middle = int(columns[len(columns) // 2])
        late, _ = _change(e.kind, unit, curve, middle, last, limits.level)
        if middle < last and late.high < 1 - limits.steady:
            verdict = UNDECIDED
            notes.append(f"above the threshold and still falling since generation {_t(curve, middle)}")
    words = {"rises": "minus generation 1", "drops": "below generation 1"}.get(e.kind, "over generation 1")
    what = f"exp({e.metric})" if _logarithmic(e.kind, unit) else e.metric
    what = f"{what} squared" if e.kind == "shrinks_squared" else what
    how = f"{what}: generation {_t(curve, last)} {words}"
    n = _seeds(curve, columns)
    relation = "above" if sign > 0 else "below"
    way = {"rises": "rise", "drops": "drop"}.get(e.kind, "")
    return Finding(k, verdict, change, relation, limit, e.metric, _told(how, curve, n, notes), n, way)


def _change(kind: str, unit: str, curve: Curve, first: int, last: int, level: float) -> tuple[Interval, int]:
    """(change between two columns, +1 where the definition speaks of large values, -1 where of small)."""
    if kind in ("rises", "drops"):
        sign = 1 if kind == "rises" else -1
        return _interval(contrast(curve, {last: sign, first: -sign}, level)), 1
    sign = -1 if kind.startswith("shrinks") else 1
    if _logarithmic(kind, unit):
        scale = math.log(2) if unit.startswith("bit") else 1.0
        return exponentiated(contrast(curve, {last: 1, first: -1}, level), scale), sign
    r = _interval(ratio(curve, first, last, level))
    if kind == "shrinks_squared":
        r = Interval(r.value**2, max(r.low, 0.0) ** 2 if r.low == r.low else r.low, r.high**2)
    return r, sign


def _logarithmic(kind: str, unit: str) -> bool:
    """A loss in nats or bits has no natural zero; its exponential, a ratio of likelihoods, has one."""
    return kind.endswith("_log") or (kind == "risk" and unit.startswith(("nat", "bit")))


def _any_increase(metric: str, curve: Curve, columns: np.ndarray, limits: Thresholds) -> Finding:
    """2: the largest mean rise over generation 1, with intervals that hold for all generations at once.

    Bonferroni over generations 2..T makes [max of the lower ends, max of the upper ends] cover the largest
    rise. "yes" where the lower end is above the threshold, "no" where the upper end is not.
    """
    first, later = int(columns[0]), [int(c) for c in columns[1:]]
    level = 1 - (1 - limits.level) / len(later)
    rises = [contrast(curve, {c: 1, first: -1}, level) for c in later]
    top = int(np.argmax([r.mean for r in rises]))
    sure = [r for r in rises if math.isfinite(r.half)]
    interval = Interval(rises[top].mean)
    if len(sure) == len(rises):
        interval = Interval(rises[top].mean, max(r.low for r in sure), max(r.high for r in sure))
    n = _seeds(curve, columns)
    at = _t(curve, later[top])
    how = f"{metric}: largest rise over generation 1, at generation {at} ({len(later)} compared)"
    verdict = _side(interval, limits.increase, 1)
    return Finding(2, verdict, interval, "above", limits.increase, metric, _told(how, curve, n, []), n)


def _diverging(metric: str, curve: Curve, columns: np.ndarray, limits: Thresholds, gone: str) -> Finding:
    """3: whether the risk keeps up with log t to the end; no finite curve can prove a limit.

    Per e-fold of t a logarithm always rises by the same, a power of t by more and more, whatever levels off
    by less and less. The estimate is this rate after the geometric middle of generations 2..T minus the rate
    before it. "yes" (it does not slow down: evidence of divergence, no proof) where the estimate and the rise
    over the last half of the generations are above 0. "no" where the estimate is below 0, or the rate of the
    last half is below that of the first, or the last half does not rise. Otherwise undecided. Generation 1 is
    left out: the step from real to synthetic data is a jump of its own. Four generations at least; the three
    intervals hold together (Bonferroni).
    """
    n = _seeds(curve, columns)
    if gone or len(columns) < 4:
        few = f"{len(columns)} generations are too few"
        why = f"{gone}, which tells nothing of the limit" if gone else few
        return Finding(3, UNDECIDED, metric=metric, how=f"{metric}: {why}", seeds=n)
    begin, last, inner = int(columns[1]), int(columns[-1]), columns[2:-1]
    log_G = np.log(curve.generations_G)
    middle = int(inner[np.abs(log_G[inner] - (log_G[begin] + log_G[last]) / 2).argmin()])
    half = max(int(columns[(len(columns) - 1) // 2]), int(inner[0]))
    level = 1 - (1 - limits.level) / 3
    bend, end = (_bend(curve, begin, at, last, level) for at in (middle, half))
    late = contrast(curve, {last: 1, half: -1}, level)
    if bend.high < 0 or end.high < 0 or late.high <= 0:
        verdict = NO
    else:
        verdict = YES if bend.low > 0 and late.low > 0 else UNDECIDED
    a, m, z = (_t(curve, c) for c in (begin, middle, last))
    how = f"{metric}: rise per e-fold of t from generation {m} to {z} minus that from {a} to {m}"
    notes = {
        YES: ["no slower than log t; a finite curve is no proof"],
        NO: ["slower than log t, or no rise at the end"],
    }.get(verdict, [])
    return Finding(3, verdict, _interval(bend), "above", 0.0, metric, _told(how, curve, n, notes), n)


def _bend(curve: Curve, begin: int, middle: int, last: int, level: float) -> Estimate:
    """Slope against log t after `middle` minus the slope before it."""
    log_G = np.log(curve.generations_G)
    early, late = 1 / (log_G[middle] - log_G[begin]), 1 / (log_G[last] - log_G[middle])
    return contrast(curve, {last: late, middle: -late - early, begin: early}, level)


def _scaling(
    arms: Mapping[str, Mapping[str, Measured]],
    sizes: Sizes,
    evidence: tuple[Evidence, ...],
    limits: Thresholds,
) -> dict[str, Finding]:
    """4: loss ~ rows^-c over arms that differ in their real rows only; c of generation 1 minus c of the last.

    A plateau counts: it lowers the exponent. "yes" where the interval of the change lies beyond +-threshold,
    "no" where it lies within. Three sizes at least, and losses above 0 (no density's).
    """
    series: dict[str, list[tuple[float, str]]] = {}
    for arm, (name, rows) in sizes.items():
        if arm in arms:
            series.setdefault(name, []).append((float(rows), arm))
    out = {}
    for found in series.values():
        metric = next((e.metric for e in evidence if all(e.metric in arms[a] for _, a in found)), "")
        if not metric or len({rows for rows, _ in found}) < 3:
            continue
        finding = _law(metric, [(rows, arms[arm][metric][1]) for rows, arm in sorted(found)], limits)
        out |= {arm: finding for _, arm in found if finding}
    return out


def _law(metric: str, by_size: list[tuple[float, Curve]], limits: Thresholds) -> Finding | None:
    shared = set.intersection(*({int(t) for t in c.generations_G[usable(c)]} for _, c in by_size))
    if 1 not in shared or len(shared) < 2:
        return None
    last = max(shared)
    ends = [tuple(int(np.flatnonzero(c.generations_G == t)[0]) for t in (1, last)) for _, c in by_size]
    ratios = [ratio(c, a, z, limits.level) for (_, c), (a, z) in zip(by_size, ends, strict=True)]
    if any(not r.mean > 0 for r in ratios):
        how = f"{metric}: not above 0 everywhere, so no power of the rows"
        return Finding(4, NOT_APPLICABLE, metric=metric, how=how)
    rows_N = np.array([rows for rows, _ in by_size])
    losses_N2 = np.array([c.mean_G[list(at)] for (_, c), at in zip(by_size, ends, strict=True)])
    before, after = (clean(rows_N, losses_N).exponent for losses_N in losses_N2.T)
    change = exponent_change(rows_N, ratios, limits.level)
    limit = limits.exponent
    if change.low > limit or change.high < -limit:
        verdict = YES
    else:
        verdict = NO if change.low >= -limit and change.high <= limit else UNDECIDED
    n = min(r.n for r in ratios)
    how = (
        f"{metric} ~ rows^-c: c = {before:.3f} in generation 1, {after:.3f} in generation {last}, "
        f"{len(rows_N)} sizes from {rows_N[0]:,.0f} to {rows_N[-1]:,.0f} rows"
    )
    how = _told(how, by_size[0][1], n, [])
    return Finding(4, verdict, _interval(change), "beyond", limit, metric, how, n)


def _side(x: Interval, limit: float, sign: int) -> str:
    """Which side of the limit the whole interval is on; touching it is "no"."""
    if sign * x.low > sign * limit and sign * x.high > sign * limit:
        return YES
    return NO if sign * x.low <= sign * limit and sign * x.high <= sign * limit else UNDECIDED


def _interval(e: Estimate) -> Interval:
    return Interval(e.mean, e.low, e.high)


def _t(curve: Curve, column: int) -> int:
    return int(curve.generations_G[column])


def _seeds(curve: Curve, columns: np.ndarray) -> int:
    return int(curve.n_G[columns].min())


def _told(how: str, curve: Curve, n: int, notes: list[str]) -> str:
    single = "one seed: no interval"
    seeds = f"{n:,} seeds, {'paired' if len(curve.values_SG) else 'means only'}" if n > 1 else single
    return "; ".join([how, seeds, *notes])
