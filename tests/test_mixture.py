"""Mixtures: each used row once an epoch, and the same global batches for any number of processes."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from collapse_jax.config import BadInput
from collapse_jax.data import mixture
from collapse_jax.data.records import RowSource, ShardWriter, shard_name

SPEC = {"id": ((2,), "int32")}


def make_source(directory, name, shards):
    """Rows [source number, row number]; `shards` are row counts."""
    files, first = [], 0
    for i, rows in enumerate(shards):
        path = directory / f"{name}-{shard_name(i, len(shards))}"
        with ShardWriter(path, SPEC) as writer:
            ids = np.stack([np.full(rows, name), np.arange(first, first + rows)], 1)
            writer.write_batch({"id": ids.astype(np.int32)})
        files.append((path, rows))
        first += rows
    return RowSource(files, SPEC)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rows")
    made = [make_source(directory, name, shards) for name, shards in enumerate([(40, 33), (20,), (5, 1, 8)])]
    yield made
    for source in made:
        source.close()


COUNTS = (30, 20, 3)  # of the 30, 20 and 5 rows below: a subset of the last


@pytest.fixture
def components(sources):
    return [(sources[0], 7, 30), (sources[1], 0, 20), (sources[2], 2, 5)]


def draw(components, counts=COUNTS, draws=53 * 4, batch_size=4, seed=(3, 1), **kwargs):
    with mixture.Batches(components, counts, draws, batch_size, seed, **kwargs) as batches:
        return [batch["id"] for batch in batches]


# --- what is drawn


def test_every_used_row_once_an_epoch_and_the_subset_is_fixed(components):
    drawn = np.concatenate(draw(components, draws=53 * 4, batch_size=53))
    epochs = drawn.reshape(4, 53, 2)
    used = [sorted(map(tuple, epoch.tolist())) for epoch in epochs]
    assert used[0] == used[1] == used[2] == used[3]
    assert len(set(used[0])) == 53
    assert [row for row in used[0] if row[0] == 0] == [(0, i) for i in range(7, 37)]
    assert [row for row in used[0] if row[0] == 1] == [(1, i) for i in range(20)]
    subset = [row[1] for row in used[0] if row[0] == 2]
    assert len(subset) == 3 and set(subset) <= set(range(2, 7))
    orders = {tuple(row[1] for row in epoch.tolist() if row[0] == 0) for epoch in epochs}
    assert len(orders) == 4  # shuffled anew each epoch


def test_batches_follow_the_realised_counts(components):
    batches = draw(components, draws=100, batch_size=8)
    assert len(batches) == 12  # 100 // 8, the rest dropped
    for step in range(1, 13):
        ids = np.concatenate(batches[:step])[:, 0]
        assert tuple(np.bincount(ids, minlength=3)) == mixture.realised(COUNTS, step * 8)


def test_subsets_are_uniform(sources):
    component, seen, trials = (sources[1], 0, 20), np.zeros(20), 400
    for seed in range(trials):
        rows = np.concatenate(draw([component], (5,), 5, 5, (seed,), threads=0))[:, 1]
        assert len(set(rows.tolist())) == 5
        seen[rows] += 1
    expected = trials * 5 / 20
    # Each count is hypergeometric over the trials; the statistic has about 19 degrees of freedom.
    assert ((seen - expected) ** 2 / (expected * 15 / 20)).sum() < 44  # 0.999 quantile


def test_seeds_and_sources_are_independent_streams(components):
    first = np.concatenate(draw(components))
    assert not np.array_equal(first, np.concatenate(draw(components, seed=(3, 2))))
    assert np.array_equal(first, np.concatenate(draw(components, seed=(3, 1))))
    twins = np.concatenate(draw([components[1], components[1]], (20, 20), 40, 40)).tolist()
    assert [row[1] for row in twins[::2]] != [row[1] for row in twins[1::2]]  # two equal sources alternate


def test_sources_with_count_zero_are_left_out(components):
    rows = np.concatenate(draw(components, (30, 0, 3), 33, 33))
    assert set(rows[:, 0].tolist()) == {0, 2}


# --- position, processes, threads


@pytest.mark.parametrize("start", [1, 7, 52, 53])
def test_seek_gives_what_an_uninterrupted_run_gives(components, start):
    whole = draw(components)
    late = draw(components, start_step=start)
    assert len(late) == 53 - start
    assert all(np.array_equal(a, b) for a, b in zip(whole[start:], late, strict=True))


@pytest.mark.parametrize(
    "held", [[range(4), range(4, 8)], [[0, 3, 5, 6], [1, 2], [4, 7]], [[0, 1, 6], [0, 7]]]
)
def test_every_process_reads_its_places_of_the_global_batches(components, held):
    whole = draw(components, batch_size=8)
    for places in map(list, held):
        part = draw(components, batch_size=8, held=np.array(places))
        assert [x.tolist() for x in part] == [batch[places].tolist() for batch in whole]
        late = draw(components, batch_size=8, held=np.array(places), start_step=5)
        assert all(np.array_equal(a, b) for a, b in zip(part[5:], late, strict=True))


WORKER = """
import sys
import numpy as np
from collapse_jax.data import mixture
from collapse_jax.data.records import RowSource

index, count, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
files = [(path, int(rows)) for path, rows in (arg.split("=") for arg in sys.argv[4:])]
sources = [RowSource([file], {"id": ((2,), "int32")}) for file in files]
held = np.arange(8).reshape(count, -1)[index]
with mixture.Batches([(s, 0, len(s)) for s in sources], (9, 14), 64, 8, (5,), held=held) as batches:
    np.save(out, np.stack([batch["id"] for batch in batches]))
"""


@pytest.mark.slow
def test_same_global_batches_from_real_processes(tmp_path):
    made = [make_source(tmp_path, name, (rows,)) for name, rows in enumerate((12, 14))]
    files = [f"{source.paths[0]}={len(source)}" for source in made]
    runs = [(0, 1), (0, 2), (1, 2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(i), str(n), str(tmp_path / f"{i}of{n}.npy"), *files],
            cwd=Path(__file__).parents[1],
        )
        for i, n in runs
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    whole, left, right = (np.load(tmp_path / f"{i}of{n}.npy") for i, n in runs)
    assert whole.shape == (8, 8, 2)
    assert np.array_equal(np.concatenate([left, right], axis=1), whole)
    for source in made:
        source.close()


@pytest.mark.parametrize("threads, prefetch", [(0, 0), (1, 1), (2, 8), (4, 2)])
def test_threads_change_nothing_and_end_with_close(components, threads, prefetch):
    before = threading.active_count()
    batches = mixture.Batches(components, COUNTS, 212, 4, (3, 1), threads=threads, prefetch=prefetch)
    some = [next(batches)["id"] for _ in range(10)]
    assert threading.active_count() <= before + threads
    batches.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
    assert all(np.array_equal(a, b) for a, b in zip(some, draw(components), strict=False))


def test_start_does_not_grow_with_the_data(sources):
    class Huge(RowSource):
        def __init__(self):
            self.spec = SPEC

        def __len__(self):
            return 1_000_000_000

        def take(self, indices):
            return {"id": np.stack([indices >> 31, indices & 0x7FFFFFFF], 1).astype(np.int32)}

    start = time.monotonic()
    with mixture.Batches(
        [(Huge(), 0, 1_000_000_000), (sources[1], 0, 20)],
        (900_000_000, 20),
        1 << 40,
        64,
        (1,),
        start_step=1 << 33,
    ) as batches:
        assert next(batches)["id"].shape == (64, 2)
    assert time.monotonic() - start < 5


def test_sizes_that_do_not_fit_are_refused(components):
    cases = [
        ({"batch_size": 0}, "at least 1"),
        ({"draws": 3}, "less than one batch"),
        ({"start_step": 54}, "outside"),
        ({"counts": (31, 20, 3)}, "31 of"),
        ({"counts": (30, 20)}, "no mixture"),
        ({"counts": (0, 0, 0)}, "no mixture"),
    ]
    for change, message in cases:
        with pytest.raises(BadInput, match=message):
            draw(components, **change)
    with pytest.raises(BadInput, match="source 0"):
        draw([(components[0][0], 50, 30), *components[1:]])


# --- evaluation in order


@pytest.mark.parametrize(
    "start, stop, batch_size, held",
    [
        (0, 73, 8, None),
        (5, 41, 12, [0, 1, 4, 11]),
        (40, 43, 8, [4, 5, 6, 7]),
        (3, 4, 4, [1]),
        (0, 73, 8, [7]),
    ],
)
def test_in_order_pads_with_rows_of_weight_zero(sources, start, stop, batch_size, held):
    part = list(mixture.in_order(sources[0], start, stop, batch_size, held and np.array(held)))
    places = [i for i in range(batch_size) if held is None or i in held]
    at = [[first + i for i in places] for first in range(start, stop, batch_size)]
    assert [rows["id"][:, 1].tolist() for rows, _ in part] == [[min(i, stop - 1) for i in x] for x in at]
    assert [weights.tolist() for _, weights in part] == [[float(i < stop) for i in x] for x in at]
    assert all(weights.dtype == np.float32 for _, weights in part)


def test_in_order_refuses_nothing_to_read(sources):
    for start, stop in ((0, 0), (0, 74), (-1, 3)):
        with pytest.raises(BadInput):
            list(mixture.in_order(sources[0], start, stop, 4))
