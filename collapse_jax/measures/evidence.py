"""What decides each definition of model collapse: the metrics in order of preference, and the thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

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
    stays. increase (2): rise over generation 1, in the loss's unit. exponent (4): change of the exponent,
    either way. variance (5), modes (6), tails (7): share of generation 1's value that is left.
    mass (6, 7, 8): change of a probability or share that was measured as such.
    hallucination (8): perplexity of the samples under generation 1, over that of generation 1's own samples.
    steady (5, 7): what still loses more than this share in the last half of the generations is not "no".
    level: coverage of the intervals, simultaneous over all comparisons of one definition.
    """

    catastrophic: float = 2.0
    increase: float = 0.0
    exponent: float = 0.05
    variance: float = 0.1
    modes: float = 0.5
    tails: float = 0.5
    mass: float = 0.05
    hallucination: float = 2.0
    steady: float = 0.05
    level: float = 0.95


class Evidence(NamedTuple):
    """A metric that can decide a definition, and how its last generation is compared with generation 1.

    kind: "grows", "shrinks": ratio last / first above or below the threshold; "grows_log", "shrinks_log": the
    same for the exponential of a logarithm in nats or bits; "shrinks_squared": for the square; "risk":
    "grows_log" where the unit is nats or bits, else "grows"; "rises", "drops": difference.
    """

    metric: str
    kind: str = "risk"
    threshold: str = ""


RISK = tuple(Evidence(m) for m in ("test_loss", "frechet_distance", "fid", "inflation"))
RATIOS = ("perplexity", "frechet_distance", "fid", "test_loss", "inflation")
# In order of preference. A logarithm comes before the mean it belongs to: the mean variance of an unbiased
# refit stays put while almost every single chain's variance goes to 0.
EVIDENCE: Mapping[int, tuple[Evidence, ...]] = {
    1: tuple(Evidence(m, "risk", "catastrophic") for m in RATIOS),
    2: RISK,
    3: RISK,
    4: RISK,
    5: (
        Evidence("log_variance", "shrinks_log", "variance"),
        Evidence("std_ratio", "shrinks_squared", "variance"),
        Evidence("variance_ratio", "shrinks", "variance"),
        Evidence("heterozygosity", "shrinks", "variance"),
        Evidence("unigram_entropy", "shrinks_log", "variance"),  # exp: how many tokens are in use
        Evidence("entropy", "shrinks", "variance"),
        Evidence("distinct_2", "shrinks", "variance"),
    ),
    6: (
        Evidence("mode_coverage", "shrinks", "modes"),
        Evidence("class_coverage", "shrinks", "modes"),
        Evidence("modes", "shrinks", "modes"),
        Evidence("mode_separation", "shrinks", "modes"),
        Evidence("smallest_share", "shrinks", "modes"),
        Evidence("mode_overlap", "rises", "mass"),
        Evidence("class_confusion", "rises", "mass"),
    ),
    7: (
        Evidence("tail_recall", "shrinks", "tails"),
        Evidence("survivors", "shrinks", "tails"),
        Evidence("missing_mass", "rises", "mass"),
        Evidence("recall", "shrinks", "tails"),
        Evidence("coverage", "shrinks", "tails"),
    ),
    8: (
        Evidence("sample_loss_under_first", "grows_log", "hallucination"),
        Evidence("mass_outside", "rises", "mass"),
        Evidence("validity", "drops", "mass"),
        Evidence("precision", "drops", "mass"),
    ),
}
VANISHING = (5, 7)  # definitions that speak of a limit of 0
