"""Every config file resolves, and to exactly the text that is written down in tests/golden.

After a change that is meant: `GOLDEN=write pytest tests/test_configs.py`, and read the diff.
"""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from collapse_jax import cli, config, experiment, files

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
CONFIGS = sorted(p.relative_to(ROOT / "configs").as_posix() for p in (ROOT / "configs").rglob("*.py"))
CHAINS = [name for name in CONFIGS if "engine" not in config.load(str(ROOT / "configs" / name))]


def dump(name: str) -> str:
    """The resolved settings of a config file, and those of its sweep, as JSON."""
    path = str(ROOT / "configs" / name)
    settings = experiment.resolve(config.load(path))
    resolved = {"config": config.template(settings).to_dict(), "sweep": config.sweep(path)}
    return json.dumps(files.finite(resolved), indent=1, sort_keys=True) + "\n"


@pytest.mark.parametrize("name", CHAINS)
def test_golden(name):
    path = GOLDEN / name.replace("/", "-").replace(".py", ".json")
    found = dump(name)
    if os.environ.get("GOLDEN") == "write":
        path.write_text(found)
    assert path.exists(), f"{path} is missing; make it with GOLDEN=write"
    assert found == path.read_text(), f"{name} resolves differently; if that is meant, GOLDEN=write"


@pytest.mark.parametrize("name", CHAINS)
def test_every_sweep_point_resolves(name):
    path = str(ROOT / "configs" / name)
    for point in config.sweep(path):
        loaded = config.load(path)
        loaded.update_from_flattened_dict(point)
        experiment.resolve(loaded)


OFFLINE = {"transformer": "builtin:python_docs", "vae": "builtin:digits", "diffusion": "builtin:digits"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("name", CHAINS)
def test_the_data_of_every_config_is_enough_for_it(name, store):
    """Of every config whose data is here and made in seconds: what its own defaults ask for is there."""
    from collapse_jax.data import images, text

    settings = experiment.resolve(config.load(str(ROOT / "configs" / name)))
    if OFFLINE.get(settings.family) != settings.data.source:
        pytest.skip(f"{settings.data.source} is not here, or takes minutes")
    if settings.family == "transformer":
        dataset = text.prepare(settings.data, store)
    else:  # without the features that samples are judged by, which take a fit
        fields = {f.name for f in dataclasses.fields(images.ImageData)}
        dataset = images.prepare(images.ImageData(**{k: getattr(settings.data, k) for k in fields}), store)
    graph = experiment.plan(settings, dataset.digest, dataset.row_count("train"))
    assert graph.per_arm == len(settings.arms) * len(settings.seeds) * settings.generations


def test_rows_beyond_the_last_whole_batch_are_told():
    settings = experiment.resolve(config.load(str(ROOT / "configs" / "quickstart.py")))

    def told(rows):
        changed = dataclasses.replace(settings, rows=rows)
        return experiment.left_out(changed, experiment.plan(changed, "", 2000))

    assert told(1000) == []  # 2 epochs of 1,000 rows in steps of 8
    [line] = told(1002)  # 2,004 draws; `accumulate` also makes 4,008, 6,012, ... of them
    assert line.endswith(
        "batch of 8, not drawn, at most in a fit of: accumulate 4, accumulate_subsample 4, replace 4"
    )


def test_paper_one_has_the_published_sizes():
    from collapse_jax.models.transformer import PRESETS

    points = config.sweep(str(ROOT / "configs/papers/accumulate_lm.py"))
    assert len(points) == 8 and {p["sample.temperature"] for p in points} == {1.0, 0.3}
    assert {p["model.width"] for p in points} == {
        PRESETS[n].width for n in ("gpt2_9m", "llama2_42m", "llama2_126m")
    }


def test_quickstart_plan(tmp_path, capsys):
    path = ROOT / "configs/quickstart.py"
    assert cli.main(["plan", f"--config={path}", f"--workdir={tmp_path}"]) == 0
    assert "30 = 26 to fit + 4 shared" in capsys.readouterr().out
