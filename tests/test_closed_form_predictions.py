"""Predictions against other derivations: exhaustive enumeration in fractions, published formulas, scipy."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import special, stats

from collapse_jax.closed_form import moments, wright_fisher
from collapse_jax.closed_form.discrete import Discrete
from collapse_jax.closed_form.exponential import Exponential
from collapse_jax.closed_form.gaussian import Gaussian
from collapse_jax.closed_form.regression import Regression, subsampled
from collapse_jax.workflows import Arm, Workflow

SMALL = {
    "replace": Arm("replace"),
    "accumulate": Arm("accumulate"),
    "accumulate_subsample": Arm("accumulate_subsample"),
    "replace_multiple": Arm("replace_multiple"),
    "augment": Arm("augment", fraction=0.5),
    "fresh": Arm("fresh", fraction=0.5, synthetic=0.5),
    "window": Arm("window", window=2),
    "table": Arm("table", table=((1,), (0.5, 1), (0.5, 0.5, 1))),
}


def enumerate_coin(workflow: Workflow, p: Fraction) -> tuple[list[Fraction], list[Fraction]]:
    """E (theta_t - p)^2 and E theta_t (1 - theta_t) of a coin refitted by its average, by every possible history."""
    centers = [Fraction(0)] * workflow.generations
    spreads = [Fraction(0)] * workflow.generations

    def walk(t: int, sources: list[tuple[int, ...]], weight: Fraction) -> None:
        if t > workflow.generations:
            return
        m = workflow.mixture(t)
        pool = [sources[s.source][i] for s in m.slices for i in range(s.start, s.start + s.rows)]
        subsets = list(itertools.combinations(pool, m.take))
        made = workflow.rows_needed(t) if t < workflow.generations else 0
        for ones in range(m.take + 1):
            chance = Fraction(sum(sum(s) == ones for s in subsets), len(subsets))
            if not chance:
                continue
            theta, w = Fraction(ones, m.take), weight * chance
            centers[t - 1] += w * (theta - p) ** 2
            spreads[t - 1] += w * theta * (1 - theta)
            for rows in itertools.product((0, 1), repeat=made):
                u = math.prod((theta if r else 1 - theta for r in rows), start=Fraction(1))
                if u:
                    walk(t + 1, [*sources, rows], w * u)

    for real in itertools.product((0, 1), repeat=workflow.rows_needed(0)):
        walk(1, [real], math.prod((p if r else 1 - p for r in real), start=Fraction(1)))
    return centers, spreads


@pytest.mark.parametrize("name", SMALL)
def test_recursion_equals_every_history(name):
    """n = 2 rows, three generations: each of up to 2^12 histories, in fractions."""
    p = Fraction(3, 10)
    workflow = Workflow(SMALL[name], 2, 3)
    centers, spreads = enumerate_coin(workflow, p)
    found = Discrete(kind="weights", weights=(0.3, 0.7)).predict(workflow)
    np.testing.assert_allclose(found["test_loss"].values, [2 * float(c) for c in centers], rtol=1e-12)
    np.testing.assert_allclose(found["heterozygosity"].values, [2 * float(s) for s in spreads], rtol=1e-12)
    coin = Exponential(distribution="bernoulli", mean=0.3).predict(workflow)
    np.testing.assert_allclose(coin["test_loss"].values, [float(c) for c in centers], rtol=1e-12)


STEPS = np.arange(1, 31)


@pytest.mark.parametrize("n", [10, 100])
def test_published_products(n):
    """(1-1/n)^t, prod 1-1/(n i^2) -> sin(pi/sqrt n)/(pi/sqrt n), prod 1-1/(i(in-1)), and their complements."""
    gaussian, unbiased = Gaussian(dim=3, variance=2.0), Gaussian(dim=3, variance=2.0, covariance="unbiased")
    replace, accumulate = Workflow(Arm("replace"), n, 30), Workflow(Arm("accumulate"), n, 30)
    decay = (1 - 1 / n) ** STEPS
    product = np.cumprod(1 - 1 / (n * STEPS.astype(float) ** 2))
    pooled = np.cumprod(np.where(STEPS > 1, 1 - 1 / (STEPS * (STEPS * n - 1.0)), 1.0))
    for family, workflow, ratio in (
        (gaussian, replace, decay),
        (gaussian, accumulate, product),
        (unbiased, replace, np.ones(30)),
        (unbiased, accumulate, pooled),
    ):
        np.testing.assert_allclose(family.predict(workflow)["variance_ratio"].values, ratio, rtol=1e-12)
    np.testing.assert_allclose(
        gaussian.predict(accumulate)["mean_error"].values, 6 * (1 - product), rtol=1e-10
    )
    np.testing.assert_allclose(unbiased.predict(replace)["mean_error"].values, 6 * STEPS / n, rtol=1e-12)
    long = gaussian.predict(Workflow(Arm("accumulate"), n, 800))["variance_ratio"].values[-1]
    x = math.pi / math.sqrt(n)
    assert abs(long - math.sin(x) / x) < 2e-3 / n
    narrow = Gaussian(covariance="unbiased", narrow=0.8).predict(replace)["variance_ratio"].values
    np.testing.assert_allclose(narrow, 0.8 ** (STEPS - 1), rtol=1e-12)


@pytest.mark.parametrize("name", ["replace", "accumulate", "accumulate_subsample"])
def test_biased_variance_and_error_add_up(name):
    """Law of total variance: nothing is created; only the split between spread and error changes."""
    found = Gaussian(dim=2, variance=3.0).predict(Workflow(Arm(name), 7, 40))
    total = found["variance_ratio"].values * 6 + found["mean_error"].values
    np.testing.assert_allclose(total, 6.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("n", "variance", "error"),
    [
        (10, 0.7411, 0.2589),
        (32, 0.9125, 0.0875),
        (100, 0.9713, 0.0287),
        (316, 0.9908, 0.0092),
        (1000, 0.9971, 0.0029),
    ],
)
def test_subsampled_gaussian_after_100_fits(n, variance, error):
    found = Gaussian().predict(Workflow(Arm("accumulate_subsample"), n, 100))
    assert abs(found["variance_ratio"].values[-1] - variance) < 6e-5
    assert abs(found["mean_error"].values[-1] - error) < 6e-5


def test_regression_laws():
    n, d = 100, 10
    first = 2.0 * d / (n - d - 1)
    harmonic, squares = np.cumsum(1 / STEPS), np.cumsum(1 / STEPS.astype(float) ** 2)
    for name, law in (("replace", STEPS), ("accumulate", squares), ("replace_multiple", harmonic)):
        found = Regression(dim=d, noise=2.0).predict(Workflow(Arm(name), n, 30))["test_loss"]
        np.testing.assert_allclose(found.values, first * law, rtol=1e-12)
        assert found.exact
    fresh = Regression(dim=d, noise=2.0, design="fresh").predict(Workflow(Arm("accumulate"), n, 30))[
        "test_loss"
    ]
    np.testing.assert_allclose(
        fresh.values, 2 * d * np.cumsum(1 / (STEPS * (STEPS * n - d - 1.0))), rtol=1e-12
    )
    published = [1, 1.75, 2.083, 2.271, 2.391, 2.474, 2.535, 2.582, 2.619, 2.649]
    np.testing.assert_allclose(subsampled(10), published, atol=6e-4)
    assert abs(subsampled(100)[-1] - 2.905) < 1e-3
    assert abs(subsampled(200_000)[-1] - (math.pi**2 / 2 - 2)) < 2e-5
    table = Workflow(Arm("accumulate_subsample"), n, 30)
    assert not Regression(dim=d).predict(table)["test_loss"].exact
    assert Regression(dim=d, ridge=1.0).predict(table) == {}
    halves = Workflow(Arm("augment", fraction=0.5), n, 3)  # parts of the design have no law
    assert "test_loss" not in Regression(dim=d).predict(halves)


def test_laws_say_whether_they_are_exact():
    """Real rows that come late lie on a grid of their own, also where their first row is the source's first."""
    from collapse_jax.closed_form.kde import KernelDensity

    table = Arm("table", table=((0.5,), (1.0, 0.5)))
    for data, exact in (("circles", False), ("swiss_roll", True)):
        found = KernelDensity(data=data).predict(Workflow(table, 10, 2))
        assert found["second_moment"].exact == exact
    assert KernelDensity(data="circles").predict(Workflow(Arm("augment"), 10, 3))["second_moment"].exact
    still = Gaussian(narrow=0.0).predict(Workflow(Arm("replace"), 10, 3))  # samples that are all one point
    assert still["variance_ratio"].values.tolist()[1:] == [0, 0] and "test_loss" not in still


def test_the_characteristic_function_of_fast_waves():
    """Swiss roll: against four million points in place of the nodes of a quadrature."""
    from collapse_jax.closed_form import shapes

    u, wave = (np.arange(4_000_000) + 0.5) / 4_000_000, 300.0
    t, center = shapes.ROLL[0] + (shapes.ROLL[1] - shapes.ROLL[0]) * u, shapes.center("swiss_roll")
    axes = zip((t * np.cos(t), shapes.WIDTH * u, t * np.sin(t)), center, strict=True)
    slow = np.mean([np.cos(wave * (x - c)).mean() for x, c in axes])
    assert abs(shapes.characteristic("swiss_roll", 10, 0.0, wave) - slow) < 1e-8


def test_growing_schedules():
    """sum n_i / N_i^2: a pool that doubles ends at 1.5, blocks of 2n at 1.43 (Dey & Donoho)."""
    family = Exponential(distribution="normal", mean=0.0)
    for sizes, limit in (([1, 1, *(2**k for k in range(1, 11))], 1.5), ([1] + [2] * 11, 1.43)):
        table = tuple(tuple(sizes[:t]) for t in range(1, 13))
        found = family.predict(Workflow(Arm("table", table=table), 5, 12))["inflation"].values
        sums = np.cumsum(np.array(sizes) / np.cumsum(sizes) ** 2.0)
        np.testing.assert_allclose(found, sums, rtol=1e-12)
        assert abs(found[-1] - limit) < 5e-3


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_fixed_fraction_loops(share):
    """Limits of the mean: fresh 1/(share (2-share)); fixed 1/share + (1-share)/(1-(1-share)^2), times sigma^2/n."""
    family = Exponential(distribution="normal", mean=0.0)
    last = {
        name: family.predict(Workflow(Arm(name, fraction=share, synthetic=1 - share), 20, 300))[
            "inflation"
        ].values[-1]
        for name in ("fresh", "augment")
    }
    assert abs(last["fresh"] - 1 / (share * (2 - share))) < 1e-9
    # The first fit's other real rows are forgotten, the fixed ones are a draw of their own.
    assert abs(last["augment"] - (1 / share + (1 - share) / (1 - (1 - share) ** 2))) < 1e-9


def test_exponential_duals():
    n = 20
    replace, accumulate = Workflow(Arm("replace"), n, 30), Workflow(Arm("accumulate"), n, 30)
    exponential = Exponential(distribution="exponential", mean=3.0)
    np.testing.assert_allclose(
        exponential.predict(replace)["test_loss"].values, 9 * ((1 + 1 / n) ** STEPS - 1), rtol=1e-11
    )
    product = np.cumprod(1 + 1 / (n * STEPS.astype(float) ** 2)) - 1
    np.testing.assert_allclose(exponential.predict(accumulate)["test_loss"].values, 9 * product, rtol=1e-11)
    poisson = Exponential(distribution="poisson", mean=0.5).predict(replace)
    np.testing.assert_allclose(poisson["test_loss"].values, 0.5 * STEPS / n, rtol=1e-12)
    coin = Exponential(distribution="bernoulli", mean=0.2).predict(replace)["inflation"].values
    np.testing.assert_allclose(coin, n * (1 - (1 - 1 / n) ** STEPS), rtol=1e-11)
    n, steps = 400, 50  # published checks of the exact duals
    assert (
        abs(Exponential().predict(Workflow(Arm("replace"), n, steps))["inflation"].values[-1] - 53.2) < 0.05
    )
    coin = Exponential(distribution="bernoulli", mean=0.2).predict(Workflow(Arm("replace"), n, steps))
    assert abs(coin["inflation"].values[-1] - 47.06) < 0.005


def test_wishart_moments_against_scipy():
    """One fit in d = 3: E log det and E det from chi-squares, E trace of the inverse from scipy's inverse Wishart."""
    n, d = 12, 3
    found = Gaussian(dim=d).predict(Workflow(Arm("replace"), n, 1))
    squares = [stats.chi2(n - i) for i in range(1, d + 1)]
    log_det = sum(c.expect(np.log) for c in squares) - d * math.log(n)
    assert abs(found["log_determinant"].values[0] - log_det) < 1e-7
    assert abs(found["determinant_ratio"].values[0] - math.prod(c.mean() for c in squares) / n**d) < 1e-12
    inverse = n * np.trace(np.asarray(stats.invwishart(df=n - 1, scale=np.eye(d)).mean()))
    loss = 0.5 * (d * math.log(2 * math.pi) + log_det + inverse * (1 + 1 / n))
    assert abs(found["test_loss"].values[0] - loss) < 1e-7


def test_standard_deviation_of_one_dimension():
    """alpha = sqrt(2/(n-1)) Gamma(n/2)/Gamma((n-1)/2), the mean of scipy's chi; W2 from its parts."""
    n = 9
    found = Gaussian(covariance="unbiased").predict(Workflow(Arm("replace"), n, 5))
    alpha = stats.chi(n - 1).mean() / math.sqrt(n - 1)
    np.testing.assert_allclose(found["std_ratio"].values, alpha ** np.arange(1, 6), rtol=1e-12)
    np.testing.assert_allclose(found["wasserstein2"].values[0], 1 / n + 1 - 2 * alpha + 1, rtol=1e-12)
    e = special.digamma((n - 1) / 2) + math.log(2 / (n - 1))
    np.testing.assert_allclose(found["log_variance"].values, e * np.arange(1, 6), rtol=1e-12)


def test_laws_are_left_out_where_none_is_known():
    accumulate = Gaussian().predict(Workflow(Arm("accumulate"), 9, 3))
    assert np.isfinite(accumulate["log_determinant"].values).tolist() == [True, False, False]
    singular = Gaussian(dim=9).predict(Workflow(Arm("replace"), 9, 3))
    assert "log_determinant" not in singular
    heavy = Gaussian(dim=3).predict(Workflow(Arm("replace"), 5, 3))  # E of the inverse is infinite
    assert np.isnan(heavy["test_loss"].values).all() and np.isfinite(heavy["log_determinant"].values).all()


def test_wright_fisher_against_every_history():
    """n = 3, two symbols of unequal weight: survivors, entropy and collapse after two fits, by enumeration."""
    n, p = 3, 0.2
    found = Discrete(kind="weights", weights=(p, 1 - p)).predict(Workflow(Arm("replace"), n, 2))
    alive = entropy = collapsed = 0.0
    for i, j in itertools.product(range(n + 1), repeat=2):
        w = stats.binom.pmf(i, n, p) * stats.binom.pmf(j, n, i / n)
        q = np.array([j, n - j]) / n
        alive += w * (q > 0).sum()
        entropy += w * special.entr(q).sum()
        collapsed += w * (q.max() == 1)
    assert abs(found["survivors"].values[1] - alive) < 1e-12
    assert abs(found["entropy"].values[1] - entropy) < 1e-12
    assert abs(found["collapsed"].values[1] - collapsed) < 1e-12


def test_time_to_collapse():
    """n = 2: half of the chains end each generation, so 2; larger n tend to the diffusion limit of 1.896 n."""
    assert abs(wright_fisher.time_to_fixation(2, np.array([0.5]), np.array([2])) - 2) < 1e-12
    for symbols, factor in ((2, 1.386), (10, 1.896)):
        p = np.full(1, 1 / symbols)
        exact = wright_fisher.time_to_fixation(400, p, np.array([symbols]))
        assert abs(exact / (factor * 400) - 1) < 0.01
    p = 1 / 3
    chain = Discrete(kind="uniform", symbols=3).predict(Workflow(Arm("replace"), 6, 400))
    summed = 1 + np.sum(1 - chain["collapsed"].values)
    exact = wright_fisher.time_to_fixation(6, np.array([p]), np.array([3]))
    assert abs(summed - exact) < 1e-9
    assert chain["generations_to_collapse"].values[-1] == exact


def test_survival_bounds():
    """Poisson: the recursion of g; Bernoulli: the exact chain lies between the published bounds."""
    n, p, steps = 100, 0.02, 20
    coin = (
        Exponential(distribution="bernoulli", mean=p)
        .predict(Workflow(Arm("replace"), n, steps))["alive"]
        .values
    )
    g = [1.0]
    for _ in range(steps - 1):
        g.append(1 - math.exp(-g[-1]))
    k = np.arange(1, steps + 1)
    low = 1 - np.exp(-n * p * np.array(g))
    high = 1 - (1 - 3 * n * p**2 - 3 * k * p) * np.exp(-n * p * np.array(g))
    assert (low <= coin + 1e-12).all() and (coin <= high + 1e-12).all()
    poisson = (
        Exponential(distribution="poisson", mean=p)
        .predict(Workflow(Arm("replace"), n, steps))["alive"]
        .values
    )
    np.testing.assert_allclose(poisson, low, rtol=1e-12)
    brute = (
        1
        - stats.poisson.pmf(0, n * p)
        - sum(stats.poisson.pmf(j, n * p) * math.exp(-j) for j in range(1, 80))
    )
    assert abs(poisson[1] - brute) < 1e-12


def test_parameter_identity_on_one_design():
    """w_t = w* + (X^T X)^-1 X^T sum_i E_i / i, to rounding, through the streaming statistics themselves."""
    import jax
    import jax.numpy as jnp

    family = Regression(dim=4)
    with jax.enable_x64(True):
        truth = family.truth(jax.random.key(0), 12)
        noise = np.random.default_rng(0).normal(size=(6, 12))
        weights, held = truth["weights"], None
        for t in range(6):
            rows = {"input": jnp.arange(12), "y": truth["x"] @ weights + noise[t]}
            new = family.statistics(truth, rows, jnp.ones(12))
            held = new if held is None else family.merge(truth, held, new)
            weights = family.estimate(truth, held)
            drift = np.linalg.pinv(np.asarray(truth["x"])) @ (
                noise[: t + 1] / np.arange(1, t + 2)[:, None]
            ).sum(0)
            np.testing.assert_allclose(weights, np.asarray(truth["weights"]) + drift, rtol=1e-10, atol=1e-11)


def test_chains_of_one_source():
    """A table that skips a generation: fit 3 descends from fit 1, so its logarithm has two factors, not three."""
    workflow = Workflow(Arm("table", table=((1,), (0, 1), (0, 2, 0))), 10, 3)
    found = moments.along_chain(workflow, 0.0, lambda v, rows, synthetic: v + rows + 0.5 * synthetic)
    np.testing.assert_array_equal(found, [10, 20.5, 30.5])
