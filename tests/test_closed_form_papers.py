"""The configs of the sampled-density, tail and verification papers resolve, every sweep point too."""

from pathlib import Path

import pytest

from collapse_jax import closed_form, config

PAPERS = Path(__file__).parents[1] / "configs" / "papers"
NAMES = (
    "thrive_kde",
    "curse_gmm",
    "verification_threshold",
    "strong_collapse",
    "pool_of_models",
    "pathological",
    "tails_cut",
    "tails_generations",
    "tails_mixing",
    "tails_adding",
    "tails_bigram",
    "tails_memory",
)


@pytest.mark.parametrize("name", NAMES)
def test_config_and_sweep_resolve(name):
    """References name arms and metrics that exist, and generations that are run."""
    path = str(PAPERS / f"{name}.py")
    experiment = closed_form.resolve(config.load(path))
    arms = {name: (panel, arm) for name, panel, arm in experiment.arms()}
    for reference in experiment.reference:
        panel, _ = arms[reference["arm"]]
        assert reference["metric"] in panel.settings.units
        assert all(1 <= t <= panel.generations for t, _ in reference["points"])
    for point in config.sweep(path):
        given = config.load(path)
        with given.unlocked():
            given.update_from_flattened_dict(point)
        closed_form.resolve(given)
