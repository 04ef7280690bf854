"""Gaussian diffusion: noise schedules, corruption, what a network is asked for, its loss and its bound.

At the times t = 1..T (and 0: no noise) x_t = signal_t x_0 + sigma_t noise, with signal_t^2 = alpha_bar_t =
prod_{s <= t} (1 - beta_s) and sigma_t^2 = 1 - alpha_bar_t (Ho et al. 2020, eq. 4). Everything takes the
network as `predict`, knows rows only as arrays with a leading axis [B, ...], and never what they show.

Data that live in a linear subspace (molecules without their centre of mass, rows with padding) come with
`project`, the orthogonal projection on it: a function of arrays [B, ...], applied to noise and to what the
network gives. Data known to lie in [-limit, limit] come with `limit` > 0, to which estimates of x_0 are cut.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from collapse_jax.config import choice, number
from collapse_jax.models.layers import placed

Predict = Callable[[jax.Array, jax.Array], jax.Array]  # (x_t [B, ...], t [B] or []) -> [B, ...]
Project = Callable[[jax.Array], jax.Array]

TARGETS = ("epsilon", "v", "x0")
START = 0  # index of the draw of x_T among a row's random numbers; step t uses index t


def identity(x: jax.Array) -> jax.Array:
    return x


@dataclasses.dataclass(frozen=True)
class Noising:
    """The forward process, what the network predicts, and how its errors are weighted.

    steps: T. schedule: "linear" in beta (Ho et al. 2020), "cosine" in alpha_bar (Nichol and Dhariwal 2021) or
        "sigmoid" in beta (GeoDiff, Xu et al. 2022).
    beta_first, beta_last: ends of the linear and the sigmoid schedule, as they are (not rescaled by T).
    target: the noise "epsilon", "v" = signal noise - sigma x_0 (Salimans and Ho 2022), or "x0".
    variance: of a reverse step from t to s: the "forward" 1 - alpha_bar_t / alpha_bar_s, right where x_0 is a unit
        Gaussian, or that of the "posterior" q(x_s | x_t, x_0), right where x_0 is known (Ho et al. 2020, section 3.2).
        It defines the model p: what ancestral sampling draws and what the bound is a bound of. With a perfect network
        at T = 1000 the bound lies 0.001 nats/dim above the truth of a density ("posterior": 0.4) and 0.01 above that
        of 8-bit images ("posterior": 0.4); where few values occur, as black and white, "posterior" is nearer by 0.3.
    weighting: "simple" is the squared error of the target, "bound" the variational bound itself.
    times: in training, drawn for each row apart ("uniform"), or one from each of B equal parts of 1..T
        ("stratified"), which has the same mean and less variance.
    bound_draws: times per row at which the bound is estimated in evaluation.
    """

    steps: int = number(1000, 2, 100_000)
    schedule: str = choice("cosine", ("linear", "cosine", "sigmoid"))
    beta_first: float = number(1e-4, 0.0, 1.0)
    beta_last: float = number(0.02, 0.0, 1.0)
    target: str = choice("epsilon", TARGETS)
    variance: str = choice("forward", ("posterior", "forward"))
    weighting: str = choice("simple", ("simple", "bound"))
    times: str = choice("stratified", ("stratified", "uniform"))
    bound_draws: int = number(8, 1, 10_000)

    def problems(self) -> Iterator[str]:
        if self.schedule != "cosine" and not 0 < self.beta_first <= self.beta_last < 1:
            yield f"beta_first={self.beta_first} and beta_last={self.beta_last} must be 0 < first <= last < 1"


class Level(NamedTuple):
    """Scale of the signal and of the noise; signal^2 + sigma^2 = 1.

    Both are kept, because in float32 neither gives the other where it is near 1.
    """

    signal: Any
    sigma: Any


def betas(noising: Noising) -> np.ndarray:
    """beta_1..beta_T, float64."""
    steps, first, last = noising.steps, noising.beta_first, noising.beta_last
    if noising.schedule == "linear":
        return np.linspace(first, last, steps)
    if noising.schedule == "sigmoid":
        return first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, steps)))
    offset = 0.008
    bars = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - bars[1:] / bars[:-1], 0.999)


def alpha_bars(noising: Noising) -> np.ndarray:
    """alpha_bar_0..alpha_bar_T, float64; alpha_bar_0 = 1 is no noise."""
    return np.exp(_log_alpha_bars(noising))


def _log_alpha_bars(noising: Noising) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.log1p(-betas(noising)))])


@cache
def levels(noising: Noising) -> Level:
    """The levels of t = 0..T, each [T + 1] in float64."""
    logs = _log_alpha_bars(noising)
    return Level(np.exp(logs / 2), np.sqrt(-np.expm1(logs)))


def lookup(table: np.ndarray, t: jax.Array, ndim: int = 0) -> jax.Array:
    """Entries of a table [T + 1] at the times t [B] or [], in float32, as [B, 1, ...] of `ndim` axes."""
    where = placed(*["data"] * t.ndim)
    found = jnp.asarray(table, jnp.float32).at[t].get(out_sharding=where)
    return found.reshape(found.shape + (1,) * (ndim - found.ndim)) if t.ndim else found


def level_at(noising: Noising, t: jax.Array, ndim: int) -> Level:
    """The levels at times t [B] or [], ready to scale arrays of `ndim` axes."""
    return Level(*(lookup(table, t, ndim) for table in levels(noising)))


def corrupt(x0: jax.Array, noise: jax.Array, level: Level) -> jax.Array:
    """x_t."""
    return level.signal * x0 + level.sigma * noise


def aim(x0: jax.Array, noise: jax.Array, level: Level, target: str) -> jax.Array:
    """What a perfect network would give, knowing x_0 and the noise."""
    return {"epsilon": noise, "x0": x0, "v": level.signal * noise - level.sigma * x0}[target]


def split(
    output: jax.Array, x_t: jax.Array, level: Level, target: str, limit: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """The network's output as its estimates of (x_0, noise), which together give x_t again.

    limit > 0: x_0 is cut to [-limit, limit], and the noise is what then remains. Needs sigma > 0, and
    signal > 0 for the target epsilon.
    """
    signal, sigma = level
    if target == "epsilon":
        x0, noise = (x_t - sigma * output) / signal, output
    elif target == "v":
        x0, noise = signal * x_t - sigma * output, sigma * x_t + signal * output
    else:
        x0, noise = output, (x_t - signal * output) / sigma
    if limit:
        x0 = jnp.where(jnp.isfinite(x0), jnp.clip(x0, -limit, limit), jnp.nan)
        noise = (x_t - signal * x0) / sigma
    return x0, noise


def row_noise(keys_B: jax.Array, index: jax.Array | int, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal numbers [B, *shape], those of row i from fold_in(keys_B[i], index) alone."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape))(keys_B)


def draw_times(key: jax.Array, rows: int, noising: Noising) -> jax.Array:
    """Times t [B] in 1..T for a training batch, each uniform by itself."""
    where = placed("data")
    u_B = jax.random.uniform(key, (rows,), out_sharding=where)
    if noising.times == "stratified":
        u_B = (jnp.arange(rows, out_sharding=where) + u_B) / rows
    return 1 + jnp.minimum((u_B * noising.steps).astype(jnp.int32), noising.steps - 1)


def error_scales(noising: Noising) -> np.ndarray:
    """[T + 1]: what an error of the network's output times this is, is an error of x_0 (NaN at t = 0)."""
    signal, sigma = levels(noising)
    scales = {"epsilon": sigma / signal, "v": sigma, "x0": np.ones_like(sigma)}[noising.target]
    return np.where(np.arange(noising.steps + 1), scales, np.nan)


def term_scales(noising: Noising) -> np.ndarray:
    """[T + 1]: the bound's term t in nats holds this times the squared error of x_0 (NaN at t = 0).

    For t > 1 it is, with the posterior's variance, half the drop of the signal-to-noise ratio from t - 1 to t
    (Kingma et al. 2021, eq. 13). For t = 1 it belongs to the Gaussian decoder, whose variance is beta_1.
    """
    signal, sigma = levels(noising)
    with np.errstate(divide="ignore"):
        ratio = (signal / sigma) ** 2
    scales = 0.5 * (ratio[:-1] - ratio[1:])
    if noising.variance == "forward":
        scales[1:] *= variance_ratios(noising)
    scales[0] = 0.5 / sigma[1] ** 2
    return np.concatenate([[np.nan], scales])


def variance_ratios(noising: Noising) -> np.ndarray:
    """[T - 1]: variance of the posterior over the forward variance, of the steps from t = 2..T."""
    sigma = levels(noising).sigma
    return (sigma[1:-1] / sigma[2:]) ** 2


def training_weights(noising: Noising) -> np.ndarray:
    """[T + 1]: weight of the squared error of the output at time t; "bound" is unbiased for t uniform."""
    if noising.weighting == "simple":
        return np.ones(noising.steps + 1)
    return noising.steps * term_scales(noising) * error_scales(noising) ** 2


def loss_terms(
    predict: Predict, x0_B: jax.Array, key: jax.Array, noising: Noising, project: Project = identity
) -> jax.Array:
    """Weighted squared error of the network in each row [B], summed over the row's elements.

    One time and one noise per row, drawn from `key` for the batch. Under the weighting "bound" the mean over
    draws is the negative variational bound in nats, but for terms without gradient.
    """
    key_t, key_noise = jax.random.split(key)
    t_B = draw_times(key_t, len(x0_B), noising)
    where = placed("data", *[None] * (x0_B.ndim - 1))
    noise = project(jax.random.normal(key_noise, x0_B.shape, out_sharding=where))
    level = level_at(noising, t_B, x0_B.ndim)
    output = project(predict(corrupt(x0_B, noise, level), t_B)).astype(jnp.float32)
    errors_B = row_sum((aim(x0_B, noise, level, noising.target) - output) ** 2)
    return errors_B * lookup(training_weights(noising), t_B)


def row_sum(x_B: jax.Array) -> jax.Array:
    """[B, ...] -> [B]."""
    return jnp.sum(x_B, tuple(range(1, x_B.ndim)))


def bound_terms(
    predict: Predict,
    x0_B: jax.Array,
    keys_B: jax.Array,
    noising: Noising,
    *,
    project: Project = identity,
    limit: float = 0.0,
    bin_width: float = 0.0,
    dims_B: jax.Array | float | None = None,
) -> dict[str, jax.Array]:
    """The negative variational bound on log p(x_0) of each row [B] in nats, as its three terms.

    prior: KL(q(x_T | x_0) || N(0, 1)), exact. steps: the sum over t = 2..T of KL(q(x_{t-1} | x_t, x_0) ||
    p(x_{t-1} | x_t)) (Ho et al. 2020, eq. 5), estimated without bias from `noising.bound_draws` times a row,
    one from each part of equal probability of a proposal that follows the terms of unit Gaussian data.
    decoder: -log p(x_0 | x_1) of a Gaussian around the estimate of x_0 with variance beta_1, from one draw of
    x_1: its density, or, with `bin_width` > 0, its mass on bins of that width around values on a grid that ends
    at -1 and 1, the outer bins open (eq. 13 there; 2/255 for 8 bits). Row i uses the random numbers of
    keys_B[i] alone.

    dims_B: dimension of the data's subspace where it is not the size of a row.
    """
    dims = math.prod(x0_B.shape[1:]) if dims_B is None else dims_B
    sigma = float(levels(noising).sigma[1])
    scales, edges, ratios = _proposal(noising)

    def body(draw: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, draw))(keys_B)
        u_B = (jnp.maximum(draw, 1) - 1 + jax.vmap(jax.random.uniform)(keys)) / noising.bound_draws
        drawn_B = 2 + jnp.sum(u_B[:, None] >= edges, 1, dtype=jnp.int32)
        t_B = jnp.where(draw == 0, jnp.ones_like(drawn_B), drawn_B)
        noise = project(row_noise(keys, 1, x0_B.shape[1:]))
        level = level_at(noising, t_B, x0_B.ndim)
        x_t = corrupt(x0_B, noise, level)
        output = project(predict(x_t, t_B)).astype(jnp.float32)
        estimate, _ = split(output, x_t, level, noising.target, limit)
        errors_B = row_sum((estimate - x0_B) ** 2)
        if bin_width:
            decoder_B = -row_sum(binned_log_mass(x0_B, estimate, sigma, bin_width))
        else:
            decoder_B = errors_B * lookup(scales, jnp.ones_like(t_B)) + dims * math.log(
                sigma * math.sqrt(2 * math.pi)
            )
        return errors_B * lookup(scales * ratios, t_B), decoder_B

    terms_DB, decoder_DB = jax.lax.map(body, jnp.arange(noising.bound_draws + 1))
    last = Level(*(float(table[-1]) for table in levels(noising)))
    spread = last.sigma**2 - 1 - 2 * math.log(last.sigma)
    wider = 0.0
    if noising.variance == "forward":
        shares = variance_ratios(noising)
        wider = 0.5 * float(np.sum(shares - 1 - np.log(shares)))
    return {
        "prior": 0.5 * (last.signal**2 * row_sum(x0_B**2) + dims * spread),
        "steps": jnp.mean(terms_DB[1:], 0) + dims * wider,
        "decoder": decoder_DB[0],
    }


def _proposal(noising: Noising) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(term scales, edges [T - 2], ratios [T + 1]): u in [0, 1) at or above k edges draws t = 2 + k, and the
    draw counts `ratios[t]` = 1 / its probability.

    The probability of t is proportional to the bound's term for a unit Gaussian, whose optimal squared error
    is 1 / (1 + SNR): in every direction of the data the counted term then lies between 0 and
    (1 + variance) times a constant, whatever the schedule. Probabilities are those of the float32 edges.
    """
    scales = term_scales(noising)
    terms = (scales * levels(noising).sigma ** 2)[2:]  # 1 / (1 + SNR) = sigma^2
    cumulative = np.cumsum(terms / terms.sum()).astype(np.float32)
    cumulative[-1] = 1
    chances = np.diff(cumulative.astype(np.float64), prepend=0)
    with np.errstate(divide="ignore"):
        ratios = np.concatenate([[1, 1], np.where(chances > 0, 1 / chances, 0)])
    return np.where(np.isnan(scales), 0, scales), cumulative[:-1], ratios


def binned_log_mass(x: jax.Array, mean: jax.Array, sigma: float, width: float) -> jax.Array:
    """log of the Gaussian mass on [x - width / 2, x + width / 2], reaching to -inf at x = -1 and inf at 1."""
    low, high = (x - mean - width / 2) / sigma, (x - mean + width / 2) / sigma
    # In the lower tail, where the logarithm of the distribution function is exact; the other is its mirror.
    mirrored = low + high > 0
    low, high = jnp.where(mirrored, -high, low), jnp.where(mirrored, -low, high)
    first, last = x < -1 + width / 2, x > 1 - width / 2
    open_low = jnp.where(mirrored, last, first)
    open_high = jnp.where(mirrored, first, last)
    top = jnp.where(open_high, 0.0, log_ndtr(high))
    bottom = jnp.where(open_low, -jnp.inf, log_ndtr(low))
    return top + jnp.log(-jnp.expm1(bottom - top))
