"""Diversity of sampled token rows: unigram entropy, distinct n-grams, what is left of the rare vocabulary, copies.

Rows are batches {"tokens": [B, L], "length": [B], "prompt": [B]}; of a row the tokens from `prompt` up to `length`
count: those before were given, not drawn.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from collapse_jax.data import packing

UNITS = {
    "unigram_entropy": "nats/token",
    "distinct_1": "share",
    "distinct_2": "share",
    "distinct_3": "share",
    "tail_recall": "share",
    "mean_length": "tokens",
    "copied_rows": "share",
}

Batch = Mapping[str, np.ndarray]


def token_counts(batches: Iterable[Batch], vocab_size: int) -> np.ndarray:
    """int64 [vocab_size]: how often each token occurs."""
    counts = np.zeros(vocab_size, np.int64)
    for batch in batches:
        counts += np.bincount(batch["tokens"][_counts_BL(batch)], minlength=vocab_size)
    return counts


def entropy(counts: np.ndarray) -> float:
    """Shannon entropy of the empirical distribution, nats/token; 0 when there are no tokens."""
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(share * np.log(share)).sum()) + 0.0


def distinct_n(batches: Iterable[Batch], n: int, rows: int | None = None) -> float:
    """Share of distinct n-grams among all n-grams of tokens that count, within a row (Li et al. 2016, "distinct-n").

    The share falls with the amount of text, so only the first `rows` rows count; compare equal numbers of
    rows only. It is 0 when no row has n tokens.
    """
    grams = [_grams(batch, n) for batch in _first(batches, rows)]
    total = sum(len(g) for g in grams)
    return len(np.unique(np.concatenate(grams))) / total if total else 0.0


def rarest_decile(counts: np.ndarray) -> np.ndarray:
    """Ids of the rarest tenth (rounded up) of the tokens that occur, by count and then by id."""
    seen = np.flatnonzero(counts)
    return seen[np.argsort(counts[seen], kind="stable")][: -(-len(seen) // 10)]


def tail_recall(real_counts: np.ndarray, sample_counts: np.ndarray) -> float:
    """Share of the real text's rarest decile of tokens that occurs in the samples at all, in [0, 1].

    It grows with the amount of sampled text; compare equal amounts only.
    """
    rare = rarest_decile(real_counts)
    return float((sample_counts[rare] > 0).mean()) if len(rare) else 0.0


def copied_rows(samples: Iterable[Batch], real: Iterable[Batch]) -> float:
    """Share of the sampled rows that are, prompt included, token for token one of the real rows."""
    known = np.concatenate([packing.digests(batch) for batch in real])
    return float(np.isin(np.concatenate([packing.digests(batch) for batch in samples]), known).mean())


def measure(
    samples: Iterable[Batch], real: Iterable[Batch], vocab_size: int, rows: int | None = None
) -> dict[str, float]:
    """All measures of the first `rows` sampled rows against the real training rows, named as in `UNITS`."""
    kept = list(_first(samples, rows))
    counts = token_counts(kept, vocab_size)
    number = sum(len(batch["length"]) for batch in kept)
    return {
        "unigram_entropy": entropy(counts),
        **{f"distinct_{n}": distinct_n(kept, n) for n in (1, 2, 3)},
        "tail_recall": tail_recall(token_counts(real, vocab_size), counts),
        "mean_length": int(counts.sum()) / max(number, 1),
        "copied_rows": copied_rows(kept, real),
    }


def _counts_BL(batch: Batch) -> np.ndarray:
    at = np.arange(batch["tokens"].shape[1])
    return (np.asarray(batch["prompt"])[:, None] <= at) & (at < np.asarray(batch["length"])[:, None])


def _grams(batch: Batch, n: int) -> np.ndarray:
    """int64: every n-gram of tokens that count as one number; exact while ids fit in 63 // n bits."""
    tokens_BL = np.asarray(batch["tokens"], np.int64)
    bits = 63 // n
    if tokens_BL.size and int(tokens_BL.max()) >> bits:
        raise ValueError(f"{n}-grams of ids up to {tokens_BL.max()} do not fit in 63 bits")
    width = max(tokens_BL.shape[1] - n + 1, 0)
    whole_BW = np.arange(width) + n <= np.asarray(batch["length"])[:, None]
    whole_BW &= np.arange(width) >= np.asarray(batch["prompt"])[:, None]
    gram_BW = np.zeros((len(tokens_BL), width), np.int64)
    for k in range(n):
        gram_BW = (gram_BW << bits) | tokens_BL[:, k : k + width]
    return gram_BW[whole_BW]


def _first(batches: Iterable[Batch], rows: int | None) -> Iterable[Batch]:
    left = rows
    for batch in batches:
        if left is not None and left <= 0:
            return
        take = batch if left is None else {name: values[:left] for name, values in batch.items()}
        yield take
        if left is not None:
            left -= len(take["length"])
