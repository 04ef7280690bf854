"""The engine: every way of holding the past agrees, whatever the table, the chunk and the devices."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forced_devices import flags
from scipy import stats

from collapse_jax.closed_form import draws, engine, plan, scan
from collapse_jax.closed_form.discrete import Discrete
from collapse_jax.closed_form.exponential import Exponential
from collapse_jax.closed_form.gaussian import Gaussian
from collapse_jax.closed_form.regression import Regression
from collapse_jax.config import BadInput
from collapse_jax.workflows import Arm, Workflow

TABLE = Arm("table", table=((1,), (1, 1), (0, 1, 2), (1, 0, 2, 1)))
CASES = [
    (Gaussian(dim=3, covariance="unbiased", narrow=0.9), Arm("augment", fraction=0.5)),
    (Gaussian(dim=2), TABLE),
    (Regression(dim=3), Arm("accumulate")),
    (Regression(dim=3, ridge=2.0), Arm("window", window=2)),
    (Regression(dim=3, design="fresh"), Arm("fresh", fraction=0.5)),
    (Discrete(kind="zipf", symbols=80), TABLE),
    (Discrete(kind="zipf", symbols=5), TABLE),
    (Exponential(distribution="poisson", mean=2.0), Arm("replace_multiple")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "arm"), CASES, ids=lambda x: getattr(x, "workflow", type(x).__name__))
def test_streaming_equals_the_masked_pool(family, arm):
    """Statistics that merge give the numbers of a refit on all the rows, to the rounding of f32 draws."""
    workflow = Workflow(arm, 20, 4)
    metrics = tuple(m for m in family.metrics(workflow) if m != "collapsed")
    pool = engine.collect(family, workflow, 50, how="pool", metrics=metrics)
    rows = engine.collect(family, workflow, 50, how="rows", metrics=metrics)
    for name in metrics:
        np.testing.assert_allclose(rows[name], pool[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_drawn_statistics_have_the_law_of_drawn_rows():
    """Kolmogorov-Smirnov on a value that depends on mean and covariance, after three fits, rows < dim too."""
    for family, rows in ((Gaussian(dim=2), 8), (Gaussian(dim=4), 3), (Regression(dim=3, design="fresh"), 9)):
        workflow = Workflow(Arm("accumulate"), rows, 3)
        name = "mean_error" if isinstance(family, Gaussian) else "test_loss"
        a = engine.collect(family, workflow, 3000, how="rows", metrics=(name,), seed=1)[name]
        b = engine.collect(family, workflow, 3000, how="statistics", metrics=(name,), seed=2)[name]
        for t in range(3):
            pvalue: float = stats.ks_2samp(a[:, t], b[:, t]).pvalue  # pyright: ignore[reportAttributeAccessIssue]
            assert pvalue > 1e-4


def test_results_do_not_depend_on_the_chunk():
    family, workflow = Gaussian(dim=2), Workflow(Arm("accumulate_subsample"), 10, 4)
    whole = engine.collect(family, workflow, 23)
    parts = list(engine.prepare(family, workflow, 23, chunk=5).chunks(23))
    assert [(c.first, len(c.values["mean_error"])) for c in parts] == [
        (0, 5),
        (5, 5),
        (10, 5),
        (15, 5),
        (20, 3),
    ]
    for name, values in whole.items():
        np.testing.assert_allclose(np.concatenate([c.values[name] for c in parts]), values, rtol=1e-6)
    assert len(np.unique(whole["mean_error"][:, 0])) == 23


def test_arms_share_their_real_rows():
    family = Gaussian(dim=2)
    a, b = (
        engine.collect(family, Workflow(Arm(w), 10, 2), 4)["mean_error"] for w in ("replace", "accumulate")
    )
    np.testing.assert_array_equal(a[:, 0], b[:, 0])
    assert (a[:, 1] != b[:, 1]).all()


def test_memory_is_bounded_by_the_chunk(monkeypatch):
    """A pool of 8 MB a seed never has more seeds at once than the budget holds."""
    monkeypatch.setattr(engine, "CHUNK_BYTES", 64 * 2**20)
    workflow = Workflow(Arm("accumulate_subsample"), 1000, 100)
    program = engine.prepare(Gaussian(dim=10), workflow, 10_000)
    assert 1 <= program.chunk <= 8
    assert engine.prepare(Gaussian(dim=10), Workflow(Arm("accumulate"), 1000, 100), 10_000).chunk > 500


def test_a_subset_is_uniform():
    """All 126 subsets of 4 out of 9 are equally likely; a mixture used whole keeps its order."""
    with jax.enable_x64(True):
        at = {"available": jnp.int32(9), "take": jnp.int32(4)}
        keys = jax.random.split(jax.random.key(3), 40_000)
        found = np.sort(np.asarray(jax.vmap(lambda k: scan.subset(k, 4, 9, at))(keys)), 1)
        whole = scan.subset(keys[0], 4, 4, {"available": jnp.int32(4), "take": jnp.int32(4)})
    kinds, counts = np.unique(found, axis=0, return_counts=True)
    assert kinds.shape == (126, 4) and (np.diff(kinds) > 0).all()
    assert stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_array_equal(whole, np.arange(4))


@pytest.mark.slow
def test_gamma_and_wishart():
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(5), 50_000)
        shapes = (1.0, 1.5, 7.0, 200.0)
        g = np.asarray(jax.vmap(lambda k: draws.gamma(k, jnp.array(shapes)))(keys))
        factor, z = jax.vmap(lambda k: draws.wishart_factor(k, 3, jnp.asarray(2.0)))(keys)
        w = np.asarray(factor @ factor.mT)
    for i, a in enumerate(shapes):
        assert stats.kstest(g[:, i], stats.gamma(a).cdf).pvalue > 1e-4
    assert np.linalg.matrix_rank(w[0], tol=1e-9) == 2
    np.testing.assert_allclose(w.mean(0), 2 * np.eye(3), atol=6 * np.sqrt(4 / 50_000))
    assert stats.kstest(np.asarray(z).ravel(), "norm").pvalue > 1e-4


def test_words_are_those_of_splitmix():
    """The first numbers of the seed 1234567, as Vigna's reference program prints them; odd counts too."""
    known = (6457827717110365317, 3203168211198807973, 9817491932198370423)
    with jax.enable_x64(True):
        found = draws.words(jax.random.wrap_key_data(jnp.array([0, 1234567], jnp.uint32)), 5)
    assert found.tolist() == [z % 2**32 for z in known] + [z >> 32 for z in known[:2]]


def test_counts_are_multinomial():
    """Chi-square against scipy over all counts of 5 rows, the last 2 of 7 masked; a lost symbol stays lost."""
    family, shares = Discrete(symbols=4), np.array([2.0, 0.0, 5.0, 3.0])
    keys = jax.random.split(jax.random.key(7), 100_000)
    with jax.enable_x64(True):
        one = partial(family.reduced, jnp.ones(4), jnp.asarray(shares), rows=7, weight=jnp.arange(7) < 5)
        counts = np.asarray(jax.jit(jax.vmap(one))(keys))
    kinds, seen = np.unique(counts, axis=0, return_counts=True)
    law = stats.multinomial(5, shares / 10).pmf(kinds)
    assert len(kinds) == 21 and law.sum() == pytest.approx(1)
    assert stats.chisquare(seen, law * len(keys)).pvalue > 1e-4


def test_double_precision_stays_inside():
    engine.collect(Gaussian(), Workflow(Arm("replace"), 5, 2), 2)
    assert jnp.ones(1).dtype == jnp.float32 and jnp.asarray(np.float64(1)).dtype == jnp.float32


def test_tiny_variances_keep_their_digits():
    """Two thousand fits on five rows: the logarithm of the variance is far below what f32 or raw sums hold."""
    workflow = Workflow(Arm("replace"), 5, 1000)
    found = engine.collect(Gaussian(), workflow, 200, metrics=("log_variance", "mean_error"))
    law = Gaussian().predict(workflow)["log_variance"].values
    last = found["log_variance"][:, -1]
    assert np.isfinite(last).all() and law[-1] < -400
    assert abs(last.mean() - law[-1]) < 4 * last.std() / np.sqrt(200)


@pytest.mark.parametrize(
    ("family", "arm", "rows", "options", "says"),
    [
        (Regression(dim=10), Arm("replace"), 11, {}, "d + 2 = 12"),
        (Gaussian(), Arm("replace"), 1, {}, "too few for a covariance"),
        (Gaussian(), Arm("replace"), 5, {"metrics": ("nonsense",)}, "'nonsense' is not one of"),
        (Gaussian(), Arm("replace"), 5, {"how": "magic"}, "how='magic'"),
        (Gaussian(), Arm("accumulate_subsample"), 5, {"how": "rows"}, "use 'pool'"),
        (Discrete(), Arm("replace"), 5, {"how": "statistics"}, "use 'rows'"),
    ],
)
def test_what_cannot_run_says_so(family, arm, rows, options, says):
    with pytest.raises(BadInput) as error:
        engine.prepare(family, Workflow(arm, rows, 3), 4, **options)
    assert says in str(error.value) and "\n" not in str(error.value)


ACROSS = """
import json, sys
import numpy as np
from collapse_jax import mesh
from collapse_jax.closed_form import engine
from collapse_jax.closed_form.gaussian import Gaussian
from collapse_jax.closed_form.regression import Regression
from collapse_jax.workflows import Arm, Workflow

mesh.make(-1, int(sys.argv[1]))
out = {}
cases = (("g", Gaussian(dim=2), "accumulate"), ("r", Regression(dim=2), "accumulate_subsample"))
for name, family, arm in cases:
    workflow = Workflow(Arm(arm), 10, 4)
    program = engine.prepare(family, workflow, 13)
    metric = family.metrics(workflow)[0]
    out[name] = [program.chunk, np.concatenate([c.values[metric] for c in program.chunks(13)]).tolist()]
print(json.dumps(out))
"""


@pytest.mark.slow
def test_eight_devices_give_the_same_numbers():
    """13 seeds over 4 of 8 devices, on a mesh whose model axis only repeats the work."""
    root = Path(__file__).parents[1]
    env = os.environ | {"XLA_FLAGS": flags(8), "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ACROSS, "2"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    cases = (("g", Gaussian(dim=2), "accumulate"), ("r", Regression(dim=2), "accumulate_subsample"))
    for name, family, arm in cases:
        workflow = Workflow(Arm(arm), 10, 4)
        here = engine.collect(family, workflow, 13)[family.metrics(workflow)[0]]
        assert found[name][0] % 4 == 0
        np.testing.assert_allclose(found[name][1], here, rtol=1e-6)


def test_plans_are_traced_as_data():
    """The plan of a workflow reaches the program as arrays, a row a generation."""
    per_step = scan.per_step(plan.pool(Workflow(Arm("accumulate"), 3, 5)))
    assert {len(v) for v in per_step.values()} == {5}
