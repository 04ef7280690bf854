"""Measures of sampled rows against slow loops over lists."""

import collections
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_jax.measures import text

VOCAB = 7


@st.composite
def rows(draw):
    width = draw(st.integers(1, 6))
    lists = draw(st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=width), min_size=1, max_size=8))
    return width, lists


def batches(width, lists, size=3):
    for first in range(0, len(lists), size):
        part = lists[first : first + size]
        tokens = np.full((len(part), width), VOCAB - 1, np.uint16)
        for i, row in enumerate(part):
            tokens[i, : len(row)] = row
        yield {
            "tokens": tokens,
            "length": np.array([len(row) for row in part], np.int32),
            "prompt": none(part),
        }


def none(rows):
    return np.zeros(len(rows), np.int32)


@given(rows())
@settings(max_examples=100, deadline=None)
def test_measures_equal_slow_loops(case):
    width, lists = case
    counter = collections.Counter(token for row in lists for token in row)
    counts = text.token_counts(batches(width, lists), VOCAB)
    assert counts.tolist() == [counter[i] for i in range(VOCAB)]

    total = sum(counter.values())
    expected = -sum(c / total * math.log(c / total) for c in counter.values())
    assert text.entropy(counts) == pytest.approx(expected, abs=1e-12)

    for n in (1, 2, 3):
        grams = [tuple(row[i : i + n]) for row in lists for i in range(len(row) - n + 1)]
        expected = len(set(grams)) / len(grams) if grams else 0.0
        assert text.distinct_n(batches(width, lists), n) == expected

    order = sorted(counter, key=lambda i: (counter[i], i))
    assert text.rarest_decile(counts).tolist() == order[: math.ceil(len(order) / 10)]


@given(rows(), rows(), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_measure_uses_the_first_rows_only(real, sampled, limit):
    known = list(batches(*real))
    width, lists = sampled
    found = text.measure(batches(width, lists), known, VOCAB, rows=limit)
    assert found == text.measure(batches(width, lists[:limit], size=1), known, VOCAB)
    assert set(found) == set(text.UNITS)
    assert found["mean_length"] == sum(map(len, lists[:limit])) / len(lists[:limit])


@given(rows(), st.integers(0, 6))
@settings(max_examples=50, deadline=None)
def test_prompts_are_left_out(sampled, prompt):
    width, lists = sampled
    real = list(batches(width, lists))
    prompts = [{**batch, "prompt": np.minimum(batch["length"], prompt)} for batch in batches(width, lists)]
    drawn = list(batches(width, [row[prompt:] for row in lists]))
    found, expected = text.measure(prompts, real, VOCAB), text.measure(drawn, real, VOCAB)
    assert {**found, "copied_rows": 0} == {**expected, "copied_rows": 0}
    assert found["copied_rows"] == 1.0


def test_copied_rows_by_hand():
    real = list(batches(4, [[1, 2, 3], [4], [5, 5, 5, 5], []]))
    assert text.copied_rows(batches(4, [[1, 2, 3], [1, 2], [5, 5, 5, 5], [5, 5, 5, 6]]), real) == 0.5
    assert text.copied_rows(batches(6, [[4], [3, 2, 1]]), real) == 0.5  # whatever the width of the rows


def test_tail_recall_by_hand():
    real = np.array([0, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9])  # 12 types seen: the rarest two are ids 1 and 2
    assert text.rarest_decile(real).tolist() == [1, 2]
    assert [len(text.rarest_decile(np.ones(n))) for n in (1, 10, 11, 18, 20, 21)] == [1, 1, 2, 2, 2, 3]
    samples = np.zeros_like(real)
    assert text.tail_recall(real, samples) == 0.0
    samples[2] = 5
    assert text.tail_recall(real, samples) == 0.5
    assert text.tail_recall(real, real) == 1.0


def test_uniform_entropy_is_log_of_the_vocabulary():
    assert text.entropy(np.full(8000, 3)) == pytest.approx(math.log(8000))
    assert text.entropy(np.array([5, 0])) == 0.0


def test_ngrams_of_large_vocabularies_stay_apart_or_are_refused():
    big = (1 << 21) - 1
    [batch] = batches(6, [[0] * 6])
    batch["tokens"] = np.array([[big, 0, big, big, 0, big]], np.int32)
    assert text.distinct_n([batch], 3) == 3 / 4  # big 0 big occurs twice
    with pytest.raises(ValueError, match="63 bits"):
        text.distinct_n([{**batch, "tokens": batch["tokens"] + 1}], 3)
