"""Records as curves: for every quantity and arm, values by seed and generation, their mean and interval."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.measures.stats import LEVEL, Estimate, column_estimates, quantile, zscores
from collapse_jax.reading import shown

Record = Mapping[str, Any]
REFERENCE = (
    "a tuple of published curves, each "
    "{'label': ..., 'arm': ..., 'metric': ..., 'points': ((generation, value), ...)}"
)


def reference_problems(reference: Sequence[Any]) -> Iterator[str]:
    """A line for every published curve in the settings that cannot be drawn."""
    for index, curve in enumerate(reference):
        if not isinstance(curve, Mapping):
            yield f"reference[{index}]={shown(curve)} must be a curve; reference is {REFERENCE}"
            continue
        for key in ("label", "arm", "metric"):
            if not isinstance(curve.get(key), str | None):
                yield f"reference[{index}].{key}={shown(curve[key])} must be a string"
        points = curve.get("points", ())
        if not isinstance(points, list | tuple) or not all(map(_is_point, points)):
            yield f"reference[{index}].points={shown(points)} must be pairs of numbers (generation, value)"


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list | tuple)
        and len(point) == 2
        and all(isinstance(x, int | float | None) for x in point)
    )


class Quantity(NamedTuple):
    """What one figure draws; the same metric in another unit or split is another quantity."""

    metric: str
    unit: str
    split: str


@dataclass(frozen=True)
class Curve:
    """One quantity of one arm over its generations.

    values_SG is nan where a seed has no finite value, diverged_SG true where one was recorded as not finite.
    mean_G, half_G, se_G, n_G summarise the seeds; predicted_G is nan where no law exists. exact_G is false
    where the law holds to leading order only, reliable_G where the mean is no normal distance from its law.
    tail_G is true where by the law itself so few seeds cannot estimate the mean at all; `diverges` says whether
    the law grows without bound, None where nobody knows.
    """

    generations_G: np.ndarray
    seeds: tuple[object, ...]
    values_SG: np.ndarray
    diverged_SG: np.ndarray
    mean_G: np.ndarray
    half_G: np.ndarray
    se_G: np.ndarray
    n_G: np.ndarray
    predicted_G: np.ndarray
    exact_G: np.ndarray
    reliable_G: np.ndarray
    tail_G: np.ndarray
    diverges: bool | None = None

    @property
    def z_G(self) -> np.ndarray:
        """Distance of the mean from its law in standard errors; nan where that would not be normal."""
        z_G = zscores(self.mean_G, self.se_G, self.predicted_G)
        return np.where(self.exact_G & self.reliable_G, z_G, np.nan)

    @property
    def whole_G(self) -> np.ndarray:
        """Generations whose mean is over every seed: a mean over survivors would flatter the curve."""
        return (self.n_G > 0) & (self.n_G == self.n_G.max(initial=0))

    @property
    def diverged(self) -> dict[object, int]:
        """Seed -> first generation that was not finite."""
        return {
            s: int(self.generations_G[row.argmax()])
            for s, row in zip(self.seeds, self.diverged_SG, strict=True)
            if row.any()
        }

    def at(self, column: int, level: float = LEVEL) -> Estimate:
        """The mean over seeds in one generation."""
        se, n = float(self.se_G[column]), int(self.n_G[column])
        return Estimate(float(self.mean_G[column]), float(quantile(n, level)) * se, se, n)


def with_seeds(curve: Curve, values_SG: np.ndarray | None) -> Curve:
    """A curve of means with the values of the seeds they are of, so that generations can be paired.

    Values of another shape or with other means are not those, and are left alone. Where the recorded error is
    not finite, because the squares overflow, it is that of the values.
    """
    if values_SG is None or values_SG.shape != (curve.n_G.max(initial=0), len(curve.generations_G)):
        return curve
    with np.errstate(over="ignore", invalid="ignore"):
        same_G = np.isclose(values_SG.mean(0), curve.mean_G, rtol=1e-6) | ~np.isfinite(curve.mean_G)
    if not same_G.all():
        return curve
    known_G = np.isfinite(curve.se_G)
    half_G, se_G = (curve.half_G, curve.se_G) if known_G.all() else column_estimates(values_SG)[1:3]
    return replace(
        curve,
        seeds=tuple(range(len(values_SG))),
        values_SG=values_SG,
        diverged_SG=np.zeros(values_SG.shape, bool),
        half_G=np.where(known_G, curve.half_G, half_G),
        se_G=np.where(known_G, curve.se_G, se_G),
    )


def by_law(curve: Curve) -> Curve | None:
    """The curve of its exact law, which has no error; None where it is not known everywhere."""
    if not (np.isfinite(curve.predicted_G) & curve.exact_G).all():
        return None
    nothing_SG, zero_G = np.zeros((0, len(curve.generations_G))), np.zeros(len(curve.generations_G))
    return replace(
        curve,
        seeds=(),
        values_SG=nothing_SG,
        diverged_SG=nothing_SG.astype(bool),
        mean_G=curve.predicted_G,
        half_G=zero_G,
        se_G=zero_G,
        tail_G=zero_G.astype(bool),
    )


def value(raw: Any) -> float:
    """A record's number as float: nan for null, text such as "nan" or "inf" read as such."""
    try:
        return float(raw)
    except (TypeError, ValueError):
        return math.nan


def curves(records: Iterable[Record]) -> dict[Quantity, dict[str, Curve]]:
    """Quantity -> arm -> curve, in the order of the records.

    A record without a seed is a mean over `seeds` repetitions with standard error `se`.
    """
    groups: dict[tuple[Any, ...], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for r in records:
        groups[r["metric"], str(r.get("unit") or ""), str(r.get("split") or "")][r["arm"]].append(r)
    return {Quantity(*key): {arm: _curve(rows) for arm, rows in arms.items()} for key, arms in groups.items()}


def _curve(records: list[Record]) -> Curve:
    generations = sorted({r["generation"] for r in records})
    seeds = sorted({r["seed"] for r in records if r.get("seed") is not None}, key=lambda s: (str(type(s)), s))
    column, line = {t: i for i, t in enumerate(generations)}, {s: i for i, s in enumerate(seeds)}
    values_SG = np.full((len(seeds), len(generations)), np.nan)
    diverged_SG = np.zeros(values_SG.shape, bool)
    predicted_G = np.full(len(generations), np.nan)
    exact_G, reliable_G = np.ones((2, len(generations)), bool)
    tail_G, diverges = np.zeros(len(generations), bool), None
    means = []
    for r in records:
        t, x = column[r["generation"]], value(r.get("value"))
        if r.get("predicted") is not None:
            predicted_G[t] = value(r["predicted"])
        exact_G[t] &= r.get("exact") is not False
        reliable_G[t] &= r.get("reliable") is not False
        tail_G[t] |= r.get("tail") is True
        diverges = r.get("diverges", diverges)
        if r.get("seed") is None:
            means.append((t, x, value(r.get("se")), r.get("seeds")))
        elif np.isfinite(x):
            values_SG[line[r["seed"]], t] = x
        else:
            diverged_SG[line[r["seed"]], t] = True
    mean_G, half_G, se_G, n_G = column_estimates(values_SG) if seeds else _blank(len(generations))
    for t, x, se, n in means:
        n = int(value(n)) if np.isfinite(value(n)) else 1
        mean_G[t], se_G[t], n_G[t], half_G[t] = x, se, n, float(quantile(n)) * se
    summary = mean_G, half_G, se_G, n_G, predicted_G, exact_G, reliable_G, tail_G, diverges
    return Curve(np.array(generations), tuple(seeds), values_SG, diverged_SG, *summary)


def _blank(columns: int) -> tuple[np.ndarray, ...]:
    return (*np.full((3, columns), np.nan), np.zeros(columns, int))
