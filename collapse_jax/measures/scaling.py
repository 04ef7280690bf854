"""Scaling laws fitted to (data size, loss) curves, their bootstrap intervals, the change between two curves.

The forms of A Tale of Tails (Dohmatob, Feng, Yang, Charton & Kempe 2024, arXiv 2402.07043), for data that
follow Zipf's law p_i ~ i^-beta with c = 1 - 1/beta:

- clean:   a T^-c
- double:  a T^-c + plateau; the plateau is a T0^-c for T0 synthetic rows, or k^-(beta - 1) for a tail cut at
rank k - triplet: a T^-c + b d^-cq + plateau, for models of width d
- mixing:  a share pi of real rows beside rows whose tail is cut: a plateau, then progress again ("grokking")

Losses are fitted by least squares in log loss, so that every size counts alike.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from collapse_jax.config import BadInput
from collapse_jax.measures.stats import LEVEL, Estimate, Interval, quantile

Fitter = Callable[..., "Law"]
SMALLEST = 1e-9  # share of the smallest loss below which a plateau is none


@dataclass(frozen=True)
class Law:
    """A fitted law. Losses have the unit of the data, sizes are rows.

    form: clean, double, triplet or mixing. scale: a. exponent: c. plateau: loss that more rows do not remove
    (of `mixing`: that more rows remove only once they are enough to show the tail).
    width_scale, width_exponent: b and c_q of `triplet`. real: pi, cut: p_k of `mixing`.
    residual_N: log fitted - log loss at the data. intervals: name -> bootstrap interval, empty without
    bootstrap.
    """

    form: str
    scale: float
    exponent: float
    plateau: float = 0.0
    width_scale: float = 0.0
    width_exponent: float = 0.0
    real: float = np.nan
    cut: float = np.nan
    residual_N: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    intervals: dict[str, Interval] = field(default_factory=dict)

    def __call__(self, sizes_N: np.ndarray, widths_N: np.ndarray | None = None) -> np.ndarray:
        """Loss at these sizes."""
        sizes_N = np.asarray(sizes_N, float)
        if self.form == "mixing":
            return _mixing(sizes_N, self.scale, self.exponent, self.cut, self.real)
        loss_N = self.scale * sizes_N**-self.exponent + self.plateau
        if self.form == "triplet":
            loss_N = loss_N + self.width_scale * np.asarray(widths_N, float) ** -self.width_exponent
        return loss_N

    @property
    def error(self) -> float:
        """Root mean square residual in log loss."""
        return float(np.sqrt(np.mean(np.square(self.residual_N))))

    @property
    def source_rows(self) -> float:
        """T0 of the double law: rows of a finite source that would leave this plateau, a T0^-c = plateau."""
        return float((self.scale / self.plateau) ** (1 / self.exponent)) if self.plateau > 0 else np.inf


@dataclass(frozen=True)
class Change:
    """What differs between two curves: second minus first, with the fits and bootstrap intervals."""

    first: Law
    second: Law
    exponent: Interval
    plateau: Interval


def clean(sizes_N: np.ndarray, losses_N: np.ndarray) -> Law:
    """loss = a T^-c: a straight line in log size and log loss. Needs two sizes."""
    t_N, y_N = _checked(sizes_N, losses_N, 2)
    design_N2 = np.stack([np.ones_like(t_N), -t_N], 1)
    (a, c), *_ = np.linalg.lstsq(design_N2, y_N, rcond=None)
    return Law("clean", float(np.exp(a)), float(c), residual_N=design_N2 @ [a, c] - y_N)


def double(sizes_N: np.ndarray, losses_N: np.ndarray) -> Law:
    """loss = a T^-c + plateau with c, plateau >= 0 (Theorem 2.1, Corollary 2.2). Needs three sizes.

    A grid of plateaus, each with its straight line, starts the least squares.
    """
    t_N, y_N = _checked(sizes_N, losses_N, 3)
    centre, least = t_N.mean(), float(np.exp(y_N.min()))

    def residual(x: np.ndarray) -> np.ndarray:
        a, c, p = x
        return np.logaddexp(a - np.exp(c) * (t_N - centre), p) - y_N

    starts = []
    for share in (SMALLEST, 0.3, 0.7, 0.9, 0.99):
        part = clean(np.exp(t_N), np.exp(y_N) - share * least)
        c = max(part.exponent, 1e-3)
        starts.append([np.log(part.scale) - c * centre, np.log(c), np.log(share * least)])
    (a, c, p), residual_N = _least(
        residual, starts, [(-700, 700), (-12, 4), (np.log(SMALLEST * least) - 1, np.log(least))]
    )
    c = float(np.exp(c))
    plateau = float(np.exp(p)) if p > np.log(SMALLEST * least) + 1e-3 else 0.0
    return Law("double", float(np.exp(a + c * centre)), c, plateau, residual_N=residual_N)


def triplet(sizes_N: np.ndarray, widths_N: np.ndarray, losses_N: np.ndarray) -> Law:
    """loss = a T^-c + b d^-cq + plateau (the capacity-limited memory). Five points that vary T and d."""
    t_N, y_N = _checked(sizes_N, losses_N, 5)
    d_N, _ = _checked(widths_N, losses_N, 5)
    t0, d0, top = t_N.mean(), d_N.mean(), float(y_N.mean())

    def residual(x: np.ndarray) -> np.ndarray:
        a, c, b, q, p = x
        terms = (a - np.exp(c) * (t_N - t0), b - np.exp(q) * (d_N - d0), np.full_like(t_N, p))
        return np.logaddexp.reduce(terms) - y_N

    wide = [(top - 40, top + 10), (-6, 2), (top - 40, top + 10), (-6, 2), (top - 40, float(y_N.min()))]
    low = float(y_N.min())
    starts = [
        [top - 1, np.log(c), top - 1, np.log(q), low + shift]
        for c in (0.3, 0.8)
        for q in (0.3, 0.8)
        for shift in (-0.5, -3.0)
    ]
    (a, c, b, q, p), residual_N = _least(residual, starts, wide)
    c, q = float(np.exp(c)), float(np.exp(q))
    scales = float(np.exp(a + c * t0)), float(np.exp(b + q * d0))
    return Law("triplet", scales[0], c, float(np.exp(p)), scales[1], q, residual_N=residual_N)


def mixing(sizes_N: np.ndarray, losses_N: np.ndarray, real: float | None = None) -> Law:
    """A share `real` (pi) of the rows is real, the others have their tail cut (Theorem 3.2). Four sizes.

    loss = a [T^-c Q(c, T p_k) + (pi T)^-c P(c, pi T p_k)], P and Q the regularised incomplete gamma
    functions: the memoriser's head is learned at rate T, its tail at rate pi T. It follows sum_i p_i exp(-T
    q_i) with the sum over ranks above and below k as an integral, falls as T^-c, rests at a p_k^c / Gamma(c +
    1) from T ~ 1/p_k to 1/(pi p_k) and falls again as (pi T)^-c. `real` is fitted unless given; p_k is the
    probability at the cut.
    """
    from scipy.special import gamma

    t_N, y_N = _checked(sizes_N, losses_N, 4 if real is None else 3)
    if real is not None and not 0 < real <= 1:
        raise BadInput(f"real={real:g} must be a share above 0 and at most 1")

    def unpack(x: np.ndarray) -> tuple[float, float, float, float]:
        share = float(np.exp(x[3])) if real is None else real
        return float(np.exp(x[0])), float(x[1]), float(np.exp(x[2])), share

    def residual(x: np.ndarray) -> np.ndarray:
        return np.log(_mixing(np.exp(t_N), *unpack(x))) - y_N

    a = float((y_N + 0.4 * t_N).min())
    cuts = np.linspace(t_N.min(), t_N.max(), 6)[1:-1]
    shares = (-1.0, -3.0, -6.0) if real is None else (0.0,)
    starts = [
        [a + (c - 0.4) * t_N.mean(), c, -cut, *([s] if real is None else [])]
        for c in (0.3, 0.6)
        for cut in cuts
        for s in shares
    ]
    bounds = [
        (-60, 60),
        (0.01, 0.99),
        (-t_N.max() - 5, -t_N.min() + 5),
        *([(-25.0, 0.0)] if real is None else []),
    ]
    x, residual_N = _least(residual, starts, bounds)
    scale, c, cut, share = unpack(x)
    return Law(
        "mixing", scale, c, float(scale * cut**c / gamma(c + 1)), real=share, cut=cut, residual_N=residual_N
    )


def _mixing(sizes_N: np.ndarray, scale: float, c: float, cut: float, real: float) -> np.ndarray:
    from scipy.special import gammainc, gammaincc

    early_N = sizes_N**-c * gammaincc(c, sizes_N * cut)
    late_N = (real * sizes_N) ** -c * gammainc(c, real * sizes_N * cut)
    return scale * (early_N + late_N)


def fit(
    form: Fitter,
    sizes_N: np.ndarray,
    losses: np.ndarray,
    rng: np.random.Generator,
    level: float = LEVEL,
    resamples: int = 400,
) -> Law:
    """A law with bootstrap intervals for its exponent and its plateau.

    losses: [N], or [seeds, N] with one row a seed, whose mean over seeds is fitted. Seeds are resampled as
    whole rows, so what a seed's sizes share stays; a single curve resamples its log residuals. The distances
    of the percentiles from the estimate are widened to Student's t (after Hesterberg 2015, arXiv 1411.5279):
    plain ones are too narrow for few seeds or sizes.
    form: `clean`, `double`, `mixing` or a function of (sizes_N, losses_N), such as one that gives `triplet`
    its widths.
    """
    law = form(sizes_N, np.mean(np.atleast_2d(losses), 0))
    draws_R2 = _resampled(form, law, sizes_N, losses, rng, resamples)
    freedom = _freedom(losses, law)
    exponent, plateau = (_percentiles(draws_R2[:, i], v, freedom, level) for i, v in enumerate(_pair(law)))
    return Law(**{**vars(law), "intervals": {"exponent": exponent, "plateau": plateau}})


def change(
    form: Fitter,
    sizes_N: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    rng: np.random.Generator,
    level: float = LEVEL,
    resamples: int = 400,
    paired: bool = False,
) -> Change:
    """Change of scaling law: exponent and plateau of `second` minus those of `first`, curves as in `fit`.

    paired: row s of both curves belongs to the same seed and is resampled as one.
    """
    laws = [form(sizes_N, np.mean(np.atleast_2d(x), 0)) for x in (first, second)]
    if paired and np.shape(first) != np.shape(second):
        raise BadInput(f"paired curves differ in shape: {np.shape(first)} and {np.shape(second)}")
    state = rng.integers(2**63)
    streams = [np.random.default_rng(state + (0 if paired else i)) for i in range(2)]
    a, b = (
        _resampled(form, law, sizes_N, x, stream, resamples)
        for law, x, stream in zip(laws, (first, second), streams, strict=True)
    )
    freedom = min(_freedom(x, law) for x, law in zip((first, second), laws, strict=True))
    before, after = map(_pair, laws)
    exponent, plateau = (
        _percentiles(b[:, i] - a[:, i], after[i] - before[i], freedom, level) for i in range(2)
    )
    return Change(laws[0], laws[1], exponent, plateau)


def exponent_change(sizes_N: np.ndarray, ratios: Sequence[Estimate], level: float = LEVEL) -> Estimate:
    """Exponent of one curve minus that of another from their ratios (other / one) at every size.

    log ratio = const + (c_one - c_other) log T: the slope by least squares, its standard error from those of
    the ratios (sizes independent, each with its own variance), Student t with the degrees of freedom of Welch
    1947 and Satterthwaite 1946. No resampling, so means will do.
    """
    t_N, y_N = _checked(sizes_N, np.array([r.mean for r in ratios]), 2)
    w_N = (t_N - t_N.mean()) / np.square(t_N - t_N.mean()).sum()
    variance_N = np.square(w_N * [r.se / r.mean for r in ratios])
    total = variance_N.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.square(variance_N / total) / [max(r.n - 1, 0) for r in ratios]
    degrees = 1 / shares.sum() if total > 0 else min(r.n for r in ratios) - 1
    se = math.sqrt(total)
    half = float(quantile(degrees + 1, level)) * se
    return Estimate(float(w_N @ y_N), half, se, min(r.n for r in ratios))


def _resampled(
    form: Fitter, law: Law, sizes_N: np.ndarray, losses: np.ndarray, rng: np.random.Generator, resamples: int
) -> np.ndarray:
    """[resamples, 2]: exponent and plateau of laws fitted to resampled curves."""
    losses = np.asarray(losses, float)
    if losses.ndim == 2 and len(losses) > 1:
        picks_RS = rng.integers(len(losses), size=(resamples, len(losses)))
        return np.array([_pair(form(sizes_N, losses[pick].mean(0))) for pick in picks_RS])
    fitted_N = np.atleast_2d(losses)[0] * np.exp(law.residual_N)
    residual_N = law.residual_N.mean() - law.residual_N
    picks_RN = rng.integers(len(fitted_N), size=(resamples, len(fitted_N)))
    return np.array([_pair(form(sizes_N, fitted_N * np.exp(residual_N[pick]))) for pick in picks_RN])


def _pair(law: Law) -> tuple[float, float]:
    return law.exponent, law.plateau


def _freedom(losses: np.ndarray, law: Law) -> tuple[int, int]:
    """(degrees of freedom, count that the bootstrap divides by)."""
    shape = np.atleast_2d(losses).shape
    if shape[0] > 1:
        return shape[0] - 1, shape[0]
    return max(shape[1] - {"clean": 2, "double": 3}.get(law.form, 4), 0), shape[1]


def _percentiles(draws_R: np.ndarray, value: float, freedom: tuple[int, int], level: float) -> Interval:
    """Percentiles moved away from the estimate; nan where nothing is left to estimate the spread from."""
    from scipy.special import ndtri

    degrees, count = freedom
    if degrees < 1:
        return Interval(value)
    tail = (1 - level) / 2
    wider = float(quantile(degrees + 1, level)) / -ndtri(tail) * np.sqrt(count / degrees)
    low, high = value + wider * (np.quantile(draws_R, [tail, 1 - tail]) - value)
    return Interval(value, float(low), float(high))


def _checked(sizes: np.ndarray, losses: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """(log sizes, log losses)."""
    sizes_N, losses_N = np.asarray(sizes, float), np.asarray(losses, float)
    if sizes_N.shape != losses_N.shape or sizes_N.ndim != 1:
        raise BadInput(
            f"sizes {sizes_N.shape} and losses {losses_N.shape} must be one line of the same length"
        )
    if not (np.isfinite(sizes_N) & np.isfinite(losses_N) & (sizes_N > 0) & (losses_N > 0)).all():
        raise BadInput("a scaling law needs sizes and losses that are finite and above 0")
    if len(sizes_N) < least or len(np.unique(sizes_N)) < 2:
        raise BadInput(f"{len(sizes_N)} points are too few for this scaling law; give at least {least}")
    return np.log(sizes_N), np.log(losses_N)


def _least(
    residual: Callable[[np.ndarray], np.ndarray],
    starts: Sequence[Sequence[float]],
    bounds: list[tuple[float, float]],
) -> tuple[np.ndarray, np.ndarray]:
    """(best parameters, residuals): the best quarter of the starts, each improved."""
    from scipy.optimize import least_squares

    low, high = np.array(bounds, float).T
    inside = [np.clip(s, low + 1e-9, high - 1e-9) for s in starts]
    cost = [float(np.square(residual(s)).sum()) for s in inside]
    best = sorted(range(len(inside)), key=cost.__getitem__)[: max(2, len(inside) // 4)]
    found = [
        least_squares(residual, inside[i], bounds=(low, high), xtol=1e-12, ftol=1e-12, gtol=1e-12)
        for i in best
    ]
    winner = min(found, key=lambda r: r.cost)
    return winner.x, winner.fun
