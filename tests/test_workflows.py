"""Workflow tables against the papers' definitions, and what must hold for any of them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_jax.config import BadInput
from collapse_jax.workflows import NAMES, Arm, Mixture, Slice, Workflow


def table(workflow: str, generations: int = 4, rows: int = 10, **arm) -> list[list[float]]:
    return Workflow(Arm(workflow, **arm), rows, generations).table().tolist()


# Written out by hand from papers' definitions of D_t (real data first, then S_1, S_2, S_3).
BY_HAND = {
    "replace": ({}, [[10, 0, 0, 0], [0, 10, 0, 0], [0, 0, 10, 0], [0, 0, 0, 10]]),
    "accumulate": ({}, [[10, 0, 0, 0], [10, 10, 0, 0], [10, 10, 10, 0], [10, 10, 10, 10]]),
    "accumulate_subsample": ({}, [[10, 0, 0, 0], [5, 5, 0, 0], [10 / 3] * 3 + [0], [2.5] * 4]),
    "replace_multiple": ({}, [[10, 0, 0, 0], [0, 20, 0, 0], [0, 0, 30, 0], [0, 0, 0, 40]]),
    "augment": (
        {"fraction": 0.3, "synthetic": 0.5},
        [[10, 0, 0, 0], [3, 5, 0, 0], [3, 0, 5, 0], [3, 0, 0, 5]],
    ),
    "fresh": (
        {"fraction": 0.2, "synthetic": 0.8},
        [[10, 0, 0, 0], [2, 8, 0, 0], [2, 0, 8, 0], [2, 0, 0, 8]],
    ),
    "window": ({"window": 2}, [[10, 0, 0, 0], [10, 10, 0, 0], [0, 10, 10, 0], [0, 0, 10, 10]]),
    "table": (
        {"table": ((1,), (0.5, 1), (0, 0, 2), (1, 0, 0, 0.1))},
        [[10, 0, 0, 0], [5, 10, 0, 0], [0, 0, 20, 0], [10, 0, 0, 1]],
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_tables_are_the_papers(name):
    arm, expected = BY_HAND[name]
    np.testing.assert_allclose(table(name, **arm), expected)


def test_value_of_synthetic_is_one_step():
    arm = Arm("value_of_synthetic", real_rows=3, synthetic_rows=25)
    assert Workflow(arm, 10, 2).table().tolist() == [[10, 0], [3, 25]]
    assert Workflow(arm, 10, 2).rows_needed(1) == 25
    with pytest.raises(BadInput, match="single step"):
        Workflow(arm, 10, 3)


def test_fresh_never_uses_a_real_row_twice():
    workflow = Workflow(Arm("fresh", fraction=0.3), 10, 5)
    used = [range(s.start, s.start + s.rows) for m in workflow.mixtures for s in m.slices if s.source == 0]
    rows = [i for r in used for i in r]
    assert len(rows) == len(set(rows)) == workflow.rows_needed(0) == 10 + 4 * 3


def test_budgets():
    grow = Workflow(Arm("accumulate"), 10, 3, epochs=2)
    assert [m.budget for m in grow.mixtures] == [20, 40, 60]
    matched = Workflow(Arm("accumulate", budget="steps"), 10, 3, epochs=2)
    assert [m.budget for m in matched.mixtures] == [20, 20, 20]


arms = st.one_of(
    st.builds(Arm, st.sampled_from(["replace", "accumulate", "accumulate_subsample", "replace_multiple"]),
              st.sampled_from(["epochs", "steps"])),
    st.builds(Arm, st.just("augment"), fraction=st.floats(0, 1), synthetic=st.floats(0.2, 3)),
    st.builds(Arm, st.just("fresh"), fraction=st.floats(0, 2), synthetic=st.floats(0.2, 3)),
    st.builds(Arm, st.just("window"), window=st.integers(1, 9)),
)  # fmt: skip


@given(arms, st.integers(5, 500), st.integers(1, 8), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_what_holds_for_every_workflow(arm, rows, generations, epochs):
    workflow = Workflow(arm, rows, generations, epochs)
    before = None
    for t, m in enumerate(workflow.mixtures, 1):
        assert m.generation == t
        assert all(0 <= s.source < t and s.rows > 0 and s.start >= 0 for s in m.slices)
        assert len(set(m.sources)) == len(m.slices)
        counts = m.counts(np.random.default_rng(t))
        assert sum(counts) == m.take <= m.available
        assert all(0 <= c <= s.rows for c, s in zip(counts, m.slices, strict=True))
        assert m.budget == epochs * (m.take if arm.budget == "epochs" else rows)
        if arm.workflow.startswith("accumulate") and before is not None:
            assert set(before.sources) < set(m.sources) and m.available > before.available
        before = m
    assert np.all(np.triu(workflow.table(), 1) == 0)
    for source in range(generations):
        ends = [s.start + s.rows for m in workflow.mixtures for s in m.slices if s.source == source]
        assert workflow.rows_needed(source) == max(ends, default=0)
    longer = Workflow(arm, rows, generations + 1, epochs)
    assert longer.mixtures[:generations] == workflow.mixtures  # a longer experiment shares its prefix


def test_subsample_is_uniform_over_the_pool():
    m = Mixture(3, (Slice(0, 0, 6), Slice(1, 0, 2), Slice(2, 0, 4)), 5, 5)
    generator = np.random.default_rng(0)
    drawn = np.array([m.counts(generator) for _ in range(20_000)])
    # Multivariate hypergeometric: mean n K/N, variance n K/N (1 - K/N) (N - n)/(N - 1).
    share = np.array([6, 2, 4]) / 12
    variance = 5 * share * (1 - share) * (12 - 5) / 11
    assert np.all(np.abs(drawn.mean(0) - 5 * share) < 4 * np.sqrt(variance / 20_000))
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.05)


@pytest.mark.parametrize(("arm", "message"), [
    ({"workflow": "augment", "fraction": 0.01, "synthetic": 0.01}, "without rows"),
    ({"workflow": "table", "table": ((1,), (1, 1))}, "a row for every generation"),
    ({"workflow": "value_of_synthetic", "real_rows": 11}, "more than the 10 real rows"),
])  # fmt: skip
def test_impossible_tables(arm, message):
    generations = 2 if arm["workflow"] == "value_of_synthetic" else 3
    with pytest.raises(BadInput, match=message):
        _ = Workflow(Arm(**arm), 10, generations).mixtures


def test_arm_problems_are_told():
    assert list(dataclasses.replace(Arm(), workflow="table", table=((1,), (1,))).problems())
    assert list(Arm("augment", fraction=1.5).problems())
    assert list(Arm("table", table=((0,),)).problems())
    assert not [
        line for name in set(NAMES) - {"table", "value_of_synthetic"} for line in Arm(name).problems()
    ]
