"""From a config to records: settings, folders that are whole or absent, resuming, and the configs that ship."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from collapse_jax import closed_form, config
from collapse_jax.closed_form import panel, records, resolve, template
from collapse_jax.closed_form.engine import Chunk
from collapse_jax.config import BadInput
from collapse_jax.workflows import Arm

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = ["theory", "papers/accumulate_regression", "papers/thrive_gaussian", "papers/thrive_regression",
           "papers/thrive_discrete", "papers/curse_gaussian", "papers/suresh_rates", "papers/dey_donoho",
           "papers/mad_gaussian"]  # fmt: skip


def small(**changes):
    c = template(
        "small",
        {
            "g": panel("gaussian", ("replace", "accumulate"), rows=10, generations=3, seeds=20),
            "d": panel("discrete", ("replace",), rows=5, generations=40, seeds=20, symbols=2),
        },
    )
    c.update_from_flattened_dict(changes)
    return c


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("closed")
    assert closed_form.run(resolve(small()), workdir) == 0
    return workdir


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "records.jsonl").read_text().splitlines()]


def test_records(finished):
    """One line a mean: value, standard error and prediction are those of the seeds' own values."""
    found = lines(finished)
    assert {r["arm"] for r in found} == {"g/replace", "g/accumulate", "d/replace"}
    for r in found:
        assert r["seed"] is None and r["seeds"] == 20 and r["unit"] and r["split"] == "population"
    one = next(r for r in found if (r["arm"], r["metric"], r["generation"]) == ("g/replace", "mean_error", 3))
    values = records.seeds(finished / "closed_form" / one["generation_id"], "mean_error")
    assert values.shape == (20, 3) and values.dtype == np.float64
    assert abs(one["value"] - values[:, 2].mean()) < 1e-12
    assert abs(one["se"] - values[:, 2].std(ddof=1) / np.sqrt(20)) < 1e-12
    assert abs(one["predicted"] - (1 - 0.9**3)) < 1e-12 and one["exact"]
    end = [r for r in found if r["metric"] == "generations_to_collapse"]
    assert len(end) == 1 and end[0]["generation"] == 40 and 2 < end[0]["predicted"] < 15
    assert one["reliable"] == (one["se"] <= 0.1 * one["value"])
    unknown = [r for r in found if r["metric"] == "total_variation"]
    assert all(r["predicted"] is None and "exact" not in r for r in unknown)
    experiment = json.loads((finished / "experiment.json").read_text())
    assert experiment["engine"] == "closed_form" and set(experiment["tables"]) == set(experiment["arms"])


def test_profiles_pair_the_seeds_that_are_stored(finished, tmp_path):
    page = (finished / "report.html").read_text()
    assert "20 seeds, paired" in page and "means only" not in page
    closed_form.run(resolve(small(keep_seeds=False)), tmp_path)
    assert "20 seeds, means only" in (tmp_path / "report.html").read_text()


def test_few_seeds_are_no_ground_for_a_z_score(finished, tmp_path):
    """Of the same numbers from 19 seeds none is reliable, from 20 some are."""
    some = {r["generation_id"] for r in lines(finished) if r.get("reliable")}
    assert some
    for name in some:
        found = json.loads((finished / "closed_form" / name / "results.json").read_text())
        for metric in found["metrics"].values():
            metric["seeds"] = 19
        (tmp_path / "results.json").write_text(json.dumps(found))
        assert not any(r.get("reliable") for r in records.records("a", tmp_path))


def test_a_second_run_does_nothing(finished, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in (finished / "closed_form").rglob("*")}
    text = (finished / "records.jsonl").read_bytes()
    monkeypatch.setattr(records, "write", None)  # would fail if anything were simulated
    assert closed_form.run(resolve(small()), finished) == 0
    assert {p: p.stat().st_mtime_ns for p in (finished / "closed_form").rglob("*")} == before
    assert (finished / "records.jsonl").read_bytes() == text


def test_damage_is_found_set_aside_and_made_again(finished, tmp_path):
    closed_form.run(resolve(small()), tmp_path, finished)  # shares the store
    text = (tmp_path / "records.jsonl").read_bytes()
    assert text == (finished / "records.jsonl").read_bytes() and closed_form.verify(finished) == []
    name = lines(finished)[0]["generation_id"]
    file = next((finished / "closed_form" / name).glob("*.npy"))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert len(closed_form.verify(finished)) == 1
    closed_form.run(resolve(small()), finished)
    assert (finished / "records.jsonl").read_bytes() == text and closed_form.verify(finished) == []
    assert list((finished / "closed_form").glob("*.damaged-0"))


def test_manifests_are_sealed_and_belong_to_their_folders(finished, tmp_path):
    store = Path(shutil.copytree(finished, tmp_path / "w"))
    a, b = sorted(p for p in (store / "closed_form").iterdir() if "." not in p.name)[:2]
    for path, name in ((a, "x"), (b, a.name), (a.with_name("x"), b.name)):
        path.rename(path.with_name(name))
    assert [line for line in closed_form.verify(store) if "not to this folder" in line]
    assert not records.committed(a, True) and a.with_name(f"{a.name}.damaged-0").exists()
    manifest = next(p for p in (store / "closed_form").glob("*/manifest.json") if "." not in p.parent.name)
    manifest.write_text(manifest.read_text().replace('"bytes": ', '"bytes": 1'))
    assert f"{manifest} is damaged: it does not match its seal" in closed_form.verify(store)


def test_an_interrupted_arm_leaves_nothing_that_counts(tmp_path):
    """A chunk that dies half-way leaves no folder with a manifest; the next run starts it anew."""
    p = panel("gaussian", ("replace",), rows=10, generations=2, seeds=4)

    def dying():
        yield Chunk(0, {"mean_error": np.zeros((2, 2))})
        raise KeyboardInterrupt

    path = tmp_path / "closed_form" / "abc"
    with pytest.raises(KeyboardInterrupt):
        records.write(path, {}, p.settings, p.workflow(Arm("replace")), dying(), 4, True)
    assert not records.committed(path, True) and not path.exists()


def test_moments_of_chunks_are_moments_of_all():
    values = np.random.default_rng(0).normal(5, 2, (103, 4))
    found = records.Moments()
    for first in range(0, 103, 10):
        found.add({"x": values[first : first + 10]})
    np.testing.assert_allclose(found.mean["x"], values.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.se("x"), values.std(0, ddof=1) / np.sqrt(103), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"panels.g.rows": 1}, "config.panels.g: arms.accumulate: rows=1"),
        ({"panels.g.family": "gausian"}, "config.panels.g.family='gausian' is not one of gaussian"),
        ({"panels.g.settings.variance": -1.0}, "config.panels.g.settings: variance=-1 must be above 0"),
        ({"panels.g.settings.variance": float("nan")}, "variance=nan must be finite"),
        ({"panels.g.generations": 0}, "config.panels.g.generations=0 must be at least 1"),
        ({"panels.g.arms.replace.workflow": "repalce"}, "'repalce' is not one of replace"),
        ({"panels.g.metrics": ("loss",)}, "metrics has 'loss' and gaussian measures"),
        (
            {"panels.d.settings.kind": "weights", "panels.d.settings.weights": (0.5, 0.4)},
            "weights sum to 0.9",
        ),
        ({"panels.d.settings.kind": "weights"}, "at least two probabilities"),
        ({"seed": -1}, "config.seed=-1 must be at least 0"),
        ({"panels.g.seeds": 1}, "config.panels.g.seeds=1 must be at least 2"),
    ],
)
def test_bad_settings_get_one_line(change, says):
    with pytest.raises(BadInput) as error:
        resolve(small(**change))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_every_problem_is_named_at_once():
    with pytest.raises(BadInput) as error:
        resolve(small(**{"panels.g.rows": 0, "panels.d.settings.symbols": 1, "chunk": -4}))
    assert all(word in str(error.value) for word in ("rows=0", "symbols=1", "chunk=-4"))
    with pytest.raises(BadInput, match="panels is empty"):
        resolve(template("none", {}))
    regression = template("r", {"p": panel("regression", ("replace",), rows=11, dim=10)})
    with pytest.raises(BadInput, match=r"rows=11 .* d \+ 2 = 12"):
        resolve(regression)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs(name):
    """Each resolves, every sweep point too, and every reference names an arm and a metric that exist."""
    path = str(CONFIGS / f"{name}.py")
    points = [{}]
    if "def sweep" in Path(path).read_text():
        points += config.sweep(path)
    for point in points:
        c = config.load(path)
        c.update_from_flattened_dict(point)
        experiment = resolve(c)
        arms = {arm: p for arm, p, _ in experiment.arms()}
        for r in experiment.reference:
            known = arms[r["arm"]].settings
            assert r["metric"] in known.units | known.at_end
            assert all(1 <= t <= arms[r["arm"]].generations for t, _ in r["points"])


def test_describe():
    text = closed_form.describe(resolve(small()))
    assert "g/accumulate: gaussian, n=10, 3 generations x 20 seeds; statistics, 20 seeds at a time" in text
