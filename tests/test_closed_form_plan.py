"""Where rows live: replayed symbolically, every generation must find exactly the rows its table names."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_jax.closed_form import plan
from collapse_jax.workflows import Arm, Workflow

ARMS = {
    "replace": Arm("replace"),
    "accumulate": Arm("accumulate"),
    "accumulate_subsample": Arm("accumulate_subsample"),
    "replace_multiple": Arm("replace_multiple"),
    "augment": Arm("augment", fraction=0.5, synthetic=2.0),
    "fresh": Arm("fresh", fraction=0.5),
    "window": Arm("window", window=3),
    "table": Arm(
        "table", table=((1,), (0.5, 1), (2, 0, 1), (1, 1, 0, 0.5), (0, 0, 1, 0, 2), (1, 0, 0, 1, 0, 1))
    ),
}


def wanted(workflow: Workflow, t: int) -> list[tuple[int, int]]:
    return sorted((s.source, i) for s in workflow.mixture(t).slices for i in range(s.start, s.start + s.rows))


def replay_pool(workflow: Workflow) -> None:
    """Write (source, row) labels where the plan says and read every mixture back."""
    p = plan.pool(workflow)
    held: list = [None] * p.size
    real = iter(range(10**6))
    for address, rows in p.first:
        held[address : address + rows] = [(0, next(real)) for _ in range(rows)]
    for t in range(1, workflow.generations + 1):
        i = t - 1
        found = []
        for v in range(p.available[i]):
            run = int(np.sum(v >= p.end[i][:-1]))
            found.append(held[p.base[i, run] + v - p.begin[i, run]])
        assert sorted(found) == wanted(workflow, t)
        if p.whole:
            assert found == held[: p.available[i]]
        assert p.write[i] + p.made.max() <= p.size and p.late_write[i] + p.late.max() <= p.size
        held[p.write[i] : p.write[i] + p.made[i]] = [(t, k) for k in range(p.made[i])]
        held[p.late_write[i] : p.late_write[i] + p.late[i]] = [(0, next(real)) for _ in range(p.late[i])]


def replay_slots(workflow: Workflow) -> None:
    """The same with sets of labels in accumulators."""
    p = plan.slots(workflow)
    if p is None:
        return
    held: list[list] = [[] for _ in range(p.count)]
    real = iter(range(10**6))
    for slot, rows in p.first:
        held[slot] += [(0, next(real)) for _ in range(rows)]
    for t in range(1, workflow.generations + 1):
        i = t - 1
        assert sorted(x for s in range(p.count) if p.uses[i, s] for x in held[s]) == wanted(workflow, t)
        for put, clear, made, source in (
            (p.put[i], p.clear[i], p.made[i], t),
            (p.late_put[i], p.late_clear[i], p.late[i], 0),
        ):
            if made:
                new = [(source, k) if source else (0, next(real)) for k in range(made)]
                held[put] = new if clear else held[put] + new


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("generations", [1, 2, 6])
def test_every_mixture_is_found(name, generations):
    workflow = Workflow(ARMS[name], 4, generations)
    replay_pool(workflow)
    replay_slots(workflow)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_table(data):
    steps = data.draw(st.integers(1, 6))
    share = st.sampled_from([0, 0, 0.5, 1, 2])
    rows = [data.draw(st.lists(share, min_size=t, max_size=t).filter(any)) for t in range(1, steps + 1)]
    workflow = Workflow(Arm("table", table=tuple(map(tuple, rows))), 2, steps)
    replay_pool(workflow)
    replay_slots(workflow)


@pytest.mark.parametrize(
    ("name", "places", "accumulators"),
    [
        ("replace", 4, 1),
        ("accumulate", 40, 1),
        ("augment", 10, 2),
        ("window", 12, 3),
        ("replace_multiple", 40, 1),
    ],
)
def test_only_what_is_live_is_held(name, places, accumulators):
    """Ten generations of n = 4: no more rows, and no more accumulators, than are used later."""
    workflow = Workflow(ARMS[name], 4, 10)
    assert plan.pool(workflow).size == places
    slots = plan.slots(workflow)
    assert slots is not None and slots.count == accumulators


def test_a_subset_needs_its_rows():
    assert plan.slots(Workflow(Arm("accumulate_subsample"), 4, 3)) is None
