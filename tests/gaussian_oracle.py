"""Gaussian data, for which the optimal denoiser and everything that follows from it is known exactly."""

import numpy as np

from collapse_jax.models.diffusion import aim, alpha_bars, level_at


def optimal(noising, mean, variance):
    """predict(x_t, t) of the exact E[x_0 | x_t], turned into what the network is asked for."""

    def predict(x_t, t):
        level = level_at(noising, t, x_t.ndim)
        gain = level.signal * variance / (level.signal**2 * variance + level.sigma**2)
        x0 = mean + gain * (x_t - level.signal * mean)
        return aim(x0, (x_t - level.signal * x0) / level.sigma, level, noising.target)

    return predict


def reverse_step(noising, t, s=None):
    """(weight of x_0, weight of x_t, posterior variance, forward variance) of a step t -> s: Ho et al., eq. 7."""
    bars = alpha_bars(noising)
    s = t - 1 if s is None else s
    alpha, bar_t, bar_s = bars[t] / bars[s], bars[t], bars[s]
    beta = 1 - alpha
    of_x0 = np.sqrt(bar_s) * beta / (1 - bar_t)
    of_xt = np.sqrt(alpha) * (1 - bar_s) / (1 - bar_t)
    return of_x0, of_xt, (1 - bar_s) / (1 - bar_t) * beta, beta


def law_of_samples(noising, mean, variance):
    """(mean, variance) that ancestral sampling with the optimal denoiser ends in, step by step."""
    bars, at, spread = alpha_bars(noising), 0.0, 1.0
    for t in range(noising.steps, 0, -1):
        of_x0, of_xt, posterior, forward = reverse_step(noising, t)
        gain = np.sqrt(bars[t]) * variance / (bars[t] * variance + 1 - bars[t])
        new = {"posterior": posterior, "forward": forward}[noising.variance] if t > 1 else 0.0
        at = of_x0 * (mean + gain * (at - np.sqrt(bars[t]) * mean)) + of_xt * at
        spread = (of_x0 * gain + of_xt) ** 2 * spread + new
    return at, spread


def bound(noising, mean, variance):
    """Expected (prior, steps, decoder) in nats per dimension of the optimal denoiser, term by term."""
    bars = alpha_bars(noising)

    def divergence(gap, own, other):
        return 0.5 * (np.log(other / own) + own / other - 1 + gap / other)

    def error(t):
        return variance * (1 - bars[t]) / (bars[t] * variance + 1 - bars[t])

    steps = 0.0
    for t in range(2, noising.steps + 1):
        of_x0, _, posterior, forward = reverse_step(noising, t)
        model = {"posterior": posterior, "forward": forward}[noising.variance]
        steps += divergence(of_x0**2 * error(t), posterior, model)
    first = 1 - bars[1]
    decoder = 0.5 * np.log(2 * np.pi * first) + error(1) / (2 * first)
    prior = divergence(bars[-1] * (mean**2 + variance), 1 - bars[-1], 1.0)
    return prior, steps, decoder
