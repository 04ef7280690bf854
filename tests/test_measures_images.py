"""Measures of images: Frechet distance, manifolds, copies, classes and variance against loops and closed forms."""

import math

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from collapse_jax.measures import images as measures
from collapse_jax.measures.images import Moments, frechet_distance, manifolds, nearest, radii


def drawn(seed, n, d):
    """Correlated rows with a mean."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, d)) @ draw.normal(size=(d, d)) + draw.normal(size=d)


def distance(x, y):
    return frechet_distance(Moments.of(x), Moments.of(y))


def by_sqrtm(x, y):
    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(scipy.linalg.sqrtm(c @ d))
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c + d - 2 * root))


@pytest.mark.parametrize("d", [2, 7, 40])
def test_frechet_distance_is_that_of_scipys_matrix_square_root(d):
    x, y = drawn(0, 300, d), drawn(1, 200, d)
    assert distance(x, y) == pytest.approx(by_sqrtm(x, y), rel=1e-8)


def test_frechet_distance_of_gaussians_with_known_moments():
    c, d = np.array([4.0, 1.0, 0.25]), np.array([1.0, 9.0, 0.0])
    shift = np.array([1.0, -2.0, 0.5])
    turn = np.linalg.qr(drawn(0, 3, 3)).Q
    real = Moments(np.zeros(3), turn @ np.diag(c) @ turn.T)
    sample = Moments(turn @ shift, turn @ np.diag(d) @ turn.T)
    expected = np.sum(shift**2) + np.sum((np.sqrt(c) - np.sqrt(d)) ** 2)
    assert frechet_distance(real, sample) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_with_fewer_rows_than_features():
    x, y = drawn(0, 20, 30), drawn(1, 25, 30)
    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    overlap = np.sqrt(np.maximum(np.linalg.eigvals(c @ d).real, 0)).sum()
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c) + np.trace(d) - 2 * overlap
    assert distance(x, y) == pytest.approx(expected, rel=1e-5)
    assert distance(x, x) == pytest.approx(0, abs=1e-4)


@given(
    arrays(np.float32, st.tuples(st.integers(3, 8), st.just(3)), elements=st.floats(-8, 8, width=32)),
    st.integers(0, 9),
)
@settings(max_examples=50, deadline=None)
def test_frechet_distance_is_a_squared_distance(x, seed):
    y = drawn(seed, 6, 3)
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-5, abs=1e-5)
    assert distance(x, x) == pytest.approx(0, abs=1e-4)
    assert distance(x, x + 2) == pytest.approx(12, rel=1e-5)


def test_frechet_distance_of_one_distribution_falls_as_one_over_n():
    draw = np.random.default_rng(0)

    def mean(n):
        return np.mean([distance(draw.normal(size=(n, 5)), draw.normal(size=(n, 5))) for _ in range(60)])

    assert mean(100) / mean(400) == pytest.approx(4, rel=0.15)


def test_moments_are_numpys_and_need_two_rows():
    x = drawn(3, 50, 4).astype(np.float32)
    found = Moments.of(x)
    np.testing.assert_allclose(found.mean_D, x.astype(float).mean(0))
    np.testing.assert_allclose(found.covariance_DD, np.cov(x.astype(float), rowvar=False))
    with pytest.raises(ValueError, match="1 rows"):
        Moments.of(x[:1])


@pytest.mark.parametrize("block", [1, 50, 10**6])
def test_nearest_rows_are_those_of_all_distances(block, monkeypatch):
    monkeypatch.setattr(measures, "BLOCK", block)
    x, y = drawn(0, 40, 6) + 100, drawn(1, 33, 6) + 100
    np.testing.assert_allclose(nearest(x, y, 4), np.sort(cdist(x, y), 1)[:, :4], rtol=1e-9)
    np.testing.assert_allclose(nearest(x, x, 3, same=True), np.sort(cdist(x, x), 1)[:, 1:4], rtol=1e-9)
    with pytest.raises(ValueError, match="33 rows have no 34"):
        nearest(x, y, 34)
    with pytest.raises(ValueError, match="33 rows have no 33"):
        nearest(y, y, 33, same=True)


def test_copies_are_at_distance_zero_in_single_precision_features_too():
    x = (drawn(0, 200, 84) * 30 + 500).astype(np.float32)
    np.testing.assert_array_equal(nearest(x[::3], x, 1), 0)
    assert np.all(nearest(x[::3], x, 2)[:, 1] > 0)


def by_loops(real, sample, k):
    """Precision, recall, density, coverage from the definitions, one pair after the other, in whole numbers."""

    def square(a, b):
        return sum((int(p) - int(q)) ** 2 for p, q in zip(a, b, strict=True))

    def radius(points, i):
        return sorted(square(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    sample_radii = [radius(sample, j) for j in range(len(sample))]
    balls = [[square(x, y) <= real_radii[i] for y in sample] for i, x in enumerate(real)]
    return {
        "precision": np.mean([any(balls[i][j] for i in range(len(real))) for j in range(len(sample))]),
        "recall": np.mean([any(square(x, y) <= sample_radii[j] for j, y in enumerate(sample)) for x in real]),
        "density": np.sum(balls) / (k * len(sample)),
        "coverage": np.mean([any(row) for row in balls]),
    }


points = arrays(np.int8, st.tuples(st.integers(4, 9), st.just(2)), elements=st.integers(-3, 3))


@given(points, points, st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_manifolds_of_points_with_ties_and_copies_are_those_of_plain_loops(real, sample, k):
    found = manifolds(real, sample, radii(real, k), radii(sample, k), k)
    assert found == pytest.approx(by_loops(real, sample, k))


def judged(real, sample, k=5):
    return manifolds(real, sample, radii(real, k), radii(sample, k), k)


def test_a_lost_mode_costs_recall_and_coverage_and_a_false_one_precision():
    draw = np.random.default_rng(0)

    def mode(centre, n):
        return draw.normal(centre, 1, (n, 2))

    both = np.concatenate([mode(0, 200), mode(100, 200)])
    lost = judged(both, mode(0, 400))
    assert lost["precision"] > 0.9 and lost["recall"] < 0.51 and lost["coverage"] < 0.51
    false = judged(mode(0, 400), both)
    assert false["precision"] < 0.51 and false["recall"] > 0.9
    one = judged(both, np.zeros((400, 2)))
    assert one["recall"] == 0 and one["coverage"] < 0.1


def test_density_and_coverage_of_the_real_distribution_are_those_of_the_paper():
    """Naeem et al. 2020, lemmas 1 and 2: E density = 1, E coverage = 1 - (N-1)..(N-k) / ((2N-1)..(2N-k))."""
    draw = np.random.default_rng(0)
    n, k = 60, 5
    found = [judged(draw.normal(size=(n, 3)), draw.normal(size=(n, 3)), k) for _ in range(200)]
    density = [f["density"] for f in found]
    coverage = [f["coverage"] for f in found]
    expected = 1 - math.prod(n - i for i in range(1, k + 1)) / math.prod(2 * n - i for i in range(1, k + 1))
    assert np.mean(density) == pytest.approx(1, abs=4 * float(np.std(density)) / math.sqrt(200))
    assert np.mean(coverage) == pytest.approx(expected, abs=4 * float(np.std(coverage)) / math.sqrt(200))


@pytest.mark.parametrize("d", [1, 2])
def test_in_d_dimensions_one_new_row_in_three_to_the_d_looks_like_a_copy(d):
    """The ratio of the first two distances to a Poisson process has (d1 / d2)^d uniform (Facco et al. 2017)."""
    draw = np.random.default_rng(0)
    train, new = draw.random((10_000, d)), 0.1 + 0.8 * draw.random((2_000, d))
    share = 3.0**-d
    assert measures.copies(new, train) == pytest.approx(share, abs=4 * math.sqrt(share / 2_000))


def test_copies_are_found_and_new_or_blurred_rows_are_not():
    draw = np.random.default_rng(0)
    train, new = draw.normal(size=(500, 30)), draw.normal(size=(200, 30))
    assert measures.copies(train[:100], train) == 1
    assert measures.copies(train[:100] + 0.01, train) == 1
    assert measures.copies(new, train) == 0
    assert measures.copies(0.3 * new, train) == 0  # nearer to every training row than a new one is
    assert measures.copies(np.concatenate([train[:50], new[:150]]), train) == 0.25
    assert measures.copies(train[:1], np.repeat(train[:1], 2, 0)) == 1


def test_class_shares_and_what_follows_from_them():
    shares = measures.class_shares(np.array([0, 0, 2, 3, -1, 7]), 4)
    np.testing.assert_allclose(shares, [0.5, 0, 0.25, 0.25])
    assert measures.class_shares(np.array([], int), 2).tolist() == [0, 0]
    real = np.full(4, 0.25)
    assert measures.classes(real, real) == pytest.approx(
        {"class_entropy": math.log(4), "class_coverage": 1, "smallest_share": 1}
    )
    assert measures.classes(np.array([0, 1.0, 0, 0]), real) == {
        "class_entropy": 0, "class_coverage": 0.25, "smallest_share": 0,
    }  # fmt: skip
    found = measures.classes(
        np.array([0.5, 0.1, 0.4, 0]), np.array([0.5, 0.2, 0.3, 0])
    )  # class 3 is not real
    entropy = -sum(p * math.log(p) for p in (0.5, 0.1, 0.4))
    assert found == pytest.approx(
        {"class_entropy": entropy, "class_coverage": math.exp(entropy) / 3, "smallest_share": 0.5}
    )


@pytest.mark.parametrize("n", [1, 5, 70])
def test_pixel_variance_is_numpys(n):
    images = np.random.default_rng(0).integers(0, 256, (n, 4, 5, 3), dtype=np.uint8)
    assert measures.pixel_variance(images) == pytest.approx((images / 255).var(0).mean(), abs=1e-12)
    extremes = np.stack([np.zeros((2, 2, 1), np.uint8), np.full((2, 2, 1), 255, np.uint8)])
    assert measures.pixel_variance(extremes) == 0.25
