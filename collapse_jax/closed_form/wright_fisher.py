"""The Wright-Fisher chain: how many of n resampled rows carry one symbol, exactly.

Under replace each symbol's count is binomial given its last frequency, so expectations of any sum over
symbols need the marginal chain of one symbol only (states 0..n). It gives survivors, missing mass,
entropy, total collapse and its expected time for every n, where the literature has limits: 4 p
(1-p)(1-1/n)^k bounds (Seddik et al. 2404.05090), e^{-n p g_k} (Suresh et al. 2412.17646) and -2n sum
(1-p) ln(1-p) (diffusion).
"""

import numpy as np
from scipy.stats import binom

LARGEST = 2000


def applies(rows: int, symbols: int) -> bool:
    """Whether the chain is small enough to be solved: up to 2000 rows and ten million first counts."""
    return rows <= LARGEST and rows * symbols <= 10_000_000


def transition(rows: int) -> np.ndarray:
    """[n + 1, n + 1]: probability of count j in the next generation given count i in this one."""
    states = np.arange(rows + 1)
    return binom.pmf(states[None, :], rows, states[:, None] / rows)


def expectations(rows: int, start: np.ndarray, of_count: np.ndarray, generations: int) -> np.ndarray:
    """E f(count_t) of symbols with real probabilities `start` [K].

    of_count: [n + 1, F], values of F functions at every count. Returns [generations, K, F]; generation 1
    is the first binomial draw.
    """
    step = transition(rows)
    first = binom.pmf(np.arange(rows + 1)[None, :], rows, start[:, None])
    out = np.empty((generations, len(start), of_count.shape[1]))
    values = of_count
    for t in range(generations):
        out[t] = first @ values
        values = step @ values
    return out


def time_to_fixation(rows: int, start: np.ndarray, copies: np.ndarray) -> float:
    """Expected first generation in which one symbol has every row.

    start, copies: [K] distinct real probabilities and how many symbols have each.

    1 + sum over symbols of E g(count_1), where g solves g = (j/n - [j = n]) + M g and vanishes at 0 and
    n: the symbol that will win is j/n likely, and its time is what is left of that.
    """
    inner = np.arange(1, rows)
    step = transition(rows)[1:-1, 1:-1]
    g = np.zeros(rows + 1)
    g[1:-1] = np.linalg.solve(np.eye(rows - 1) - step, inner / rows)
    first = binom.pmf(np.arange(rows + 1)[None, :], rows, start[:, None])
    return 1.0 + float(copies @ (first @ g))
