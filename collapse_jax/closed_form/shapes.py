"""Point clouds as scikit-learn defines them (blobs, circles, moons, swiss roll): samplers and exact laws.

`sample` places points as `sklearn.datasets.make_*` does: evenly along the circles and moons (then shuffled),
independently on the swiss roll, in equal shares around the blobs, plus Gaussian noise. `second_moment` and
`characteristic` are exact expectations over such points for any number of rows.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.closed_form import draws

DIMENSIONS = {"blobs": 2, "circles": 2, "moons": 2, "swiss_roll": 3}
BLOBS, BOX = 3, 10.0  # centres of the blobs, uniform in [-10, 10]^2
INNER = 0.8  # radius of the inner circle
ROLL = (1.5 * np.pi, 4.5 * np.pi)  # angle, also the radius, of the swiss roll
WIDTH = 21.0  # of the swiss roll


def centers(key: jax.Array) -> jax.Array:
    """Random centres of the blobs, [3, 2]."""
    return BOX * (2 * draws.uniform(key, (BLOBS, 2)) - 1)


def sample(kind: str, key: jax.Array, rows: int, noise: float, blobs: Any = None) -> jax.Array:
    """[rows, d]; `blobs` are the centres and needed for kind "blobs" only."""
    of_place, of_order, of_noise = jax.random.split(key, 3)
    if kind == "blobs":
        clean = blobs[_shares(rows)]
    elif kind == "swiss_roll":
        u = draws.uniform(of_place, (rows, 2))
        t = ROLL[0] + (ROLL[1] - ROLL[0]) * u[:, 0]
        clean = jnp.stack([t * jnp.cos(t), WIDTH * u[:, 1], t * jnp.sin(t)], 1)
    else:
        clean = jnp.asarray(_curves(kind, rows))
    if kind != "swiss_roll":
        clean = jax.random.permutation(of_order, clean, axis=0)
    return clean + noise * draws.normal(of_noise, clean.shape)


def center(kind: str, blobs: Any = None) -> Any:
    """The mean of the distribution (of many rows), [d]."""
    if kind == "blobs":
        return blobs.mean(0)
    if kind == "swiss_roll":
        return np.array([w @ x for x, w in _marginals(kind, 1)])
    return np.array({"circles": (0.0, 0.0), "moons": (0.5, 0.25)}[kind])


def second_moment(kind: str, rows: int, noise: float) -> float:
    """E |x - center|^2 / d of one of `rows` points, squared units."""
    if kind == "blobs":  # a centre about the mean of the centres: BOX^2/3 (1 - 1/BLOBS) an axis
        return noise**2 + BOX**2 / 3 * (1 - 1 / BLOBS)
    axes = zip(_marginals(kind, rows), center(kind), strict=True)
    return noise**2 + float(np.mean([w @ (x - c) ** 2 for (x, w), c in axes]))


def characteristic(kind: str, rows: int, noise: float, frequency: float) -> float:
    """Real part of E exp(i frequency (x - center)) of one of `rows` points, averaged over the axes."""
    blur = np.exp(-0.5 * (noise * frequency) ** 2)
    if kind == "blobs":  # centre - mean = (1 - 1/B) u - sum of the B - 1 others / B, u uniform
        share = BOX * frequency / BLOBS / np.pi
        return float(blur * np.sinc((BLOBS - 1) * share) * np.sinc(share) ** (BLOBS - 1))
    axes = zip(_marginals(kind, rows, frequency), center(kind), strict=True)
    return float(blur * np.mean([w @ np.cos(frequency * (x - c)) for (x, w), c in axes]))


def _shares(rows: int) -> np.ndarray:
    """Blob of every row: equal shares, the first blobs take what is left."""
    return np.repeat(np.arange(BLOBS), [rows // BLOBS + (i < rows % BLOBS) for i in range(BLOBS)])


def _curves(kind: str, rows: int) -> np.ndarray:
    """Evenly placed points without noise, [rows, 2]."""
    outer, inner = rows // 2, rows - rows // 2
    if kind == "circles":
        a, b = (np.linspace(0, 2 * np.pi, m, endpoint=False) for m in (outer, inner))
        halves = np.stack([np.cos(a), np.sin(a)], 1), INNER * np.stack([np.cos(b), np.sin(b)], 1)
    else:
        a, b = (np.linspace(0, np.pi, m) for m in (outer, inner))
        halves = np.stack([np.cos(a), np.sin(a)], 1), np.stack([1 - np.cos(b), 0.5 - np.sin(b)], 1)
    return np.concatenate(halves)


def _marginals(kind: str, rows: int, frequency: float = 0.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points and weights of each axis without noise: the grid itself, or Gauss-Legendre nodes for this frequency."""
    if kind != "swiss_roll":
        return [(x, np.full(rows, 1 / rows)) for x in _curves(kind, rows).T]
    parts = 1 + int(frequency / 10)
    nodes, of_nodes = np.polynomial.legendre.leggauss(400)
    x = ((nodes + 1 + 2 * np.arange(parts)[:, None]) / parts - 1).ravel()
    w = np.tile(of_nodes / parts, parts)
    t = ROLL[0] + (ROLL[1] - ROLL[0]) * (x + 1) / 2
    return [(t * np.cos(t), w / 2), (WIDTH * (x + 1) / 2, w / 2), (t * np.sin(t), w / 2)]
