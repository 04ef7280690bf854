"""Every config file resolves, and to exactly the text that is written down in tests/golden.

After a change that is meant: `GOLDEN=write pytest tests/test_configs.py`, and read the diff.
"""

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
