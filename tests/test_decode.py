# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
"""Decoding against teacher forcing, filters against sorting, and drawn rows against exact enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats
from test_transformer import TINY, shaken

from collapse_jax import mesh
from collapse_jax.models.transformer import Transformer, TransformerConfig, shifted
from collapse_jax.sampling import decode
from collapse_jax.sampling.decode import RowForm, Sampling, draw, filtered, generate, largest


def rows_of(model, count, form, sampling, prompt=None, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    prompt = np.zeros((count, 0), np.int32) if prompt is None else prompt
    return np.asarray(jax.jit(lambda k, p: generate(model, k, p, form, sampling))(keys, prompt))


@pytest.mark.parametrize("style", ["gpt2", "llama2"])
@pytest.mark.parametrize("given", [0, 1, 5])
def test_decoded_logits_equal_teacher_forced_ones(monkeypatch, style, given):
    """The logits of every decoding step, with several segments and a grouped cache, are those of one pass."""
    monkeypatch.setattr(decode, "stages", lambda b, e: [(x, min(x + 3, e)) for x in range(b, e, 3)])
    seen = []

    def spy(logits, keys, position, sampling):
        jax.debug.callback(lambda t, x: seen.append((int(t), np.array(x))), position, logits)
        return jnp.argmax(logits, -1).astype(jnp.int32)

    monkeypatch.setattr(decode, "draw", spy)
    model = shaken(TINY[style])
    prompt = np.random.default_rng(0).integers(0, 11, (2, given)).astype(np.int32)
    rows = rows_of(model, 2, RowForm(12, 3), Sampling(), prompt)
    jax.effects_barrier()
    np.testing.assert_array_equal(rows[:, :given], prompt)
    forced = np.asarray(jax.jit(lambda x: model(x))(shifted(jnp.array(rows), 3)))
    assert sorted(t for t, _ in seen) == list(range(given, 12))
    for t, logits in seen:
        np.testing.assert_allclose(logits, forced[:, t], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("style", ["gpt2", "llama2"])
def test_greedy_takes_the_most_likely_token(style):
    model = shaken(TINY[style])
    rows = rows_of(model, 2, RowForm(12, 3), Sampling(temperature=0.0))
    forced = model(shifted(jnp.array(rows), 3))
    np.testing.assert_array_equal(rows, np.argmax(forced, -1))
    np.testing.assert_array_equal(rows[0], rows[1])


def sorted_filter(logits, temperature, top_k, top_p):
    """The set of tokens that Hugging Face's warpers keep, by sorting one row."""
    scores = logits / temperature
    if top_k:
        scores = np.where(scores < np.sort(scores)[-top_k], -np.inf, scores)
    if top_p < 1:
        order = np.argsort(scores)
        shares = np.exp(scores[order] - scores.max())
        removed = np.cumsum(shares / shares.sum()) <= 1 - top_p
        removed[-1] = False
        scores[order[removed]] = -np.inf
    return np.isfinite(scores)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, 0, 0.9),
        (0.7, 0, 0.5),
        (2.0, 5, 1.0),
        (1.0, 1, 1.0),
        (1.3, 20, 0.8),
        (1.0, 0, 0.01),
        (1.0, 500, 0.99),
    ],
)
def test_filters_keep_what_sorting_keeps(temperature, top_k, top_p):
    logits = np.random.default_rng(0).normal(0, 3, (20, 300))
    found = np.isfinite(filtered(jnp.array(logits), Sampling(temperature, top_k, top_p)))
    expected = [sorted_filter(row, temperature, min(top_k, 300), top_p) for row in logits.astype(np.float32)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.0), Sampling(top_k=2), Sampling(top_p=0.5)])
def test_logits_that_are_not_finite_draw_no_token(sampling):
    logits = np.random.default_rng(0).normal(size=(5, 11)).astype(np.float32)
    logits[1], logits[2, 3], logits[3, 10], logits[4, :9] = np.nan, -np.nan, np.inf, -np.inf
    drawn = draw(jnp.array(logits), jax.random.split(jax.random.key(0), 5), jnp.int32(0), sampling)
    assert (np.asarray(drawn)[1:4] == -1).all()
    assert 0 <= drawn[0] < 11 and 9 <= drawn[4] < 11


def test_largest_keeps_ties_and_always_the_largest():
    x = jnp.array([[1.0, 3.0, 3.0, -2.0], [-5.0, -1.0, -1.0, -1.0], [0.0, -0.5, 2.0, 2.5]])
    np.testing.assert_array_equal(largest(x, jnp.ones_like(x), 1), [[0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 1]])
    np.testing.assert_array_equal(largest(x, jnp.ones_like(x), 4), np.ones((3, 4), bool))
    np.testing.assert_array_equal(largest(x, jnp.ones_like(x), 0.0)[2], [0, 0, 0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, top_k=3), Sampling(top_p=0.8)])
def test_frequencies_of_whole_rows_are_their_probabilities(sampling):
    """All 64 rows of three tokens out of four, enumerated with NumPy, against 4096 draws."""
    config = TransformerConfig("llama2", 1, 8, 2, context=3, vocab_size=4)
    model = jax.tree.map(lambda w: 3 * w, jax.jit(lambda: Transformer(config, nnx.Rngs(1)))())
    every = np.array(list(itertools.product(range(4), repeat=3)))
    logits = np.asarray(model(shifted(jnp.array(every), 0)), np.float64)
    probability = np.ones(len(every))
    for row, (tokens, steps) in enumerate(zip(every, logits, strict=True)):
        for token, step in zip(tokens, steps, strict=True):
            kept = sorted_filter(step, sampling.temperature, sampling.top_k, sampling.top_p)
            shares = np.where(kept, np.exp((step - step.max()) / sampling.temperature), 0.0)
            probability[row] *= shares[token] / shares.sum()
    rows = rows_of(model, 4096, RowForm(3, 0), sampling)
    counts = np.bincount(rows @ [16, 4, 1], minlength=64)
    assert counts[probability == 0].sum() == 0
    likely = probability * 4096 >= 5
    rest = [counts[~likely].sum(), probability[~likely].sum() * 4096]
    observed, expected = np.append(counts[likely], rest[0]), np.append(probability[likely] * 4096, rest[1])
    keep = expected > 0
    assert likely.sum() > 5
    assert stats.chisquare(observed[keep], expected[keep]).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [2, 11, 300])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.6, top_k=7), Sampling(top_p=0.7)])
def test_tokens_are_drawn_at_their_probabilities(vocabulary, sampling):
    """One set of logits, some hidden, 20,000 keys: the two Gumbel maxima give the softmax of what is kept."""
    logits = np.random.default_rng(vocabulary).normal(0, 2, vocabulary).astype(np.float32)
    logits[3::5] = decode.HIDDEN
    keys = jax.random.split(jax.random.key(3), 20_000)
    tokens = jax.jit(lambda k: decode.draw(jnp.tile(logits, (len(k), 1)), k, jnp.int32(4), sampling))(keys)
    shares = np.exp(np.float64(logits - logits.max()) / sampling.temperature)
    shares *= sorted_filter(logits, sampling.temperature, min(sampling.top_k, vocabulary), sampling.top_p)
    expected = len(keys) * shares / shares.sum()
    counts = np.bincount(tokens, minlength=vocabulary)
    assert len(counts) == vocabulary and counts[expected == 0].sum() == 0
    often = expected >= 5
    observed, known = np.append(counts[often], counts[~often].sum()), expected[~often].sum()
    known = np.append(expected[often], known)
    assert often.sum() == 1 or stats.chisquare(observed[known > 0], known[known > 0]).pvalue > 1e-3


def test_rare_tokens_are_drawn_at_their_rate():
    """4000 tokens of probability 6e-6 each beside one common token: their number and their spread."""
    logits = np.full(4001, -12.0, np.float32)
    logits[1234] = 0.0
    keys = jax.random.split(jax.random.key(4), 40_000)
    draws = jax.jit(
        jax.vmap(lambda k: decode.draw(jnp.array(logits)[None], k[None], jnp.int32(0), Sampling())[0])
    )
    tokens = np.concatenate([draws(part) for part in np.split(keys, 20)])
    rare = tokens[tokens != 1234]
    total = 4000 * np.exp(-12.0)
    assert stats.binomtest(len(rare), len(keys), total / (1 + total)).pvalue > 1e-3
    places = rare - (rare > 1234)
    assert stats.chisquare(np.bincount(places // 400, minlength=10)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(places % 8, minlength=8)).pvalue > 1e-3


@pytest.mark.slow
def test_a_row_depends_on_its_key_alone():
    model = shaken(TINY["gpt2"])
    keys = jax.random.split(jax.random.key(0), 6)
    prompt = np.random.default_rng(0).integers(0, 11, (6, 1)).astype(np.int32)
    draw = jax.jit(lambda k, p: generate(model, k, p, RowForm(12, 0), Sampling(1.2)))
    whole = np.asarray(draw(keys, prompt))
    order = np.array([4, 2])
    np.testing.assert_array_equal(draw(keys[order], prompt[order]), whole[order])
    np.testing.assert_array_equal(draw(keys[3:4], prompt[3:4]), whole[3:4])
    assert len({tuple(row) for row in whole}) == 6


def test_rows_end_at_the_stop_token_and_ids_are_bounded():
    model = shaken(TINY["gpt2"])
    rows = rows_of(model, 64, RowForm(12, 2, stop_id=2, ids=6), Sampling(3.0))
    assert rows.max() == 5
    ended = np.cumsum(rows == 2, 1) > 0
    assert np.all(rows[ended] == 2) and 0 < ended.sum() < rows.size
    free = rows_of(model, 64, RowForm(12, 2, ids=6), Sampling(3.0))
    np.testing.assert_array_equal(free[~ended], rows[~ended])
    assert np.any(free[ended] != 2)
    given = np.array([[4, 2], [2, 4]], np.int32)
    rows = rows_of(model, 2, RowForm(12, 2, stop_id=2), Sampling(), given)
    assert np.all(rows[:, 2:] == 2)


def test_stages_compute_the_rows_that_have_not_ended(monkeypatch):
    """Rows end at positions of their own: the next stage computes half of them, a quarter, or none."""
    monkeypatch.setattr(decode, "stages", lambda b, e: [(x, min(x + 3, e)) for x in range(b, e, 3)])
    ends, seen = np.array([0, 7, 1, 4, 2, 0, 1, 2]), []
    names = jax.random.key_data(jax.random.split(jax.random.key(0), 8))

    def ending(logits, keys, position, sampling):
        jax.debug.callback(lambda t: seen.append((int(t), len(logits))), position)
        which = jnp.argmax(jnp.all(jax.random.key_data(keys)[:, None] == names, -1), 1)
        return jnp.where(position == jnp.asarray(ends)[which], 2, 7 + which % 4).astype(jnp.int32)

    monkeypatch.setattr(decode, "draw", ending)
    rows = rows_of(shaken(TINY["gpt2"]), 8, RowForm(12, 2, stop_id=2), Sampling())
    jax.effects_barrier()
    row = np.arange(8)[:, None]
    np.testing.assert_array_equal(rows, np.where(np.arange(12) < ends[:, None], 7 + row % 4, 2))
    assert sorted(seen) == [(t, n) for t, n in enumerate([8, 8, 8, 2, 2, 2, 2, 2, 2])]


@pytest.mark.slow
def test_rows_that_moved_up_are_what_they_are_alone(monkeypatch):
    monkeypatch.setattr(decode, "stages", lambda b, e: [(x, min(x + 3, e)) for x in range(b, e, 3)])
    model, form = shaken(TINY["llama2"]), RowForm(12, 2, stop_id=2, ids=6)
    model = jax.tree.map(lambda w: 0.2 * w, model)  # nearly uniform: rows end after six tokens or so
    keys = jax.random.split(jax.random.key(5), 24)
    prompt = np.random.default_rng(0).integers(3, 6, (24, 2)).astype(np.int32)
    draw = jax.jit(lambda keys, prompt: generate(model, keys, prompt, form, Sampling()))
    found = np.asarray(draw(keys, prompt))
    lengths = np.sum(np.cumsum(found == 2, 1) == 0, 1)
    assert 0 < np.sum(lengths >= 11) <= 6 < np.sum(lengths >= 8) <= 12  # stages of a half and of a quarter
    for i in range(24):
        np.testing.assert_array_equal(found[i], draw(keys[i : i + 1], prompt[i : i + 1])[0])


@pytest.mark.slow
def test_models_side_by_side_draw_what_each_draws_alone():
    """Mapped over models whose rows end at different stages."""
    models = [shaken(TINY["llama2"]), jax.tree.map(lambda w: -w, shaken(TINY["llama2"]))]
    keys = jax.random.split(jax.random.key(8), (2, 3))
    prompt, form = np.zeros((3, 0), np.int32), RowForm(12, 2, stop_id=2, ids=4)

    def draw(model, keys):
        return generate(model, keys, prompt, form, Sampling(2.0))

    both = jax.jit(jax.vmap(draw))(jax.tree.map(lambda *w: jnp.stack(w), *models), keys)
    alone = [jax.jit(draw)(*given) for given in zip(models, keys, strict=True)]
    np.testing.assert_array_equal(both, alone)


@pytest.mark.slow
@pytest.mark.parametrize("given", [0, 3])
def test_rows_end_on_a_mesh_whatever_is_split_over_it(given):
    """Keys and prompts that are not split over the mesh, and a stop token."""
    keys, form = jax.random.split(jax.random.key(0), 4), RowForm(12, 2, stop_id=2)
    prompt = np.random.default_rng(0).integers(3, 11, (4, given)).astype(np.int32)
    before = jax.sharding.get_mesh()
    expected = rows_of(shaken(TINY["gpt2"]), 4, form, Sampling(), prompt)
    try:
        mesh.make()
        found = jax.jit(lambda k, p: generate(shaken(TINY["gpt2"]), k, p, form, Sampling()))(keys, prompt)
    finally:
        jax.set_mesh(before)
    np.testing.assert_array_equal(found, expected)


def test_weights_are_cast_before_the_loop():
    """At every token of a bfloat16 model no matrix is cast or turned again."""
    config = TransformerConfig("llama2", 2, 32, 2, context=8, vocab_size=48, dtype="bfloat16")
    model = jax.eval_shape(lambda: Transformer(config, nnx.Rngs(0)))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    prompt = np.zeros((4, 0), np.int32)
    traced = jax.make_jaxpr(lambda m, k: generate(m, k, prompt, RowForm(8, 0), Sampling()))(model, keys)
    (loop,) = (eqn for eqn in traced.eqns if eqn.primitive.name == "scan")
    sizes = {w.size for w in jax.tree.leaves(jax.eval_shape(decode._laid_out, model)) if w.ndim == 2}
    repeated = [
        eqn
        for eqn in loop.params["jaxpr"].eqns
        if eqn.primitive.name in ("convert_element_type", "transpose") and eqn.invars[0].aval.size in sizes
    ]
    assert not repeated


@pytest.mark.parametrize(("begin", "end"), [(0, 256), (1, 64), (3, 3), (0, 5), (7, 2048)])
def test_stages_cover_the_row_once(begin, end):
    spans = decode.stages(begin, end)
    assert [t for b, e in spans for t in range(b, e)] == list(range(begin, end))
    assert len(spans) <= 8
