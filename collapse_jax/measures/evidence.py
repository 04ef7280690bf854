"""What decides each definition of model collapse: the metrics in order of preference, and the thresholds."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from collapse_jax.config import number

NAMES = (
    "Catastrophic increase of population risk",
    "Any increase of population risk",
    "Asymptotically diverging population risk",
    "Change in scaling law",
    "Collapsing variance",
    "Entanglement of real data modes",
    "Disappearance of real tail data",
    "Appearance of hallucinated data",
)


@dataclass(frozen=True)
class Thresholds:
    """Where each definition draws its line.

    catastrophic (1): last over first risk; 2 lies above pi^2/6, where accumulating real and synthetic data
    stays. margin (2, 3 and every "flat"): share of generation 1's value within which a change counts as none;
    above 0 a rise that is certain is a "yes" of 2 however small. exponent (4): change of the exponent, either
    way. variance (5), modes (6), tails (7): share of generation 1's value that is left.
    mass (6, 7, 8): change of a probability or share that was measured as such.
    hallucination (8): perplexity of the samples under generation 1, over that of generation 1's own samples.
    steady (5, 7): what still loses more than this share in the last half of the generations is not "no".
    level: coverage of the intervals.
    """

    catastrophic: float = number(2.0, 0.0)
    margin: float = number(0.05, 0.0)
    exponent: float = number(0.05, 0.0)
    variance: float = number(0.1, 0.0, 1.0)
    modes: float = number(0.5, 0.0, 1.0)
    tails: float = number(0.5, 0.0, 1.0)
    mass: float = number(0.05, 0.0, 1.0)
    hallucination: float = number(2.0, 0.0)
    steady: float = number(0.05, 0.0, 1.0)
    level: float = number(0.95, 0.5, 0.9999)


class Evidence(NamedTuple):
    """A metric that can decide a definition, and how its last generation is compared with generation 1.

    kind: "grows", "shrinks": ratio last / first above or below the threshold; "grows_log", "shrinks_log": the
    same for the exponential of a logarithm in nats or bits; "shrinks_squared": for the square; "risk":
    "grows_log" where the unit is nats or bits, else "grows"; "rises", "drops": difference.
    """

    metric: str
    kind: str = "risk"
    threshold: str = ""


RISK = tuple(Evidence(m) for m in ("test_loss", "frechet_distance", "wasserstein2", "inflation"))
RATIOS = ("perplexity", "frechet_distance", "test_loss", "wasserstein2", "inflation")
# In order of preference: what is measured on the data itself comes before what a model says of them, and a
# logarithm before the mean it belongs to: the mean variance of an unbiased refit stays put while almost
# every single chain's variance goes to 0.
EVIDENCE: Mapping[int, tuple[Evidence, ...]] = {
    1: tuple(Evidence(m, "risk", "catastrophic") for m in RATIOS),
    2: RISK,
    3: RISK,
    4: RISK,
    5: (
        Evidence("log_variance", "shrinks_log", "variance"),
        Evidence("std_ratio", "shrinks_squared", "variance"),
        Evidence("variance_ratio", "shrinks", "variance"),
        Evidence("pixel_variance", "shrinks", "variance"),
        Evidence("diversity", "shrinks_squared", "variance"),  # a distance, whose square is a variance
        Evidence("heterozygosity", "shrinks", "variance"),
        Evidence("unigram_entropy", "shrinks_log", "variance"),  # exp: how many tokens are in use
        Evidence("entropy", "shrinks", "variance"),
        Evidence("distinct_2", "shrinks", "variance"),
    ),
    6: (
        Evidence("smallest_share", "shrinks", "modes"),
        Evidence("class_coverage", "shrinks", "modes"),
        Evidence("class_confusion", "rises", "mass"),
        Evidence("coverage_recall", "shrinks", "modes"),  # the modes of a molecule are its conformers
        Evidence("centre_distance", "shrinks", "modes"),
        Evidence("smaller_weight", "shrinks", "modes"),
    ),
    7: (
        Evidence("tail_recall", "shrinks", "tails"),
        Evidence("survivors", "shrinks", "tails"),
        Evidence("missing_mass", "rises", "mass"),
        Evidence("unseen_contexts", "rises", "mass"),
        Evidence("stored", "shrinks", "tails"),
        Evidence("recall", "shrinks", "tails"),
        Evidence("coverage", "shrinks", "tails"),
        Evidence("coverage_recall", "shrinks", "tails"),
    ),
    8: (
        Evidence("valid_share", "drops", "mass"),
        Evidence("precision", "drops", "mass"),
        Evidence("coverage_precision", "drops", "mass"),
        Evidence("sample_loss_under_first", "risk", "hallucination"),
    ),
}
VANISHING = (5, 7)  # definitions that speak of a limit of 0
BOUNDED = ("probability", "squared probability", "share", "total variation")  # units of what cannot diverge


def logarithm(unit: str) -> float:
    """Nats in one unit of a loss that is a logarithm; 0 for any other unit."""
    return 1.0 if unit.startswith("nat") else math.log(2) if unit.startswith("bit") else 0.0


def measured_as(metric: str, names: Iterable[str]) -> str:
    """The metric's name among those measured: itself, or itself at its smallest threshold (`coverage_recall_0.5`).

    Empty where it was not measured.
    """
    names = set(names)
    at = {n: m for n in names if (m := re.fullmatch(re.escape(metric) + r"_(\d+(?:\.\d+)?)", n))}
    return metric if metric in names else min(at, key=lambda n: float(at[n][1]), default="")
