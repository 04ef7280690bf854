"""Settings: what is accepted, what is refused and in which words."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax import config
from collapse_jax.config import BadInput, choice, each, number
from collapse_jax.reading import home


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
    ({"step": 3}, "config.step is not a setting (did you mean config.steps?)"),
    ({"rate": 3}, "config.rate is not a setting (did you mean config.inner.rate?)"),
    ({"arm": {}}, "(did you mean config.arms?) (there are steps, on, seeds, inner, arms)"),
    ({"steps": 10**15}, "config.steps=1000000000000000 must be between 1 and 2147483647"),
    ({"steps": np.float64(1.5)}, "config.steps=1.5 must be a whole number"),
    ({"steps": 10**6000}, "must be between 1 and"),
    ({"inner": {"rate": 10**400}}, "config.inner.rate=inf must be finite"),
    ({"inner": 5}, "config.inner=5 must be a mapping of rate, kind, hint"),
    ({"inner": {"kind": "bb"}}, "is not one of a, b"),
    ({"seeds": 3}, "config.seeds=3 must be a tuple, e.g. (3,)"),
    ({"seeds": "a, b"}, "must be a tuple, e.g. ('a', 'b')"),
    ({"arms": "replace"}, "config.arms='replace' must be a mapping from names to settings"),
    ({"arms": {"x": "replace"}}, "config.arms.x='replace' must be a mapping of rate, kind, hint"),
    ({"arms": {"a/b": {}}}, "config.arms: 'a/b' must be a name without '/'"),
    ({"arms": {"a" * 300: {}}}, "of at most 200 letters"),
    ({"arms": {0.5: {}, "0.5": {}}}, "config.arms names one thing twice"),
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


@pytest.mark.parametrize("given", [
    {"steps": np.int32(7), "on": np.bool_(True), "seeds": np.arange(2), "inner": {"rate": np.float32(0.5)}},
    {"steps": jnp.int32(7), "on": jnp.bool_(True), "seeds": (np.int64(0), 1), "inner": Inner(rate=0.5)},
])  # fmt: skip
def test_scalars_of_numpy_and_jax_are_numbers(given):
    resolved = config.resolve(Outer, config.Door(given))  # pyright: ignore[reportArgumentType]
    assert resolved == Outer(steps=7, on=True, inner=Inner(rate=0.5))
    assert [type(x) for x in (resolved.steps, resolved.on, resolved.seeds[0])] == [int, bool, int]


def test_a_config_takes_names_and_values_of_any_kind_until_it_is_resolved():
    given = config.template(Outer(arms={"x": Inner()}))
    given.steps = "64"
    given.arms = {"a 0.5": {"rate": 0.5}, "b": Inner(rate=0.25)}
    given.arms["c.d"] = {"kind": "b"}
    with pytest.raises(BadInput, match=r"^config.steps='64' must be a whole number$"):
        config.resolve(Outer, given)
    given.steps = 64
    resolved = config.resolve(Outer, given)
    assert resolved.arms == {"a 0.5": Inner(rate=0.5), "b": Inner(rate=0.25), "c.d": Inner(kind="b")}
    given.arms = {0.5: {"rate": 0.5}}
    assert list(config.resolve(Outer, given).arms) == ["0.5"]


def test_all_problems_at_once():
    with pytest.raises(BadInput) as error:
        config.resolve(Outer, {"steps": 0, "inner": {"rate": -1.0, "knd": 1}})
    assert str(error.value).count(";") == 2


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "c.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'train': {'lr': 0.1, 'steps': 5}, 'seeds': (0, 1)}).lock()\n"
        "def sweep():\n    return [{'train.lr': x} for x in (0.1, 0.2)]\n"
    )
    return str(path)


def test_overrides(config_file):
    found = config.load(config_file, ["--config.train.lr=0.5", "--config.seeds=(3,)"])
    assert found.train.lr == 0.5 and tuple(found.seeds) == (3,)
    assert config.load(config_file, ["--config.train.rl=0.5"]).train.rl == 0.5  # for `resolve` to refuse
    assert config.sweep(config_file) == [{"train.lr": 0.1}, {"train.lr": 0.2}]


def changed(*overrides: str) -> Outer:
    """Settings with two arms, changed as on the command line."""
    given = config.template(Outer(arms={"x": Inner(), "half 0.5": Inner()}))
    for override in overrides:
        config.change(given, *override.split("=", 1), as_written=True)
    return config.resolve(Outer, given)


@pytest.mark.parametrize(("overrides", "expected"), [
    (["seeds=(0,)", "seeds=(0, 1, 2)"], {"seeds": (0, 1, 2)}),
    (["seeds=4,5"], {"seeds": (4, 5)}),
    (["seeds=[4]"], {"seeds": (4,)}),
    (["on=true"], {"on": True}),
    (["steps= 7"], {"steps": 7}),
    (["inner.rate=1"], {"inner": Inner(rate=1.0)}),
    (["inner.rate=5e-1", "inner.kind=b"], {"inner": Inner(rate=0.5, kind="b")}),
    (["arms.x.rate=0.5"], {"arms": {"x": Inner(rate=0.5), "half 0.5": Inner()}}),
    (["arms.half 0.5.kind=b"], {"arms": {"x": Inner(), "half 0.5": Inner(kind="b")}}),
    (["arms={'y': {'rate': 0.25}}", "arms.y.kind=b"], {"arms": {"y": Inner(rate=0.25, kind="b")}}),
])  # fmt: skip
def test_values_from_the_command_line(overrides, expected):
    like = Outer(arms={"x": Inner(), "half 0.5": Inner()})
    assert changed(*overrides) == dataclasses.replace(like, **expected)


@pytest.mark.parametrize(("override", "line"), [
    ("seeds=3", "config.seeds=3 must be a tuple, e.g. (3,)"),
    ("steps=many", "config.steps='many' must be a whole number"),
    ("steps=1e3", "config.steps=1000.0 must be a whole number"),
    ("steps=nan", "config.steps=nan must be a whole number"),
    ("inner.rate=inf", "config.inner.rate=inf must be finite"),
    ("on=1", "config.on='1' must be True or False"),
    ("steps.x=3", "config.steps is one value and has no 'x'"),
    ("iner.rate=3", "config.iner is not a setting (did you mean config.inner?)"),
    ("arms.halb 0.5.rate=3", "(did you mean config.arms.half 0.5?)"),
    ("arms.x.rat=3", "config.arms.x.rat is not a setting (did you mean config.arms.x.rate?)"),
    ("arms.new=x", "config.arms.new='x' must be a mapping"),
    ("kind=b", "(did you mean config.inner.kind or config.arms."),
])  # fmt: skip
def test_wrong_values_from_the_command_line(override, line):
    with pytest.raises(BadInput) as error:
        changed(override)
    assert line in str(error.value)


def test_an_override_reaches_what_refers_to_it(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(
        "from ml_collections import ConfigDict, config_dict\n"
        "def get_config():\n"
        "    c = ConfigDict({'a': 1, 'must': config_dict.required_placeholder(int)})\n"
        "    c.b = c.get_ref('a') * 2\n"
        "    return c\n"
    )
    with pytest.raises(BadInput, match=r"^config.must must be given, e.g. --config.must=VALUE$"):
        config.as_dict(config.load(str(path)))
    assert config.as_dict(config.load(str(path), ["--config.a=5", "--config.must", "3"])) == {
        "a": 5, "b": 10, "must": 3,
    }  # fmt: skip


@pytest.mark.parametrize("argument", [
    "config.train.lr=3", "stray", "--verbose_", "--config.train.lr", "--config.=3",
])  # fmt: skip
def test_stray_arguments(config_file, argument):
    with pytest.raises(BadInput) as error:
        config.load(config_file, [argument])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("body", "line"), [
    ("raise RuntimeError('no such\\ncorpus')", "get_config() failed: RuntimeError: no such corpus"),
    ("raise SystemExit(0)", "get_config() failed: SystemExit: 0"),
    ("return None", "get_config() returned NoneType; return a ConfigDict"),
    ("return 3", "get_config() returned int; return a ConfigDict"),
    ("return ConfigDict({'a': 1}).lock().b", "get_config() failed: AttributeError"),
])  # fmt: skip
def test_a_config_that_fails_gets_one_line(tmp_path, body, line):
    path = tmp_path / "c.py"
    path.write_text(f"from ml_collections import ConfigDict\ndef get_config():\n    {body}\n")
    with pytest.raises(BadInput) as error:
        config.load(str(path))
    assert line in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("source", "line"), [
    ("def sweep(): raise KeyError('x')", "sweep() failed: KeyError: 'x'"),
    ("def sweep(): return 5", "sweep() failed: TypeError"),
    ("sweep = 5", "sweep() failed: TypeError"),
    ("def sweep(): return [{'a': 1}, 'b']", "point 1 of sweep() must be a dict"),
    ("def sweep(): return [{3: 1}]", "point 0 of sweep() must be a dict"),
    ("def sweep():\n    while True: yield {'a': 1}", "more than 100,000 points"),
    ("def sweep(", "failed: SyntaxError"),
])  # fmt: skip
def test_a_sweep_that_fails_gets_one_line(tmp_path, source, line):
    path = tmp_path / "c.py"
    path.write_text(f"def get_config(): return {{}}\n{source}\n")
    with pytest.raises(BadInput) as error:
        config.sweep(str(path))
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_sweep_may_take_the_argument_of_the_config(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("def get_config(s='x'): return {'s': s}\ndef sweep(s='x'): return [{'s': s + '1'}]\n")
    assert config.sweep(str(path)) == [{"s": "x1"}]
    assert config.sweep(f"{path}:text:a") == [{"s": "text:a1"}]
    assert config.load(f"{path}:text:a").s == "text:a"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.py").write_text("def get_config(s=''): return {'s': s}\n")
    assert config.load("~/c.py:text:~/a").s == "text:~/a"
    assert [home(text) for text in ("~", "~/a/~b", "npz:~/x:KEY", "text:/a~/b", "fresh", "a b:~/c")] == [
        f"{tmp_path}", f"{tmp_path}/a/~b", f"npz:{tmp_path}/x:KEY", "text:/a~/b", "fresh", "a b:~/c",
    ]  # fmt: skip


def test_missing_config_file(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        config.load(str(tmp_path / "none.py"))


def test_product():
    assert list(config.product(model__width=(1, 2), seed=(0,))) == [
        {"model.width": 1, "seed": 0}, {"model.width": 2, "seed": 0}]  # fmt: skip
