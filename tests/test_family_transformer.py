"""The transformer family: what counts in the loss, the form of its rows, and what it refuses."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from collapse_jax.config import BadInput
from collapse_jax.data.dataset import Dataset
from collapse_jax.data.packing import row_spec
from collapse_jax.data.tokenizers import ByteTokenizer
from collapse_jax.families.transformer import UNITS, Data, Model, Sample, build

LENGTH, IDS, SEPARATOR = 10, 257, 256
SMALL = Model(layers=1, width=16, heads=2, context=LENGTH, vocab_size=300)


def family(tmp_path, packing="packed", model=SMALL, **sampling):
    ByteTokenizer().save(tmp_path / "tokenizer.json")
    info = {
        "vocab_size": IDS,
        "separator_id": SEPARATOR,
        "settings": {"packing": packing},
        "splits": {"test": {"tokens": 30, "bytes": 60}},
    }
    return build(model, Data(), Sample(**sampling), Dataset(tmp_path, "", row_spec(LENGTH, IDS), info))


@pytest.fixture(scope="module")
def weights():
    from collapse_jax.models.transformer import Transformer

    return jax.jit(lambda: Transformer(SMALL, nnx.Rngs(0)))()


def batch(rows=4):
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 256, (rows, LENGTH)).astype(np.uint16)
    length = np.array([LENGTH, 3, 1, 7], np.int32)[:rows]
    return {"tokens": tokens, "length": length, "prompt": np.zeros_like(length)}


def test_loss_counts_the_first_length_tokens_given_those_before(tmp_path, weights):
    rows, total = batch(), 0.0
    for tokens, length in zip(rows["tokens"], rows["length"], strict=True):
        ids = np.concatenate([[SEPARATOR], tokens[:-1]]).astype(np.int32)
        logits = np.asarray(weights(jnp.array(ids[None])), np.float64)[0]
        for t in range(length):
            total -= logits[t, tokens[t]] - math.log(np.exp(logits[t]).sum())
    made = family(tmp_path)
    nats, tokens, _ = jax.jit(made.loss)(weights, rows, jax.random.key(0), 0.0)
    assert float(nats) == pytest.approx(total, rel=1e-5)
    assert float(tokens) == 21


@pytest.mark.parametrize("prompt_loss", [True, False])
def test_loss_on_prompts_counts_in_fits_where_the_setting_says_so(tmp_path, weights, prompt_loss):
    made = family(tmp_path, prompt_tokens=2, prompt_loss=prompt_loss)
    rows = batch()
    sampled = {**rows, "prompt": np.array([2, 2, 1, 0], np.int32)}
    whole_BT, _ = jax.jit(partial(made._losses, prompts=True))(weights, rows)
    drawn = [whole_BT[i, p:].sum() for i, p in enumerate(sampled["prompt"])]
    nats, tokens, _ = jax.jit(made.loss)(weights, sampled, jax.random.key(0), 0.0)
    assert float(nats) == pytest.approx(float(whole_BT.sum() if prompt_loss else sum(drawn)), rel=1e-5)
    assert float(tokens) == (21 if prompt_loss else 16)
    # what samples are scored with never counts what they were given
    weigh = np.array([1, 1, 1, 0], np.float32)
    nats, tokens = jax.jit(made.evaluate)(weights, sampled, weigh, None)["test_loss"]
    assert float(nats) == pytest.approx(float(sum(drawn[:3])), rel=1e-5) and float(tokens) == 9


def test_losses_in_parts_are_those_in_one(tmp_path, weights):
    rows = batch()
    value = jax.jit(
        lambda made, w: jax.value_and_grad(lambda w: made.loss(w, rows, None, 0.0)[0])(w), static_argnums=0
    )
    whole = value(family(tmp_path), weights)
    config = dataclasses.replace(SMALL, loss_parts=LENGTH // 2)
    parted = jax.tree.map(lambda x: x, weights)
    parted.config = config
    found = value(family(tmp_path, model=config), parted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    with pytest.raises(BadInput, match="loss_parts=3"):
        family(tmp_path, model=dataclasses.replace(SMALL, loss_parts=3))


def test_rows_of_weight_zero_do_not_count(tmp_path, weights):
    made, rows = family(tmp_path), batch()
    nats, tokens = jax.jit(made.evaluate)(weights, rows, np.array([1, 0, 1, 0], np.float32), None)[
        "test_loss"
    ]
    kept = {name: values[[0, 2]] for name, values in rows.items()}
    alone, count, _ = jax.jit(made.loss)(weights, kept, jax.random.key(0), 0.0)
    assert float(nats) == pytest.approx(float(alone), rel=1e-5)
    assert float(tokens) == float(count) == 11


@pytest.mark.slow
def test_sampled_rows_have_the_form_of_real_ones(tmp_path, weights):
    hot = jax.tree.map(lambda w: 0.0 * w, weights)  # every token equally likely
    keys = jax.random.split(jax.random.key(0), 400)
    given = {
        "tokens": np.tile(np.arange(LENGTH, dtype=np.uint16), (400, 1)),
        "length": np.full(400, LENGTH, np.int32),
        "prompt": np.zeros(400, np.int32),
    }
    for packing in ("packed", "document"):
        made = family(tmp_path, packing, prompt_tokens=2)
        rows = jax.tree.map(np.asarray, jax.jit(made.sample)(hot, keys, given))
        assert {k: v.shape[1:] for k, v in rows.items()} == {k: shape for k, (shape, _) in made.spec.items()}
        assert rows["tokens"].max() < IDS
        np.testing.assert_array_equal(rows["tokens"][:, :2], np.tile([0, 1], (400, 1)))
        np.testing.assert_array_equal(rows["prompt"], 2)
        for tokens, length in zip(rows["tokens"], rows["length"], strict=True):
            ends = np.flatnonzero(tokens == SEPARATOR)
            if packing == "packed" or not len(ends):
                assert length == LENGTH
            else:
                assert length == ends[0] + 1 and np.all(tokens[length:] == SEPARATOR)
        assert np.any(rows["tokens"] == SEPARATOR)


def test_a_row_that_ends_in_its_prompt_is_all_prompt(tmp_path, weights):
    ended = np.full((2, LENGTH), SEPARATOR, np.uint16)
    ended[:, 0] = 7
    rows = {"tokens": ended, "length": np.full(2, 2, np.int32), "prompt": np.zeros(2, np.int32)}
    made = family(tmp_path, "document", prompt_tokens=5)
    drawn = jax.tree.map(np.asarray, jax.jit(made.sample)(weights, jax.random.split(jax.random.key(0)), rows))
    drawn = {name: x.astype(made.spec[name][1]) for name, x in drawn.items()}
    assert drawn["length"].tolist() == drawn["prompt"].tolist() == [2, 2]
    assert made.measure(None, [drawn], [rows], [rows])["copied_rows"] == 1.0


def test_a_row_with_a_token_from_nothing_finite_is_not_finite(tmp_path, weights):
    made, keys = family(tmp_path, "document"), jax.random.split(jax.random.key(0), 4)
    drawn = jax.jit(made.sample)(jax.tree.map(lambda w: jnp.nan * w, weights), keys, batch())
    assert np.isnan(drawn["tokens"]).any(1).all()


def test_derived_metrics_and_units(tmp_path):
    made = family(tmp_path)
    found = made.derive({"test_loss": 2.0})
    assert found == {
        "test_loss": 2.0,
        "perplexity": pytest.approx(math.exp(2)),
        "bits_per_byte": pytest.approx(2.0 * 0.5 / math.log(2)),
    }
    assert math.isfinite(made.derive({"test_loss": 1e6})["perplexity"])
    found |= made.measure(None, [batch()], [batch()], [batch()])
    assert set(found) <= set(UNITS)
    tokens = np.frombuffer(b"hello you", np.uint8)[None]
    rows = {"tokens": tokens, "length": np.array([5]), "prompt": np.array([2])}
    assert made.show(None, rows, batch(), jax.random.key(0)) == {"lines": ["hello"]}
    prompted = family(tmp_path, prompt_tokens=2).show(None, rows, batch(), jax.random.key(0))
    assert prompted == {"lines": ["hello"], "prompts": ["he"]}


def test_equal_settings_are_one_static_value(tmp_path):
    a, b = family(tmp_path), family(tmp_path)
    assert a == b and hash(a) == hash(b)
    assert a != family(tmp_path, temperature=0.3)


def test_what_does_not_fit_is_refused_in_one_line(tmp_path):
    narrow = dataclasses.replace(SMALL, context=4, vocab_size=100)
    with pytest.raises(
        BadInput, match=r"model\.context=4 .* model\.vocab_size=100 .*prompt_tokens=11"
    ) as error:
        family(tmp_path, model=narrow, prompt_tokens=11)
    assert "\n" not in str(error.value)
