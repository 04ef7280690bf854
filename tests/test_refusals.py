"""What the command line refuses: one line, exit code 2 and nothing made, whatever is wrong with a config."""

import csv
import io
import os
import sys
from pathlib import Path

import pytest
from conftest import CONFIG
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collapse_jax import cli, closed_form, config, devices, experiment, show, workflows
from collapse_jax.arguments import parser
from collapse_jax.closed_form import engine
from collapse_jax.closed_form.gaussian import Gaussian
from collapse_jax.config import BadInput
from collapse_jax.report import records_csv
from collapse_jax.report.axes import wrapped
from collapse_jax.report.words import cut

ROOT = Path(__file__).parents[1]
THEORY = str(ROOT / "configs/theory.py")
DIGITS = str(ROOT / "configs/vae_digits.py")


def refused(capsys, *arguments: str) -> str:
    """The one line that a command is refused with."""
    assert cli.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("collapse: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize(("arguments", "line"), [
    (["rnu", "--config=x"], "'rnu' is not one of run, plan, import, bench, report, verify, sample (did you mean run?)"),
    (["run", "--confg=x"], "--confg is not an option (did you mean --config?)"),
    (["run", f"--config={CONFIG}", "--wrkdir=x"], "--wrkdir is not an option (did you mean --workdir?)"),
    (["run", f"--config={CONFIG}", "--workdir="], "it is empty; name a folder"),
    (["run", f"--config={CONFIG}", "--workdir=~nobody at all/x"], "'~nobody at all/x' is no folder"),
    (["plan", f"--config={CONFIG}", "--price=-1"], "-1 must be between 0"),
    (["bench", f"--config={CONFIG}", "--seconds=nan"], "nan must be between"),
    (["sample", "w", "--generation=x", "-n", "0"], "0 must be between 1"),
    (["plan", f"--config={CONFIG}", "--config.enigne=chain"], "config.enigne is not a setting"),
    (["plan", f"--config={CONFIG}", "--config.engine=[]"], "is neither 'chain' nor 'closed_form'"),
    (["plan", f"--config={CONFIG}", "--config.family=transfromer"], "(did you mean transformer?)"),
    (["plan", f"--config={CONFIG}", "--config.seeds=3"], "(3,) is seed 3 alone, (0, 1, 2) are three seeds"),
    (["plan", f"--config={CONFIG}", "--config.\x1b[31m=3"], "␛[31m"),
    (["plan", f"--config={THEORY}", "--config.seeds=3"], "config.panels.gaussian.seeds"),
    (["plan", f"--config={THEORY}", "--config.panels.gausian.rows=3"], "(did you mean config.panels.gaussian?)"),
    (["plan", f"--config={THEORY}", "--config.panels.gaussian.family=kd"], "(did you mean kde?)"),
    (["plan", f"--config={THEORY}", "--config.panels.gaussian.metrics=[{}]"], "metrics has {} and gaussian measures"),
    (["plan", f"--config={THEORY}", "--config.panels.gaussian=3"], "make one with closed_form.panel()"),
    (["run", f"--config={CONFIG}", "--workdir=x", "--sweep=2"], "sweep() has points 0 to 1"),
    (["run", f"--config={CONFIG}", "--workdir=x", "--sweep", "--config.sample.temperature=2"],
     "--config.sample.temperature is what sweep() varies"),
])  # fmt: skip
def test_wrong_arguments_get_one_line(capsys, tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    assert line in refused(capsys, *arguments)
    assert not any(tmp_path.iterdir())


def test_every_misspelt_name_is_told_at_once(capsys):
    told = refused(
        capsys, "plan", f"--config={CONFIG}", "--config.train.lr=1", "--config.trian.epochs=1",
        "--config.arms.replce.window=2", "--config.learning_rate=1", "--config.rows=many",
    )  # fmt: skip
    for part in (
        "config.train.lr is not a setting (did you mean config.train.learning_rate?)",
        "config.trian is not a setting (did you mean config.train?)",
        "config.arms.replce is not there (did you mean config.arms.replace?)",
        "config.learning_rate is not a setting (did you mean config.train.learning_rate?)",
        "config.rows='many' must be a whole number",
    ):
        assert part in told


def test_every_point_of_a_sweep_is_checked_before_the_first_runs(capsys, tmp_path):
    path = tmp_path / "late.py"
    path.write_text(
        "from toy_config import get_config\n"
        "def sweep(): return [{'sample.temperature': 1.0}, {'sample.temprature': 1.0}]\n"
    )
    told = refused(capsys, "run", f"--config={path}", f"--workdir={tmp_path / 'w'}", "--sweep")
    assert "point 1 of sweep(): config.sample.temprature is not a setting" in told
    assert not (tmp_path / "w").exists()


def test_settings_of_an_arm_from_the_command_line():
    overrides = [f"--config.arms.replace.{change}" for change in ("budget=steps", "window=2", "fraction=0.5")]
    arm = experiment.resolve(config.load(CONFIG, overrides)).arms["replace"]
    assert arm == workflows.Arm("replace", budget="steps", window=2, fraction=0.5)


@pytest.mark.parametrize("arguments", [
    ["run", "--config=x", "--workdir=~/w", "--store", "~/w"], ["plan", "--config=x", "--workdir=~/w"],
    ["import", "--config=x", "--store=~/w"], ["bench", "--config=x", "--store=~/w"],
    ["report", "~/w", "~/w"], ["verify", "~/w"], ["sample", "~/w", "--generation=x"],
])  # fmt: skip
def test_a_tilde_in_paths_is_the_home_folder(monkeypatch, arguments):
    monkeypatch.setenv("HOME", "/home/me")
    args = vars(parser().parse_args(arguments))
    workdir, store = args.get("workdir"), args.get("store")
    paths = [*(workdir if isinstance(workdir, list) else [workdir]), store]
    assert {path for path in paths if path is not None} == {Path("/home/me/w")}


@pytest.mark.parametrize(("family", "name", "value", "expected"), [
    ("transformer", "data.source", "text:~/a/*.txt", "text:/home/me/a/*.txt"),
    ("transformer", "data.data_dir", "~/a", "/home/me/a"),
    ("transformer", "train.init", "~/a", "/home/me/a"),
    ("vae", "data.source", "npz:~/a.npz:x", "npz:/home/me/a.npz:x"),
    ("vae", "data.data_dir", "~", "/home/me"),
    ("diffusion", "data.source", "images:~/a", "images:/home/me/a"),
    ("conformation", "data.source", "sdf:~/*.sdf", "sdf:/home/me/*.sdf"),
    ("conformation", "data.data_dir", "~/a", "/home/me/a"),
])  # fmt: skip
def test_a_tilde_in_settings_is_the_home_folder(monkeypatch, family, name, value, expected):
    monkeypatch.setenv("HOME", "/home/me")
    made = experiment.template(family)
    made.arms = {"replace": {}}
    config.change(made, name, value)
    group, field = name.split(".")
    assert getattr(getattr(experiment.resolve(made), group), field) == expected


@pytest.mark.parametrize(("workflow", "generations"), [
    ("accumulate", 100_000), ("replace", 2**31 - 1), ("augment", 2**31 - 1), ("accumulate_subsample", 2**31 - 1),
])  # fmt: skip
def test_absurd_tables_are_refused_before_they_are_made(workflow, generations):
    with pytest.raises(BadInput, match="lower generations"):
        workflows.Workflow(workflows.Arm(workflow), 10, generations)
    with pytest.raises(BadInput, match="lower rows"):
        _ = workflows.Workflow(workflows.Arm("replace_multiple"), 2**30, 2).mixtures


@pytest.mark.parametrize(("change", "line"), [
    ("seeds=(0, True)", "must be a tuple of whole numbers"),
    ("generations=1000000", "more than 1,000,000 fits"),
    ("evaluate.batch_size=2000000000", "a batch of 2,000,000,000 rows takes 64.0 GB"),
    ("model.symbols=2000000000", "a model of 2,000,000,000 parameters takes 24.0 GB"),
    ("train.epochs=2000000000", "more than 2,147,483,647; lower config.train.epochs"),
])  # fmt: skip
def test_absurd_sizes_are_refused_before_anything_is_made(capsys, tmp_path, monkeypatch, change, line):
    monkeypatch.setattr(devices, "memory", lambda: 8e9)
    workdir = f"--workdir={tmp_path}"
    assert line in refused(capsys, "run", f"--config={CONFIG}", workdir, f"--config.{change}")
    assert not (tmp_path / "generations").exists()


def test_an_absurd_closed_form_is_refused_before_it_is_made():
    workflow = workflows.Workflow(workflows.Arm("accumulate_subsample"), 20_000_000, 2)
    with pytest.raises(BadInput, match="a chunk of 1 seeds takes"):
        engine.prepare(Gaussian(dim=60_000), workflow, 10)


def test_an_absurd_closed_form_leaves_no_folder(capsys, tmp_path):
    theory = f"--config={THEORY}"
    line = refused(capsys, "run", theory, f"--workdir={tmp_path / 'w'}", "--config.panels.gaussian.settings.dim=60000",
                   "--config.panels.gaussian.rows=20000000")  # fmt: skip
    assert "a chunk of" in line and not (tmp_path / "w").exists()


NAMES = st.sampled_from(
    ["rows", "seeds", "seed", "train", "train.epochs", "train.lr", "train.init", "model", "model.channels", "data",
     "data.source", "data.group", "data.features", "sample", "evaluate", "mesh", "mesh.fsdp", "arms", "arms.replace",
     "arms.replace.table", "arms.replace.workflow", "arms.a.b", "arms.0.5", "thresholds.level", "reference", "family",
     "engine", "name", "panels", "panels.p", "panels.discrete", "panels.discrete.settings", "panels.gaussian.metrics",
     "panels.discrete.settings.kind", "panels.discrete.settings.weights", "panels.gaussian.arms", "", ".", "a..b"]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=3), st.just(10**400),
    st.sampled_from(["table", "vae", "weights", "gaussian", "replace", "text:~", "(", "1e999"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(
            st.one_of(st.text(max_size=4), st.integers(0, 3), st.just("workflow")), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
CHANGES = st.lists(st.tuples(NAMES, VALUES, st.booleans()), min_size=1, max_size=3)


@pytest.mark.parametrize("file", [DIGITS, THEORY])
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=CHANGES)
def test_a_config_resolves_or_gets_one_line(file, changes):
    try:
        changed = config.load(file)
        for name, value, as_written in changes:
            config.change(changed, name, str(value) if as_written else value, as_written)
        (closed_form if file == THEORY else experiment).resolve(changed)
    except BadInput as error:
        assert str(error) and len(str(error).splitlines()) == 1


def test_spreadsheets_see_no_formulas():
    record = {
        "arm": "=1+1",
        "seed": -1,
        "metric": "@x",
        "value": -0.5,
        "unit": "+",
        "split": "-a",
        "=b": "\tc",
    }
    head, row = csv.reader(io.StringIO(records_csv([record])))
    assert dict(zip(head, row, strict=True)) == {
        "arm": "'=1+1", "seed": "-1", "generation": "", "generation_id": "", "metric": "'@x", "value": "-0.5",
        "unit": "'+", "split": "'-a", "predicted": "", "'=b": "'\tc",
    }  # fmt: skip


def test_long_names_keep_both_ends():
    assert cut("accumulate", 10) == "accumulate"
    assert cut("accumulate_x", 10) == "accum…te_x" and len(cut("a" * 99, 7)) == 7
    names = [f"{'a long stem of many words ' * 6}{end}" for end in "XY"]
    for count in (2, 20):
        first, second = wrapped((names * count)[:count])[:2]
        assert first != second and first.startswith("a long stem") and second.endswith("Y")


def test_samples_are_told_apart_and_obey_nothing(toy_run, monkeypatch):
    from toy import Toy

    lines = ["a\x1b[2J\x00b", "c\nd"]
    monkeypatch.setattr(Toy, "show", lambda *_: {"lines": lines})
    name = next((toy_run / "generations").iterdir()).name
    assert list(show.samples(toy_run, name, 2)) == [
        "--- sample 0 ---", "a␛[2J␀b", "--- sample 1 ---", "c\nd",
    ]  # fmt: skip


def test_a_reader_that_has_enough_ends_the_program_quietly(toy_run, monkeypatch, capsys):
    """A pipe without a reader: what is written into it fails when it is flushed."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert cli.main(["verify", str(toy_run)]) == 141
    assert capsys.readouterr().err == ""
