"""A working directory: links in it, what vouches for what it says, and reading it without changing anything."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import CONFIG

from collapse_jax import checkpoint, cli, files, report, run
from collapse_jax import workdir as workdirs
from collapse_jax.config import BadInput
from collapse_jax.console import trouble
from collapse_jax.metrics import Curves, Log, Timings
from collapse_jax.report import load


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def copy(toy_run, tmp_path) -> Path:
    return Path(shutil.copytree(toy_run, tmp_path / "run"))


def first_id(workdir: Path) -> str:
    return files.read_json(workdir / "experiment.json")["ids"]["replace"]["0"][0]


@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
@pytest.mark.parametrize("name", [*workdirs.DERIVED, *workdirs.STORED])
def test_a_run_refuses_links_before_anything_is_made(tmp_path, name, target):
    outside, workdir = tmp_path / "outside", tmp_path / "w"
    workdir.mkdir()
    if target == "file":
        outside.write_text("precious")
    if target == "folder":
        outside.mkdir()
    (workdir / name).symlink_to(outside)
    with (
        pytest.raises(BadInput, match=f"{workdir / name} is a symbolic link"),
        workdirs.owned(workdir, workdir),
    ):
        pass
    assert os.listdir(workdir) == [name] and (target != "file" or outside.read_text() == "precious")


def test_nothing_else_is_written_through_links(copy, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("1")
    for name in ("logs/a.jsonl", "timings.jsonl", "records.csv", "report.html", "figures"):
        path = copy / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        path.symlink_to(outside if name == "figures" else outside / "precious")
    for write in (
        lambda: Curves(copy, "a").begin(0),
        lambda: Timings(copy / "timings.jsonl"),
        lambda: report.build(copy),
        lambda: files.write_text(copy / "records.csv", ""),
        lambda: files.set_aside(copy / "report.html", "damaged"),
        lambda: files.remove(copy, copy / "figures"),
        lambda: files.remove(copy, copy / "figures" / "precious"),
    ):
        with pytest.raises(BadInput, match="is a symbolic link to"):
            write()
    assert contents(outside) == {outside / "precious": b"1"}


def test_a_working_directory_reached_by_a_link_finds_its_store(tmp_path):
    real, home = tmp_path / "mnt" / "deep" / "runs", tmp_path / "home"
    (real / "a").mkdir(parents=True)
    home.mkdir()
    (home / "runs").symlink_to(real)
    workdirs.write(home / "runs" / "a", home / "store", {}, "")
    assert workdirs.store_of(home / "runs" / "a") == home / "store"
    tmp_path.joinpath("mnt").rename(tmp_path / "moved")
    (tmp_path / "mnt").symlink_to(tmp_path / "moved")
    workdirs.write(home / "runs" / "a", home / "runs" / "a", {}, "")
    assert workdirs.read(home / "runs" / "a")["store"] == "."


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(("name", "old", "new"), [
    ("records.jsonl", '"value": ', '"value": 1'),
    ("experiment.json", '"diverged"', '"committed"'),
    ("experiment.json", '"store": "."', '"store": ".."'),
    ("generations/ID/recipe.json", '"seed": 0', '"seed": 1'),
    ("generations/ID/metrics.json", '"value": ', '"value": 1'),
    ("generations/ID/show.json", '"lines"', '"rows"'),
    ("timings.jsonl", '"seconds"', '"second'),
])  # fmt: skip
def test_edits_are_noticed_and_derived_again(toy_run, copy, capsys, name, old, new):
    path = copy / name.replace("ID", first_id(copy))
    if old == '"diverged"':
        old, new = new, old
    edited(path, old, new)
    if name != "timings.jsonl":
        assert cli.main(["verify", str(copy)]) != 0
        told = "".join(capsys.readouterr())
        assert str(path) in told or "recipe.json hashes to" in told
        if name in ("records.jsonl", "experiment.json"):
            assert cli.main(["report", str(copy)]) == 2
            assert str(path) in capsys.readouterr().err
    assert cli.main(["run", f"--config={CONFIG}", f"--workdir={copy}"]) == 0
    assert cli.main(["verify", str(copy)]) == 0
    assert (copy / "records.jsonl").read_bytes() == (toy_run / "records.jsonl").read_bytes()
    assert files.read_json(copy / "experiment.json") == files.read_json(toy_run / "experiment.json")


def test_a_report_leaves_out_what_no_manifest_vouches_for(copy, capsys):
    before = load.read(copy).shows["replace"][1].lines
    edited(copy / "generations" / first_id(copy) / "show.json", before[0], "0 " * 8)
    assert load.read(copy).shows["replace"][1].lines not in (before, ("0 " * 8, *before[1:]))
    assert "show.json is damaged" in capsys.readouterr().err


def test_what_was_never_sealed_is_read_with_a_warning(copy, capsys):
    said = files.read_json(copy / "experiment.json")
    files.write_json(copy / "experiment.json", {k: v for k, v in said.items() if k != "seal"})
    assert cli.main(["report", str(copy)]) == 0
    assert "has no seal, so nothing vouches for it" in capsys.readouterr().err
    assert cli.main(["verify", str(copy)]) == 1


@pytest.mark.parametrize("name", ["checkpoint/fitted/**/c/0", "manifest.json", "recipe.json"])
def test_samples_come_from_sound_files_and_change_nothing(copy, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    generation = first_id(copy)
    [path, *_] = (copy / "generations" / generation).glob(name)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    before = contents(copy)
    code = cli.main(["sample", str(copy), f"--generation={generation}", "-n", "2"])
    out, err = capsys.readouterr()
    # The id says all that is in a recipe; each sample stands under a line of its own.
    assert (code, out.count("\n"), err.count("\n")) == ((0, 4, 0) if name == "recipe.json" else (2, 0, 1))
    assert contents(copy) == before


def test_records_of_a_damaged_generation_wait_until_it_is_made_again(toy_run, copy):
    """A run that finds other work first must not read the number that is damaged."""
    late = files.read_json(copy / "experiment.json")["ids"]["replace"]["1"][2]
    edited(copy / "generations" / late / "metrics.json", '"value": ', '"value": 1')
    assert cli.main(["run", f"--config={CONFIG}", f"--workdir={copy}"]) == 0
    assert (copy / "records.jsonl").read_bytes() == (toy_run / "records.jsonl").read_bytes()


def test_a_log_is_begun_without_what_came_after_and_what_was_cut_off(tmp_path, capsys):
    curves = Curves(tmp_path, "a")
    for step in (1, 2, 3):
        curves.write(step, {"loss": float("nan") if step == 3 else step})
        assert len((tmp_path / "logs" / "a.jsonl").read_text().splitlines()) == step  # on its way at once
    os.link(tmp_path / "logs" / "a.jsonl", tmp_path / "copy")
    with open(tmp_path / "logs" / "a.jsonl", "a") as f:
        f.write('{"step": 4, "lo')
    before = (tmp_path / "copy").read_bytes()
    again = Curves(tmp_path, "a")
    again.begin(2)
    again.write(3, {"loss": 3})
    lines = [json.loads(line) for line in (tmp_path / "logs" / "a.jsonl").read_text().splitlines()]
    assert lines == [{"step": n, "loss": n} for n in (1, 2, 3)]
    assert (tmp_path / "copy").read_bytes() == before and not capsys.readouterr().err


@pytest.mark.parametrize("bad", [b"\xff\xfe\n", b"[]\n", b'{"stage": "fit", "seconds": "x", "units": 1}\n', b"{\n",
                                 b'{"stage": "fit", "seconds": 1e999, "units": 1}\n'])  # fmt: skip
def test_damaged_timings_are_left_out(tmp_path, bad):
    log = Log(tmp_path / "timings.jsonl")
    log.write({"stage": "fit", "seconds": 2.0, "units": 4})
    with open(log.path, "ab") as f:
        f.write(bad)
    log.write({"stage": "fit", "seconds": 2.0, "units": 4})
    assert Timings(log.path).estimate("fit", 10) == 5
    assert len(log.path.read_text().splitlines()) == 2


@pytest.mark.parametrize(("number", "advice"), [
    (errno.ENOSPC, "make room"), (errno.EMFILE, "ulimit -n"), (errno.EFBIG, "ulimit -f"), (errno.EIO, "make room"),
])  # fmt: skip
def test_what_the_system_does_not_allow_is_one_line_and_no_fault_of_the_files(
    copy, monkeypatch, capsys, number, advice
):
    """Orbax has errors of its own; a limit of the system must not pass for damage, which is set aside."""
    before = {p for p in contents(copy) if "damaged" in p.name}

    def fail(*_, **__):
        raise ValueError(f"RESOURCE_EXHAUSTED: {os.strerror(number)}\n[os_error_code='{number}']")

    monkeypatch.setattr(checkpoint.ocp, "save", fail)
    monkeypatch.setattr(checkpoint, "SETTLE_S", 0)
    arguments = ["run", f"--config={CONFIG}", f"--workdir={copy}", "--config.train.epochs=4"]
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err.splitlines()
    assert os.strerror(number) in err[-1] and advice in err[-1] and "run the same command again" in err[-1]
    assert {p for p in contents(copy) if "damaged" in p.name} == before


def test_a_limit_is_not_taken_for_damage(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("x")
    said = files.entry(tmp_path / "x")
    for number, sound in ((errno.EMFILE, None), (errno.EACCES, None), (errno.EIO, False)):

        def fail(path, number=number):
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(files, "sha256", fail)
        if sound is None:
            with pytest.raises(OSError, match=os.strerror(number)):
                files.matches(tmp_path / "x", said)
        else:
            assert files.matches(tmp_path / "x", said) is sound
    assert trouble(OSError(errno.EMFILE, "Too many open files")).endswith("(ulimit -n)")


@pytest.mark.parametrize(("now", "hard", "most", "then"), [
    (256, -1, 10_240, 10_240), (256, 4096, 1 << 30, 4096), (256, 1 << 20, 10_240, 10_240), (1024, 1024, 1024, None),
    (256, -1, 0, None),
])  # fmt: skip
def test_open_files_are_raised_as_far_as_the_system_goes(monkeypatch, now, hard, most, then):
    """macOS calls its hard limit infinite (-1) and refuses what is above 10,240."""
    asked = []

    def setrlimit(_, limits):
        if not 0 < limits[0] <= most:
            raise ValueError("current limit exceeds maximum limit")
        asked.append(limits)

    monkeypatch.setattr(run.resource, "getrlimit", lambda _: (now, hard))
    monkeypatch.setattr(run.resource, "setrlimit", setrlimit)
    run._open_many_files()
    assert asked == ([(then, hard)] if then else [])
