"""Measures of sampled images: Frechet distance, precision and recall, memorisation, class shares, variance.

Arrays are [N, D] features of one space, float, unless said otherwise; distances are Euclidean, computed in
float64 and a block at a time, so that memory does not grow with N * M.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

UNITS = {
    "frechet_distance": "squared distance",
    "precision": "share",
    "recall": "share",
    "density": "balls",
    "coverage": "share",
    "memorisation": "share",
    "class_coverage": "share",
    "class_entropy": "nats",
    "class_confusion": "share",
    "smallest_share": "of its real share",
    "pixel_variance": "squared grey range",
    "variance_ratio": "of the real variance",
}

NEIGHBOURS = 5  # of the manifolds; as in Naeem et al. 2020 and Alemohammad et al. 2023
COPY = 1 / 3  # a sample is a copy where its nearest training row is this much nearer than the second nearest
BLOCK = 1 << 22  # distances held at once


@dataclass(frozen=True)
class Moments:
    """Mean [D] and unbiased covariance [D, D] of features, float64."""

    mean_D: np.ndarray
    covariance_DD: np.ndarray

    @classmethod
    def of(cls, x_ND: np.ndarray) -> "Moments":
        """Of at least two rows. Raises `ValueError` for fewer."""
        if len(x_ND) < 2:
            raise ValueError(f"{len(x_ND)} rows have no covariance; at least 2 are needed")
        x_ND = np.asarray(x_ND, np.float64)
        mean_D = x_ND.mean(0)
        centred_ND = x_ND - mean_D
        return cls(mean_D, centred_ND.T @ centred_ND / (len(x_ND) - 1))

    @cached_property
    def root_DD(self) -> np.ndarray:
        """The symmetric square root of the covariance."""
        values_D, vectors_DD = np.linalg.eigh(self.covariance_DD)
        return (vectors_DD * np.sqrt(np.maximum(values_D, 0.0))) @ vectors_DD.T


def frechet_distance(real: Moments, sample: Moments) -> float:
    """Squared Frechet (2-Wasserstein) distance of the Gaussians with these moments (Heusel et al. 2017, FID).

    |m - n|^2 + tr(C + D - 2 (C^1/2 D C^1/2)^1/2), with C^1/2 D C^1/2 symmetric, so that the root is real and
    exact to rounding also where a covariance is singular. Between samples of finite size it is biased upwards by
    about a constant / N, different for different models (Chong and Forsyth 2020): it is not 0 for two sets from
    one distribution, and only values from equal numbers of rows in the same features can be compared.
    """
    product_DD = real.root_DD @ sample.covariance_DD @ real.root_DD
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh((product_DD + product_DD.T) / 2), 0.0)).sum()
    spread = np.trace(real.covariance_DD) + np.trace(sample.covariance_DD) - 2 * overlap
    return max(float(np.sum((real.mean_D - sample.mean_D) ** 2) + spread), 0.0)


def _squares(x_ND: np.ndarray, y_MD: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows of x, their squared distances [n, M] to all of y), a block of x after the other.

    |x|^2 + |y|^2 - 2 x.y around the mean of y; what is below its rounding is 0, so equal rows are at distance 0.
    """
    origin_D = y_MD.mean(0, dtype=np.float64)
    y_MD = np.asarray(y_MD, np.float64) - origin_D
    y_M = np.einsum("md,md->m", y_MD, y_MD)
    step = max(1, BLOCK // len(y_MD))
    for first in range(0, len(x_ND), step):
        rows = slice(first, min(first + step, len(x_ND)))
        x_nD = np.asarray(x_ND[rows], np.float64) - origin_D
        sizes_nM = np.einsum("nd,nd->n", x_nD, x_nD)[:, None] + y_M
        squares_nM = sizes_nM - 2 * (x_nD @ y_MD.T)
        squares_nM[squares_nM < 1e-13 * sizes_nM] = 0.0
        yield rows, squares_nM


def nearest(x_ND: np.ndarray, y_MD: np.ndarray, k: int, same: bool = False) -> np.ndarray:
    """[N, k] distances from every row of x to its k nearest rows of y, ascending.

    same: x is y, and no row is its own neighbour. Raises `ValueError` where y has too few rows.
    """
    if k > len(y_MD) - same:
        raise ValueError(f"{len(y_MD)} rows have no {k} neighbours each")
    found_Nk = np.empty((len(x_ND), k))
    for rows, squares_nM in _squares(x_ND, y_MD):
        if same:
            np.fill_diagonal(squares_nM[:, rows], np.inf)
        for i in range(k):  # ten times faster than a partition for the few neighbours that are asked for
            at_n1 = squares_nM.argmin(1)[:, None]
            found_Nk[rows, i] = np.sqrt(np.take_along_axis(squares_nM, at_n1, 1)[:, 0])
            np.put_along_axis(squares_nM, at_n1, np.inf, 1)
    return found_Nk


def radii(x_ND: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """[N] distance of every row to its k-th nearest other row: the balls whose union is the rows' manifold."""
    return nearest(x_ND, x_ND, k, same=True)[:, -1]


def manifolds(
    real_ND: np.ndarray,
    sample_MD: np.ndarray,
    real_radii_N: np.ndarray,
    sample_radii_M: np.ndarray,
    k: int = NEIGHBOURS,
) -> dict[str, float]:
    """How samples and real rows lie in each other's balls of radius `radii`.

    precision: share of samples in a real row's ball; recall: share of real rows in a sample's ball
    (Kynkaanniemi et al. 2019, eq. 1-2). density: real balls that a sample is in, over k, on average (1 for the
    real distribution; not bounded by it); coverage: share of real balls with a sample in them (Naeem et al.
    2020, eq. 3-4). Balls are closed: copies of a row are in its ball though its radius be 0.
    """
    hits_M, recalled, covered = np.zeros(len(sample_MD), np.int64), 0, 0
    for rows, squares_nM in _squares(real_ND, sample_MD):
        # A radius was rounded along another way than the distance that equals it.
        within_nM = squares_nM <= real_radii_N[rows, None] ** 2 * (1 + 1e-9)
        hits_M += within_nM.sum(0)
        covered += int(within_nM.any(1).sum())
        recalled += int((squares_nM <= sample_radii_M**2 * (1 + 1e-9)).any(1).sum())
    return {
        "precision": float((hits_M > 0).mean()),
        "recall": recalled / len(real_ND),
        "density": float(hits_M.mean()) / k,
        "coverage": covered / len(real_ND),
    }


def copies(x_ND: np.ndarray, train_MD: np.ndarray) -> float:
    """Share of rows whose nearest training row is at most a third as far as their second nearest.

    The criterion of Yoon et al. (2023) for a memorised sample. The ratio of the two distances does not change
    with the scale of the features or the density of the training rows, so that blurred or crowded samples, which
    are near everything, do not pass for copies. Not seen: copies of rows that have near copies among the training
    rows themselves; those of rows that are not among `train_MD`.
    """
    nearest_N2 = nearest(x_ND, train_MD, 2)
    return float((nearest_N2[:, 0] <= COPY * nearest_N2[:, 1]).mean())


def class_shares(classes_N: np.ndarray, number: int) -> np.ndarray:
    """[number] share of the rows in each class 0 .. number - 1; other values are counted nowhere."""
    known_N = classes_N[(classes_N >= 0) & (classes_N < number)]
    return np.bincount(known_N, minlength=number) / max(len(known_N), 1)


def classes(sample_shares_K: np.ndarray, real_shares_K: np.ndarray) -> dict[str, float]:
    """What became of the classes that the real rows have, from the shares of samples and real rows.

    class_entropy: of the samples' shares, in nats; class_coverage: its exponential, the effective number of
    classes (Hill 1973, order 1), over the number of real classes; smallest_share: the smallest share of a real
    class in the samples over its share in the real rows (0: a class has vanished).
    """
    real_K = real_shares_K > 0
    share_K = sample_shares_K[sample_shares_K > 0]
    entropy = float(-(share_K * np.log(share_K)).sum()) + 0.0
    return {
        "class_entropy": entropy,
        "class_coverage": float(np.exp(entropy) / real_K.sum()),
        "smallest_share": float((sample_shares_K[real_K] / real_shares_K[real_K]).min()),
    }


def pixel_variance(images_NHWC: np.ndarray) -> float:
    """Variance of a grey value over the images, mean over pixels and channels; grey values reach from 0 to 1."""
    values_NP = images_NHWC.reshape(len(images_NHWC), -1)
    mean_P = values_NP.mean(0, dtype=np.float64)
    square_P = sum((np.square(part, dtype=np.float64)).sum(0) for part in np.array_split(values_NP, 16))
    return float((square_P / len(values_NP) - mean_P**2).mean()) / 255**2
