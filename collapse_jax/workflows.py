"""Workflows: the pure rule that says what generation t is fitted on.

A workflow is a lower-triangular table. Row t = 1, 2, ... lists for each source 0..t-1 the rows that may be
used: source 0 is the real data, source k >= 1 the samples of generation k. Counts are for `rows` = n real
rows; papers name them D_t (Gerstgrasser et al. 2404.01413; Kazdan et al. 2410.16713; Alemohammad et al.
2307.01850). Nothing here does I/O or touches JAX, so the chain, the closed forms, the plan and the report
all read the same table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from collapse_jax.config import BadInput, choice, number
from collapse_jax.reading import MOST

NAMES = (
    "replace",
    "accumulate",
    "accumulate_subsample",
    "replace_multiple",
    "augment",
    "fresh",
    "value_of_synthetic",
    "window",
    "table",
)
MOST_ENTRIES = 20_000_000  # of a table: a few GB of slices


@dataclass(frozen=True)
class Slice:
    """Rows [start, start + rows) of a source."""

    source: int
    start: int
    rows: int


@dataclass(frozen=True)
class Mixture:
    """What one generation is fitted on.

    `slices` are the rows available, at most one slice a source and none empty. `take` of them are used: all,
    or a uniform subset without replacement. The fit draws `budget` rows in all, each used row equally often
    up to one draw.
    """

    generation: int
    slices: tuple[Slice, ...]
    take: int
    budget: int

    @property
    def available(self) -> int:
        """Rows in all slices."""
        return sum(s.rows for s in self.slices)

    @property
    def sources(self) -> tuple[int, ...]:
        return tuple(s.source for s in self.slices)

    def counts(self, generator: np.random.Generator | None = None) -> tuple[int, ...]:
        """Rows used of each slice, summing to `take`.

        A subset is uniform over the pool, so its counts are multivariate hypergeometric and need a generator.
        """
        rows = [s.rows for s in self.slices]
        if self.take == self.available:
            return tuple(rows)
        if generator is None:
            raise ValueError("a subsampled mixture needs a random generator")
        return tuple(
            int(c) for c in generator.multivariate_hypergeometric(rows, self.take, method="marginals")
        )

    def expected_counts(self) -> tuple[float, ...]:
        """Mean of `counts`: proportional to the slices."""
        return tuple(self.take * s.rows / self.available for s in self.slices)


@dataclass(frozen=True)
class Arm:
    """A workflow with its settings: one line of an experiment.

    budget: "epochs" draws every used row `epochs` times, so that a growing mixture is trained longer (the
        papers' protocol); "steps" draws as many rows in every generation as in the first.
    fraction: share of the n real rows kept (augment) or renewed (fresh) each generation.
    synthetic: rows of the latest generation beside them, as a multiple of n (augment, fresh).
    window: how many of the latest sources are kept (window).
    real_rows, synthetic_rows: the single step of value_of_synthetic.
    table: multiples of n, row t holding t entries (table), e.g. ((1,), (0.5, 1), (0.5, 0, 1)).
    """

    workflow: str = choice("replace", NAMES)
    budget: str = choice("epochs", ("epochs", "steps"))
    fraction: float = number(1.0, 0.0)
    synthetic: float = number(1.0, 0.0)
    window: int = number(1, 1)
    real_rows: int = number(0, 0)
    synthetic_rows: int = number(0, 0)
    table: tuple = ()

    def problems(self) -> Iterator[str]:
        if self.workflow == "augment" and self.fraction > 1:
            yield f"fraction={self.fraction:g} of the real rows must be at most 1"
        if self.workflow == "value_of_synthetic" and self.real_rows + self.synthetic_rows == 0:
            yield "value_of_synthetic needs real_rows or synthetic_rows above 0"
        if self.workflow == "table":
            yield from _table_problems(self.table)


def _table_problems(table: tuple) -> Iterator[str]:
    if not table:
        yield "workflow 'table' needs table=((1,), (0, 1), ...)"
    for t, row in enumerate(table, 1):
        if not isinstance(row, tuple) or len(row) != t:
            yield f"row {t} of table must be a tuple of {t} entries (sources 0..{t - 1})"
        elif not all(isinstance(x, int | float) and 0 <= x < float("inf") for x in row) or not sum(row):
            yield f"row {t} of table must hold finite multiples >= 0 of the real rows, one of them above 0"


@dataclass(frozen=True)
class Workflow:
    """An arm's table for `rows` = n real rows over `generations`, each used row drawn `epochs` times."""

    arm: Arm
    rows: int
    generations: int
    epochs: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1 or self.generations < 1 or self.epochs < 1:
            raise BadInput(
                f"a workflow needs at least 1 row, generation and epoch "
                f"(rows={self.rows}, generations={self.generations}, epochs={self.epochs})"
            )
        if self._entries() > MOST_ENTRIES:
            raise BadInput(
                f"workflow {self.arm.workflow!r} over generations={self.generations} is a table of "
                f"{self._entries():,} entries; lower generations until there are at most {MOST_ENTRIES:,}"
            )
        if self.arm.workflow == "table" and len(self.arm.table) < self.generations:
            raise BadInput(
                f"table has {len(self.arm.table)} rows and generations={self.generations}; "
                "write a row for every generation"
            )
        if self.arm.workflow == "value_of_synthetic":
            if self.generations > 2:
                raise BadInput(
                    f"value_of_synthetic is a single step: generations={self.generations} must be at most 2"
                )
            if self.arm.real_rows > self.rows:
                raise BadInput(
                    f"real_rows={self.arm.real_rows} is more than the {self.rows} real rows; lower it"
                )

    def _entries(self) -> int:
        """Entries of the table above 0, at most."""
        whole = self.generations * (self.generations + 1) // 2
        match self.arm.workflow:
            case "accumulate" | "accumulate_subsample" | "table":
                return whole
            case "window":
                return min(whole, self.arm.window * self.generations)
        return min(whole, 2 * self.generations)

    @cached_property
    def mixtures(self) -> tuple[Mixture, ...]:
        """Rows 1..generations of the table."""
        return tuple(self._mixture(t) for t in range(1, self.generations + 1))

    def mixture(self, generation: int) -> Mixture:
        """What `generation` (1-based) is fitted on."""
        return self.mixtures[generation - 1]

    def _mixture(self, t: int) -> Mixture:
        slices = tuple(s for s in self._slices(t) if s.rows)
        if not slices:
            raise BadInput(
                f"workflow {self.arm.workflow!r} leaves generation {t} without rows; raise its shares"
            )
        pool = sum(s.rows for s in slices)
        if pool > MOST:
            raise BadInput(
                f"workflow {self.arm.workflow!r}: generation {t} has {pool:,} rows to be fitted on; lower rows until "
                f"there are at most {MOST:,}"
            )
        take = min(self.rows, pool) if self.arm.workflow == "accumulate_subsample" else pool
        per_epoch = take if self.arm.budget == "epochs" else self.rows
        return Mixture(t, slices, take, self.epochs * per_epoch)

    def _slices(self, t: int) -> list[Slice]:
        n, arm, latest = self.rows, self.arm, t - 1
        if arm.workflow == "table":
            return [Slice(k, 0, round(x * n)) for k, x in enumerate(arm.table[t - 1])]
        if t == 1:
            return [Slice(0, 0, n)]
        match arm.workflow:
            case "replace":
                return [Slice(latest, 0, n)]
            case "accumulate" | "accumulate_subsample":
                return [Slice(k, 0, n) for k in range(t)]
            case "replace_multiple":
                return [Slice(latest, 0, t * n)]
            case "augment":
                return [Slice(0, 0, round(arm.fraction * n)), Slice(latest, 0, round(arm.synthetic * n))]
            case "fresh":
                new = round(arm.fraction * n)
                return [Slice(0, n + (t - 2) * new, new), Slice(latest, 0, round(arm.synthetic * n))]
            case "value_of_synthetic":
                return [Slice(0, 0, arm.real_rows), Slice(latest, 0, arm.synthetic_rows)]
            case "window":
                return [Slice(k, 0, n) for k in range(max(0, t - arm.window), t)]
        raise BadInput(f"unknown workflow {arm.workflow!r}; there are {', '.join(NAMES)}")

    def rows_needed(self, source: int) -> int:
        """Rows of a source that some generation may use."""
        return max(
            (s.start + s.rows for m in self.mixtures for s in m.slices if s.source == source), default=0
        )

    def table(self) -> np.ndarray:
        """Expected rows used, float [generations, generations]: [t - 1, k] is source k in generation t."""
        out = np.zeros((self.generations, self.generations))
        for m in self.mixtures:
            out[m.generation - 1, list(m.sources)] = m.expected_counts()
        return out
