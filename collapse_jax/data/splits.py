"""Which rows are held out: whole groups, so that variants of one thing never stand on both sides."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from collapse_jax import rng
from collapse_jax.config import BadInput


def by_group(
    groups: Sequence[str], shares: Mapping[str, float], seed: int, what: str
) -> dict[str, np.ndarray]:
    """Positions in `groups`, ascending, of "train" and of every split that `shares` names.

    groups: for every item the name of the group that it belongs to; the order of items does not matter.
    shares: of the items, e.g. {"validation": 0.1, "test": 0.1}: the whole number of groups that comes nearest,
        at least one, with one left for training. A group larger than the share is held out only where all are.
    seed: of the order in which groups are taken.
    what: the source and its items, for the error, e.g. "npz:x.npz has 2 group(s) of images".
    Raises `BadInput` where there are fewer groups than splits.
    """
    names, group_N, sizes = np.unique(np.asarray(groups, np.str_), return_inverse=True, return_counts=True)
    if len(names) <= len(shares):
        wanted = ", ".join(("train", *shares))
        raise BadInput(f"{what} and {wanted} need one each; give more data, or group it otherwise")
    left = rng.host("groups", seed).permutation(len(names)).tolist()
    found = {}
    for number, (split, share) in enumerate(shares.items()):
        free = len(left) - (len(shares) - number)  # the other splits and training need one each
        chosen = _nearest(left, sizes, share * len(group_N))[:free]
        found[split] = np.flatnonzero(np.isin(group_N, chosen))
        taken = set(chosen)
        left = [group for group in left if group not in taken]
    return {"train": np.flatnonzero(np.isin(group_N, left)), **found}


def merged(groups: Sequence[str], contents: Sequence[str]) -> list[str]:
    """The groups of the items, where groups that share an item of the same content have become one."""
    names, group_N = np.unique(np.asarray(groups, np.str_), return_inverse=True)
    content_N = len(names) + np.unique(np.asarray(contents, np.str_), return_inverse=True)[1]
    links = coo_array((np.ones(len(group_N)), (group_N, content_N)), (len(names) + len(group_N),) * 2)
    component = connected_components(links, directed=False)[1][: len(names)]
    first = {int(part): name for part, name in zip(component[::-1], names[::-1].tolist(), strict=True)}
    return [first[part] for part in component[group_N].tolist()]


def _nearest(groups: list[int], sizes: np.ndarray, target: float) -> list[int]:
    """The first groups in this order that together come nearest to `target` items; at least one."""
    chosen, taken = [], 0
    for group in groups:
        if taken + sizes[group] / 2 > target:
            break
        if sizes[group] <= target:
            chosen.append(group)
            taken += sizes[group]
    return chosen or [min(groups, key=lambda group: sizes[group])]
