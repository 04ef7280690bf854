"""Settings: what is accepted, what is refused and in which words."""

import dataclasses
from pathlib import Path

import pytest

from collapse_jax import config
from collapse_jax.config import BadInput, choice, each, number


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = number(0.1, 0.0, 1.0)
    kind: str = choice("a", ("a", "b"))
    hint: int = number(3, 1, identity=False)

    def problems(self):
        if self.kind == "b" and self.rate == 0:
            yield "rate must be above 0 for kind b"


@dataclasses.dataclass(frozen=True)
class Outer:
    steps: int = number(10, 1)
    on: bool = False
    seeds: tuple = (0, 1)
    inner: Inner = Inner()
    arms: dict = each(Inner)


def test_round_trip_through_a_config_dict():
    given = config.template(Outer(arms={"x": Inner(rate=0.5)}))
    given.inner.rate = 1
    given.seeds = [4, 5]
    resolved = config.resolve(Outer, given)
    assert resolved == Outer(inner=Inner(rate=1.0), seeds=(4, 5), arms={"x": Inner(rate=0.5)})
    assert isinstance(resolved.inner.rate, float)
    assert config.resolve(resolved, config.template(resolved)) == resolved


def test_identity_leaves_hints_out():
    assert config.identity(Inner(hint=9)) == config.identity(Inner()) == {"rate": 0.1, "kind": "a"}


@pytest.mark.parametrize(("given", "said"), [
    ({"step": 3}, "config.step is not a setting"),
    ({"steps": -5}, "config.steps=-5 must be at least 1"),
    ({"steps": 1.5}, "must be a whole number"),
    ({"steps": True}, "must be a whole number"),
    ({"on": 1}, "must be True or False"),
    ({"inner": {"rate": float("nan")}}, "config.inner.rate=nan must be finite"),
    ({"inner": {"rate": 2.0}}, "between 0 and 1"),
    ({"inner": {"rate": "fast"}}, "must be a number"),
    ({"inner": {"kind": "c"}}, "'c' is not one of a, b"),
    ({"inner": {"kind": "b", "rate": 0.0}}, "config.inner: rate must be above 0"),
    ({"arms": {"x": {"rates": 1}}}, "config.arms.x.rates is not a setting"),
])  # fmt: skip
def test_bad_values_get_one_line(given, said):
    with pytest.raises(BadInput) as error:
        config.resolve(Outer, given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_all_problems_at_once():
    with pytest.raises(BadInput) as error:
        config.resolve(Outer, {"steps": 0, "inner": {"rate": -1.0, "knd": 1}})
    assert str(error.value).count(";") == 2


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "c.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'train': {'lr': 0.1, 'steps': 5}, 'seeds': (0, 1)})\n"
        "def sweep():\n    return [{'train.lr': x} for x in (0.1, 0.2)]\n"
    )
    return str(path)


def test_overrides(config_file):
    found = config.load(config_file, ["--config.train.lr=0.5", "--config.seeds=(3,)"])
    assert found.train.lr == 0.5 and tuple(found.seeds) == (3,)
    assert config.sweep(config_file) == [{"train.lr": 0.1}, {"train.lr": 0.2}]


@pytest.mark.parametrize("argument", [
    "config.train.lr=3", "stray", "--config.train.rl=3", "--config.train.steps=many", "--verbose_",
])  # fmt: skip
def test_stray_and_misspelt_arguments(config_file, argument):
    with pytest.raises(BadInput) as error:
        config.load(config_file, [argument])
    assert "\n" not in str(error.value)


def test_missing_config_file(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        config.load(str(tmp_path / "none.py"))


def test_product():
    assert list(config.product(model__width=(1, 2), seed=(0,))) == [
        {"model.width": 1, "seed": 0}, {"model.width": 2, "seed": 0}]  # fmt: skip
