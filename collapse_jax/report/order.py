"""In which order measures are shown: what a reader asks first comes first, likes stand together."""

from collections.abc import Iterable

from collapse_jax.measures.series import Quantity
from collapse_jax.report.words import HELD_OUT, stem

TOGETHER = 9  # figures that need no headings
CONDITIONS, REAL, REST = "Samples for held-out rows", "Held-out real data", "Fit and other measures"
# Names may carry a threshold: coverage_recall_0.5. What is named nowhere follows in the order of the records.
GROUPS = (
    (
        "Samples against real data",
        (
            "frechet_distance",
            "wasserstein2",
            "total_variation",
            "l2_distance",
            "precision",
            "recall",
            "density",
            "coverage",
            "coverage_recall",
            "matching_recall",
            "coverage_precision",
            "matching_precision",
            "valid_share",
            "bond_distance",
            "angle_distance",
            "torsion_distance",
            "memorisation",
            "copied_rows",
            "sample_loss_under_first",
        ),
    ),
    (
        "Diversity, modes and tails",
        (
            "class_coverage",
            "smallest_share",
            "class_entropy",
            "class_confusion",
            "variance_ratio",
            "pixel_variance",
            "diversity",
            "real_diversity",
            "log_variance",
            "std_ratio",
            "log_determinant",
            "determinant_ratio",
            "centre_distance",
            "smaller_weight",
            "component_deviation",
            "tail_recall",
            "survivors",
            "missing_mass",
            "unseen_contexts",
            "heterozygosity",
            "entropy",
            "unigram_entropy",
            "distinct_1",
            "distinct_2",
            "distinct_3",
        ),
    ),
    (CONDITIONS, ()),
    (REAL, ()),
    (REST, ()),
)


PLACE = {name: (g, i) for g, (_, names) in enumerate(GROUPS) for i, name in enumerate(names)}
AT = {heading: g for g, (heading, _) in enumerate(GROUPS)}


def _place(q: Quantity) -> tuple[int, tuple[int, int], str]:
    """Group, place in it, name: thresholds of one measure stand together."""
    there = AT[REAL if q.split == "real_test" else REST]
    place = PLACE.get(q.metric) or PLACE.get(stem(q.metric))
    if q.metric.startswith(HELD_OUT):
        return AT[CONDITIONS], place or (there, 0), q.metric
    return (place[0], place, q.metric) if place else (there, (there, 0), "")


def grouped(quantities: Iterable[Quantity]) -> list[tuple[str, list[Quantity]]]:
    """(heading, quantities) by importance; one group without a heading where there are few."""
    ordered = sorted(quantities, key=_place)
    if len(ordered) <= TOGETHER:
        return [("", ordered)] if ordered else []
    groups = [(heading, [q for q in ordered if _place(q)[0] == g]) for g, (heading, _) in enumerate(GROUPS)]
    return [(heading, members) for heading, members in groups if members]
