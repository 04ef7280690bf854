"""Where the rows of a workflow live: its table turned into fixed-shape integer arrays for a compiled scan.

Both ways of holding a pool are planned like registers. A block of rows is live from the generation that makes
it to the last that is fitted on it; its place is taken again afterwards. `Pool` gives rows addresses in one
flat array (replace needs n places, accumulate n * generations, a window w * n). `Slots` gives sufficient
statistics accumulators: sources that are used together from now on share one (accumulate needs a single
running total, augment two). No JAX here.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from collapse_jax.workflows import Slice, Workflow


@dataclass(frozen=True)
class Block:
    """Rows [start, stop) of a source, made after generation `born` (0: before the first fit).

    uses: bool [generations], whether generation t (entry t - 1) is fitted on it; last: the last that is.
    """

    source: int
    start: int
    stop: int
    born: int
    uses: np.ndarray
    last: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def live(self, after: int) -> bool:
        """Whether a generation later than `after` uses it."""
        return self.last > after


@dataclass(frozen=True)
class Pool:
    """Addresses in a flat array of `size` rows; every array has one entry (or row) per generation.

    base, begin, end: [generations, runs]; row v of a mixture with begin <= v < end lies at base + v - begin.
    available, take: rows of the mixture, and how many of them are used.
    write, made: where the samples go and how many are kept; late_write, late: the same for real rows that are
        drawn after the generation, and late_start which row of the source is the first of them. first: (address, rows)
        of the real rows drawn before the first fit.
    whole: every mixture is the front of the array.
    """

    size: int
    base: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    available: np.ndarray
    take: np.ndarray
    write: np.ndarray
    made: np.ndarray
    late_write: np.ndarray
    late: np.ndarray
    late_start: np.ndarray
    first: tuple[tuple[int, int], ...]
    whole: bool

    @property
    def subsampled(self) -> bool:
        return bool((self.take < self.available).any())


@dataclass(frozen=True)
class Slots:
    """Accumulators of sufficient statistics; arrays have one entry (or row) per generation.

    uses: bool [generations, count], which accumulators a generation is fitted on. put, clear, made:
    accumulator that takes the samples of the generation, whether it starts anew, and how many rows they
    are; late_put, late_clear, late: the same for real rows drawn after the generation. first:
    (accumulator, rows) of the real rows drawn before the first fit.
    """

    count: int
    uses: np.ndarray
    put: np.ndarray
    clear: np.ndarray
    made: np.ndarray
    late_put: np.ndarray
    late_clear: np.ndarray
    late: np.ndarray
    first: tuple[tuple[int, int], ...]


def blocks(workflow: Workflow) -> list[Block]:
    """The rows some generation uses, cut wherever a slice begins or ends, in the order of making."""
    by_source: dict[int, list[tuple[int, Slice]]] = {}
    for m in workflow.mixtures:
        for s in m.slices:
            by_source.setdefault(s.source, []).append((m.generation, s))
    out = []
    for source, uses in by_source.items():
        cuts = sorted({0} | {edge for _, s in uses for edge in (s.start, s.start + s.rows)})
        for start, stop in pairwise(cuts):
            used = np.zeros(workflow.generations, bool)
            used[[t - 1 for t, s in uses if s.start <= start and stop <= s.start + s.rows]] = True
            if used.any():
                born = source if source else int(np.argmax(used))
                out.append(Block(source, start, stop, born, used, int(np.flatnonzero(used)[-1]) + 1))
    return sorted(out, key=lambda b: (b.born, -b.source, b.start))


def pool(workflow: Workflow) -> Pool:
    """Lay out the rows of a workflow."""
    steps = workflow.generations
    parts = [b for group in _groups(blocks(workflow)) for b in group]
    address = _allocate(parts)
    runs = [_runs([(address[id(b)], b.rows) for b in parts if b.uses[t]]) for t in range(steps)]
    width = max(len(r) for r in runs)
    base, begin, end = (np.zeros((steps, width), np.int32) for _ in range(3))
    for t, found in enumerate(runs):
        at = 0
        for j in range(width):
            start, rows = found[j] if j < len(found) else (0, 0)
            base[t, j], begin[t, j], end[t, j] = start, at, at + rows
            at += rows
    write, made, late_write, late, late_start = (np.zeros(steps, np.int32) for _ in range(5))
    for group in _groups(parts):
        t, place, rows = group[0].born - 1, address[id(group[0])], sum(b.rows for b in group)
        if t >= 0 and group[0].source:
            write[t], made[t] = place, rows
        elif t >= 0:
            late_write[t], late[t], late_start[t] = place, rows, group[0].start
    size = max(address[id(b)] + b.rows for b in parts)
    # A block is written whole at a fixed width, so the widest must fit behind the last address.
    room = max([size, *(write + made.max()), *(late_write + late.max())])
    return Pool(
        int(room),
        base,
        begin,
        end,
        np.array([m.available for m in workflow.mixtures], np.int32),
        np.array([m.take for m in workflow.mixtures], np.int32),
        write,
        made,
        late_write,
        late,
        late_start,
        tuple((address[id(b)], b.rows) for b in parts if b.born == 0),
        width == 1 and not base.any(),
    )


def _groups(parts: list[Block]) -> list[list[Block]]:
    """Blocks drawn together: those of one source and birth (real rows before the first fit stay apart)."""
    groups: dict[tuple[int, int, int], list[Block]] = {}
    for i, b in enumerate(parts):
        groups.setdefault((b.born, b.source, i if b.born == 0 else -1), []).append(b)
    return list(groups.values())


def _allocate(parts: list[Block]) -> dict[int, int]:
    """First-fit addresses; blocks drawn together lie together and live as long as the longest of them."""
    placed: list[tuple[int, int, list[Block]]] = []
    address = {}
    for group in _groups(parts):
        born, rows = group[0].born, sum(b.rows for b in group)
        taken = sorted((a, n) for a, n, g in placed if any(b.live(born) for b in g))
        at = 0
        for start, length in taken:
            if start - at >= rows:
                break
            at = max(at, start + length)
        placed.append((at, rows, group))
        for b in group:
            address[id(b)] = at
            at += b.rows
    return address


def _runs(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted (address, rows) with neighbours joined; the order of rows within a mixture has no meaning."""
    out: list[tuple[int, int]] = []
    for address, rows in sorted(pieces):
        if out and out[-1][0] + out[-1][1] == address:
            out[-1] = (out[-1][0], out[-1][1] + rows)
        else:
            out.append((address, rows))
    return out


def slots(workflow: Workflow) -> Slots | None:
    """Assign accumulators, or None where statistics do not suffice.

    They do not for a random subset of the rows, nor where the samples of a generation are used in parts.
    """
    parts, steps = blocks(workflow), workflow.generations
    split = any(len(g) > 1 for g in _groups(parts))
    if split or any(m.take < m.available for m in workflow.mixtures):
        return None
    held: list[list[Block]] = []
    uses = np.zeros((steps, len(parts)), bool)
    put, made, late_put, late = (np.zeros(steps, np.int32) for _ in range(4))
    clear, late_clear = np.zeros(steps, bool), np.zeros(steps, bool)
    first = []
    for b in parts:
        slot, fresh = _slot(held, b)
        uses[b.born :, slot] = b.uses[b.born :]
        if b.born == 0:
            first.append((slot, b.rows))
        elif b.source:
            put[b.born - 1], made[b.born - 1], clear[b.born - 1] = slot, b.rows, fresh
        else:
            late_put[b.born - 1], late[b.born - 1], late_clear[b.born - 1] = slot, b.rows, fresh
    return Slots(len(held), uses[:, : len(held)], put, clear, made, late_put, late_clear, late, tuple(first))


def _slot(held: list[list[Block]], b: Block) -> tuple[int, bool]:
    """The accumulator whose members have the same future as `b`, else a dead one, else a new one."""
    for i, members in enumerate(held):
        if members[0].live(b.born) and np.array_equal(members[0].uses[b.born :], b.uses[b.born :]):
            members.append(b)
            return i, False
    for i, members in enumerate(held):
        if not members[0].live(b.born):
            held[i] = [b]
            return i, True
    held.append([b])
    return len(held) - 1, True
