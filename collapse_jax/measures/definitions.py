"""The eight definitions of model collapse, each held against the records of an experiment.

Schaeffer, Kazdan, Arulandu & Koyejo 2025 (arXiv 2503.03150). A verdict speaks of the generations that were
measured, with a 95 % interval over seeds held against a threshold (`verdicts`); one seed never decides, but a
loss that is not finite does, and so does an exact law of what is asked. "Does not apply": no record measures
what the definition speaks of. The rule of each definition, and its test, stand at its function.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from collapse_jax.measures.changes import contrast, exponentiated, largest_rise, not_finite, ratio, usable
from collapse_jax.measures.evidence import (
    BOUNDED,
    EVIDENCE,
    NAMES,
    VANISHING,
    Evidence,
    Thresholds,
    logarithm,
    measured_as,
)
from collapse_jax.measures.scaling import clean, exponent_change
from collapse_jax.measures.series import Curve, Quantity, Record, by_law, curves
from collapse_jax.measures.stats import Interval
from collapse_jax.measures.verdicts import (
    NO,
    NOT_APPLICABLE,
    TOO_FEW,
    UNDECIDED,
    YES,
    above,
    beyond,
    tolerance,
)

PACE = 0.75  # share of a straight line's pace that a curve keeps which is called diverging


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
    """The finding of one definition on one curve; what no interval can judge is answered here."""
    columns = usable(curve)
    gone = not_finite(curve)
    open_ = Finding(k, UNDECIDED, metric=e.metric, seeds=int(curve.n_G.max(initial=0)))
    if not len(columns) or curve.generations_G[columns[0]] != 1:
        return replace(open_, how=f"{e.metric}: no value in generation 1")
    if k == 3 and (law := _law_of_divergence(e.metric, quantity.unit, curve)):
        return law
    if k in (1, 2) and gone:
        endless = Interval(math.inf, math.inf, math.inf)
        how = f"{e.metric}: {gone}, and counts as infinite"
        limit = limits.catastrophic if k == 1 else 0.0
        return replace(open_, verdict=YES, interval=endless, relation="above", threshold=limit, how=how)
    if len(columns) < 2:
        return replace(open_, how=f"{e.metric}: one generation")
    if curve.tail_G[columns].any():
        law = by_law(curve)
        why = f"{TOO_FEW}, whose mean the rarest chains carry"
        if law is None:
            return replace(open_, how=f"{e.metric}: {why}")
        finding = _judged(k, e, quantity, law, limits)
        return replace(finding, how=f"{finding.how}; by its exact law: {why}")
    if k == 2:
        return _any_increase(e.metric, quantity.unit, curve, columns, limits)
    if k == 3:
        return _diverging(e.metric, quantity.unit, curve, columns, limits, gone)
    return _compared(k, e, quantity.unit, curve, columns, limits, gone)


def _compared(
    k: int, e: Evidence, unit: str, curve: Curve, columns: np.ndarray, limits: Thresholds, gone: str
) -> Finding:
    """1, 5, 6, 7, 8: the last generation against generation 1, yes beyond the threshold, no within it.

    Differences by a paired t test, ratios by the delta method on pairs. A definition that speaks of a limit of
    0 is not answered "no" while the quantity still shrinks: undecided where the interval of last / middle
    generation lies below 1 - steady.
    """
    first, last = int(columns[0]), int(columns[-1])
    change, sign = _change(e.kind, unit, curve, first, last, limits.level)
    limit = getattr(limits, e.threshold)
    if math.isnan(change.value):
        how = f"{e.metric}: generation 1 is not above 0, so it has no ratio"
        return Finding(k, NOT_APPLICABLE, metric=e.metric, how=how)
    verdict = above(change, limit) if sign > 0 else above(-change, -limit)
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
        return contrast(curve, {last: sign, first: -sign}, level).interval, 1
    sign = -1 if kind.startswith("shrinks") else 1
    if _logarithmic(kind, unit):
        return exponentiated(contrast(curve, {last: 1, first: -1}, level), logarithm(unit) or 1.0), sign
    r = ratio(curve, first, last, level).interval
    if kind == "shrinks_squared":
        r = Interval(r.value**2, max(r.low, 0.0) ** 2 if r.low == r.low else r.low, r.high**2)
    return r, sign


def _logarithmic(kind: str, unit: str) -> bool:
    """A loss in nats or bits has no natural zero; its exponential, a ratio of likelihoods, has one."""
    return kind.endswith("_log") or (kind == "risk" and logarithm(unit) > 0)


def _any_increase(metric: str, unit: str, curve: Curve, columns: np.ndarray, limits: Thresholds) -> Finding:
    """2: the largest mean rise over generation 1: yes above 0, no where all are within the margin."""
    first, later = int(columns[0]), columns[1:]
    rise, top = largest_rise(curve, first, later, limits.level)
    margin = tolerance(curve, first, unit, limits)
    verdict = above(rise, 0.0, margin)
    n = _seeds(curve, columns)
    how = f"{metric}: largest rise over generation 1, at generation {_t(curve, top)} ({len(later)} compared)"
    notes = [f"no rise above {margin:.3g}"] if verdict == NO else []
    if verdict == YES and rise.value <= margin:
        notes = [f"slight: not above {margin:.3g}"]
    return Finding(2, verdict, rise, "above", 0.0, metric, _told(how, curve, n, notes), n)


def _law_of_divergence(metric: str, unit: str, curve: Curve) -> Finding | None:
    """3, where it is known: by what the measure is, or by the law of the arm; not by any finite curve."""
    if unit in BOUNDED:
        verdict, why = NO, f"a {unit} cannot grow without bound"
    elif curve.diverges is not None:
        verdict, why = (YES, "its law grows without bound") if curve.diverges else (NO, "its law is bounded")
    else:
        return None
    return Finding(3, verdict, metric=metric, how=f"{metric}: {why}", seeds=int(curve.n_G.max(initial=0)))


def _diverging(
    metric: str, unit: str, curve: Curve, columns: np.ndarray, limits: Thresholds, gone: str
) -> Finding:
    """3: what the means over the first, middle and last third of generations 2..T say of the limit.

    early and late are the rises between the thirds. "no": the curve stays within the margin after generation 2,
    or late falls short of what a logarithm of t through the same early rise would reach. "yes": the last third
    lies above generation 1 by more than the margin, late is a rise, and it is above `PACE` of what a straight
    line would reach: a curve that levels off like a - b exp(-t / s) then does so with s about as long as the
    generations measured, or longer, which is evidence and no proof. Between the two the curve may still saturate:
    undecided, with what would decide it. Each is a contrast of a seed's own generations and a paired t test;
    "yes" needs all of its own, so they are not corrected (intersection-union). Generation 1 is no part of the
    thirds: the step from real to synthetic data is a jump of its own.
    """
    n = _seeds(curve, columns)
    if gone or len(columns) < 4:
        few = f"{len(columns)} generations are too few, 4 or more would decide"
        why = f"{gone}, which tells nothing of the limit" if gone else few
        return Finding(3, UNDECIDED, metric=metric, how=f"{metric}: {why}", seeds=n)
    first, thirds = columns[:1], np.array_split(columns[1:], 3)
    t_G = curve.generations_G.astype(float)

    def compare(*weights: float) -> Interval:
        """Interval of the weighted sum of generation 1 and the means of the thirds."""
        parts = zip((first, *thirds), weights, strict=True)
        return contrast(
            curve, {int(c): w / len(part) for part, w in parts for c in part}, limits.level
        ).interval

    def pace(x_G: np.ndarray) -> float:
        """late / early of a curve that is known."""
        a, b, c = (x_G[third].mean() for third in thirds)
        return float((c - b) / (b - a))

    def beyond_share(share: float) -> Interval:
        """late - share x early."""
        return compare(0, share, -1 - share, 1)

    late, risen = compare(0, 0, -1, 1), compare(-1, 0, 0, 1)
    margin = tolerance(curve, int(first[0]), unit, limits)
    beyond_log = beyond_share(pace(np.log(t_G)))
    flat = above(compare(0, -1, 0, 1), margin) == above(late, margin) == NO
    verdict, note = UNDECIDED, "more seeds or generations would decide"
    if flat or above(beyond_log, 0.0) == NO:
        verdict = NO
        note = f"within {margin:.3g} since generation 2" if flat else "slower than log t"
    elif risen.low > margin and late.low > 0 and beyond_share(PACE * pace(t_G)).low > 0:
        verdict, note = YES, f"keeps {PACE:.0%} of its pace at least; a finite curve is no proof"
    elif beyond_log.low > 0 and late.low > 0:
        a, b = (np.log(t_G[third]).mean() for third in thirds[1:])
        last = _t(curve, columns[-1])
        note = (
            f"outgrows log t but has not kept its pace for certain, so it may still saturate: a rise of less than "
            f"{late.value / (b - a) * math.log(2):.3g} from generation {last} to {2 * last} would show that"
        )
    middle, end = (f"{_t(curve, third[0])} to {_t(curve, third[-1])}" for third in thirds[1:])
    how = f"{metric}: mean of generations {end} minus that of {middle}"
    return Finding(3, verdict, late, "above", 0.0, metric, _told(how, curve, n, [note]), n)


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
    verdict = beyond(change.interval, limit)
    n = min(r.n for r in ratios)
    how = (
        f"{metric} ~ rows^-c: c = {before:.3f} in generation 1, {after:.3f} in generation {last}, "
        f"{len(rows_N)} sizes from {rows_N[0]:,.0f} to {rows_N[-1]:,.0f} rows"
    )
    how = _told(how, by_size[0][1], n, [])
    return Finding(4, verdict, change.interval, "beyond", limit, metric, how, n)


def _t(curve: Curve, column: int | np.integer) -> int:
    return int(curve.generations_G[column])


def _seeds(curve: Curve, columns: np.ndarray) -> int:
    return int(curve.n_G[columns].min())


def _told(how: str, curve: Curve, n: int, notes: list[str]) -> str:
    single = "one seed: no interval"
    seeds = f"{n:,} seeds, {'paired' if len(curve.values_SG) else 'means only'}" if n > 1 else single
    return "; ".join([how, seeds, *notes])
