"""From noise to data: ancestral sampling, DDIM and a second-order ODE solver as one compiled loop.

The random numbers of row i at step t come from fold_in(keys_B[i], t) alone, those of its start from
fold_in(keys_B[i], 0): what a row becomes does not depend on the batch that it is in, but for rounding.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.config import choice, number
from collapse_jax.models.diffusion import (
    START,
    Level,
    Noising,
    Predict,
    Project,
    aim,
    corrupt,
    identity,
    levels,
    row_noise,
    split,
)


@dataclasses.dataclass(frozen=True)
class Denoising:
    """How x_T becomes x_0.

    sampler: "ancestral" draws the reverse steps of DDPM with `noising.variance` (Ho et al. 2020, eq. 7), "ddim"
        is Song et al. 2021, "heun" the trapezoid rule for the probability flow, with two network evaluations a step.
    steps: 0: every time T..1, else this many, equally spaced from T.
    eta: of ddim; 0 is deterministic, 1 is ancestral with the variance of the posterior.
    """

    sampler: str = choice("ancestral", ("ancestral", "ddim", "heun"))
    steps: int = number(0, 0, 100_000)
    eta: float = number(0.0, 0.0, 1.0)


def problems(noising: Noising, denoising: Denoising) -> list[str]:
    """One line if the sampler cannot take its steps."""
    most = noising.steps - (denoising.sampler == "heun")
    if denoising.steps > most:
        return [f"sample.steps={denoising.steps} exceeds the {most} of the noising; lower it or use 0"]
    return []


def times(noising: Noising, denoising: Denoising) -> np.ndarray:
    """The times that are visited, falling from T to 0; "heun" takes second-order steps down to 1."""
    end = 1 if denoising.sampler == "heun" else 0
    steps = denoising.steps or noising.steps - end
    visited = np.rint(np.linspace(noising.steps, end, steps + 1)).astype(np.int32)
    return np.append(visited, 0) if end else visited


def start(keys_B: jax.Array, shape: tuple[int, ...], project: Project = identity) -> jax.Array:
    """x_T [B, *shape]."""
    return project(row_noise(keys_B, START, shape))


def denoise(
    predict: Predict,
    x_T: jax.Array,
    keys_B: jax.Array,
    noising: Noising,
    denoising: Denoising,
    *,
    project: Project = identity,
    limit: float = 0.0,
) -> jax.Array:
    """x_0 [B, ...] from x_T; predict(x_t, t) gets the time as a scalar and gives `noising.target`.

    project, limit: as in `models.diffusion`; what the network gives and every state are projected. Traceable.
    """

    def estimates(x: jax.Array, t: jax.Array, level: Level) -> tuple[jax.Array, jax.Array]:
        return split(project(predict(x, t)).astype(x.dtype), x, level, noising.target, limit)

    def first_order(x: jax.Array, step: Any) -> tuple[jax.Array, None]:
        t, _, now, then, spread, rest = step
        x0, noise = estimates(x, t, now)
        x = then.signal * x0 + rest * noise
        if random:
            x = x + spread * row_noise(keys_B, t, x.shape[1:])
        return project(x), None

    def heun(x: jax.Array, step: Any) -> tuple[jax.Array, None]:
        # With signal = cos a and sigma = sin a the probability flow is dx / da = v, smooth from noise to data.
        # The tangent makes the trapezoid exact where x_0 and the noise stay what they are, as DDIM is.
        t, s, now, then, *_ = step
        x0, noise = estimates(x, t, now)
        later_x0, later_noise = estimates(corrupt(x0, noise, then), s, then)
        v = aim(x0, noise, now, "v") + aim(later_x0, later_noise, then, "v")
        turn = jnp.arctan2(then.sigma, then.signal) - jnp.arctan2(now.sigma, now.signal)
        return project(x + jnp.tan(turn / 2) * v), None

    random = denoising.sampler == "ancestral" or (denoising.sampler == "ddim" and denoising.eta > 0)
    table = _table(noising, denoising)
    if denoising.sampler != "heun":
        return jax.lax.scan(first_order, x_T, table)[0]
    x, _ = jax.lax.scan(heun, x_T, jax.tree.map(lambda column: column[:-1], table))
    return first_order(x, jax.tree.map(lambda column: column[-1], table))[0]


def _table(noising: Noising, denoising: Denoising) -> Any:
    """Per step from t to s: t, s, the levels of both, and the scales of new and of estimated noise.

    The posterior's variance is (1 - alpha_bar_s) / (1 - alpha_bar_t) times the forward variance
    1 - alpha_bar_t / alpha_bar_s (Song et al. 2021, eq. 16); the last step, to s = 0, adds nothing.
    """
    visited = times(noising, denoising)
    t, s = visited[:-1], visited[1:]
    table = levels(noising)
    now, then = (Level(table.signal[at], table.sigma[at]) for at in (t, s))
    forward = np.sqrt(-np.expm1(2 * (np.log(now.signal) - np.log(then.signal))))
    spread = (1.0 if denoising.sampler == "ancestral" else denoising.eta) * forward * then.sigma / now.sigma
    rest = np.sqrt(np.maximum(then.sigma**2 - spread**2, 0))
    if denoising.sampler == "ancestral" and noising.variance == "forward":
        spread = np.where(s, forward, 0)
    wide = jax.tree.map(lambda column: jnp.asarray(column, jnp.float32), (now, then, spread, rest))
    return (jnp.asarray(t), jnp.asarray(s), *wide)
