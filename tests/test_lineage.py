"""Generations on disk: identity, journal, damage, and locks."""

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import time
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapse_jax import files, lineage, lock
from collapse_jax.config import BadInput
from collapse_jax.files import sealed
from collapse_jax.lineage import Generation, generation_id
from collapse_jax.verify import generations as verify

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), json_values))
def test_identity_survives_disk_and_order(recipe):
    shuffled = dict(reversed(list(recipe.items())))
    assert generation_id(recipe) == generation_id(shuffled) == generation_id(json.loads(json.dumps(recipe)))


def test_identity_sees_every_change():
    recipe = {"seed": 0, "mixture": [{"source": "real", "rows": 3}]}
    changed = {"seed": 0, "mixture": [{"source": "real", "rows": 4}]}
    assert generation_id(recipe) != generation_id(changed) != generation_id({**recipe, "seed": 1})


def made(store: Path) -> Generation:
    """A committed generation with two shards, a checkpoint of two files and a result."""
    g = Generation(store, {"seed": 0})
    g.start()
    for name in ("checkpoint/fitted/a/c/0", "checkpoint/fitted/b"):
        (g.path / name).parent.mkdir(parents=True, exist_ok=True)
        (g.path / name).write_bytes(os.urandom(100))
    g.journal(files.below(g.path / "checkpoint" / "fitted"))
    g.finish("fit", {"checkpoint": "checkpoint/fitted", "parameters": "p"})
    for i in range(2):
        path = g.path / "synthetic" / f"part-{i:05d}-of-00002.array_record"
        path.write_bytes(os.urandom(70_000))
        g.journal([path], first=10 * i, rows=10)
    g.finish("sample", {})
    files.write_json(g.path / "metrics.json", {"test_loss": 1})
    g.journal([g.path / "metrics.json"])
    g.commit({"status": "committed"})
    return g


def again(store: Path) -> Generation:
    return Generation(store, {"seed": 0}).read()


def test_what_has_no_manifest_does_not_exist(tmp_path):
    g = Generation(tmp_path, {"seed": 0})
    g.start()
    g.finish("fit", {"loss": float("nan")})
    assert not again(tmp_path).committed and again(tmp_path).result("fit") == {"loss": None}
    assert made(tmp_path).committed and again(tmp_path).committed
    assert verify(tmp_path) == []


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(("name", "lost"), [
    ("synthetic/part-00001-of-00002.array_record", "sample"),
    ("checkpoint/fitted/a/c/0", "fit"),
    ("checkpoint/fitted/b", "fit"),
    ("metrics.json", None),
])  # fmt: skip
@pytest.mark.parametrize(
    "damage", [flip, os.unlink, lambda p: os.truncate(p, 5)], ids=["flip", "miss", "cut"]
)
def test_damage_is_noticed_set_aside_and_redone(tmp_path, name, lost, damage, capsys):
    g = made(tmp_path)
    kept = {k: p for k in g.state["files"] if not k.startswith(name[:12]) and (p := g.path / k)}
    damage(g.path / name)
    assert any(name in line for line in verify(tmp_path))
    g = again(tmp_path)
    g.mend(contents=True)
    assert "set aside" in capsys.readouterr().err
    assert not g.committed and not (g.path / "manifest.json").exists()
    assert {s for s in ("fit", "sample") if g.result(s) is None} == ({lost} if lost else set())
    assert name not in g.state["files"] and all(p.exists() for p in kept.values())
    if damage is not os.unlink:
        assert list(g.path.rglob("*.damaged-0"))
    assert again(tmp_path).state == g.state


def test_strangers(tmp_path, capsys):
    g = made(tmp_path)
    (g.path / "synthetic" / "part-00002-of-00003.array_record").write_bytes(b"x")
    assert any("in no manifest" in line for line in verify(tmp_path))
    again(tmp_path).mend()
    assert "in no manifest" in capsys.readouterr().err
    assert again(tmp_path).committed and verify(tmp_path) == []


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path):
    g = Generation(tmp_path, {"seed": 0})
    g.start()
    (g.path / "checkpoint" / "50").mkdir(parents=True)
    (g.path / "checkpoint" / "50" / "x").touch()
    (g.path / "synthetic" / ".part-00000-of-00001.array_record.partial").touch()
    g.read().mend()
    assert list((g.path / "checkpoint").iterdir()) == list((g.path / "synthetic").iterdir()) == []


def test_refitted_with_other_rounding_starts_over(tmp_path):
    made(tmp_path)
    flip(tmp_path / "generations" / again(tmp_path).id / "checkpoint" / "fitted" / "b")
    g = again(tmp_path)
    g.mend()
    g.refitted("p")
    assert g.result("sample") is not None
    g.state["stages"]["lost fit"] = {"parameters": "p"}
    g.refitted("q")
    assert g.state == {"files": {}, "stages": {}}


def test_no_path_outside_the_store(tmp_path):
    g = made(tmp_path)
    manifest = files.read_json(g.path / "manifest.json")
    manifest["files"]["../../../etc/passwd"] = {"bytes": 1, "sha256": "0"}
    files.write_json(g.path / "manifest.json", sealed(manifest))
    with pytest.raises(BadInput, match="outside"):
        again(tmp_path).mend()
    assert any("outside" in line for line in verify(tmp_path))


def test_a_damaged_manifest_or_recipe(tmp_path, capsys):
    g = made(tmp_path)
    (g.path / "manifest.json").write_text("{")
    assert verify(tmp_path)
    mended = again(tmp_path)
    assert (g.path / "manifest.json").exists()  # reading changes nothing
    mended.mend()  # the journal still vouches for every file
    assert "manifest.json is damaged" in capsys.readouterr().err
    assert (g.path / "manifest.json.damaged-0").exists()
    assert not mended.committed and mended.state == g.state
    g = made(tmp_path)
    files.write_json(g.path / "recipe.json", {"seed": 1})
    assert any("hashes to" in line for line in verify(tmp_path))
    again(tmp_path).mend()
    assert verify(tmp_path) == [] and files.read_json(g.path / "recipe.json") == {"seed": 0}
    (g.path / "recipe.json").write_bytes(b"\xff")
    assert verify(tmp_path)
    again(tmp_path).mend()
    assert verify(tmp_path) == [] and again(tmp_path).committed


def _hold(folder: Path, ready, seconds: float) -> None:
    with lock.owned(folder):
        ready.set()
        time.sleep(seconds)


def test_one_owner_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, 60))
    other.start()
    assert ready.wait(60)
    with pytest.raises(BadInput, match=f"process {other.pid}"), lock.owned(tmp_path):
        pass
    other.kill()
    other.join()
    with lock.owned(tmp_path):  # the dead owner's lock is taken over
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    other.close()


def held(folder: Path, **said) -> None:
    (folder / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, **said}))


def watching(monkeypatch, beat) -> list[float]:
    """Time passes for a watcher only as it sleeps, and `beat(seconds)` is what the holder does meanwhile."""
    passed = [0.0]

    def sleep(seconds: float) -> None:
        passed[0] += seconds
        beat(passed[0])

    monkeypatch.setattr(lock, "time", types.SimpleNamespace(sleep=sleep, monotonic=lambda: passed[0]))
    return passed


def test_a_beat_of_another_host_is_watched_whatever_its_clock_says(tmp_path, monkeypatch):
    held(tmp_path, heartbeat=0)
    watching(monkeypatch, lambda passed: held(tmp_path, heartbeat=passed > 5))
    with pytest.raises(BadInput, match="process 1 on elsewhere"), lock.owned(tmp_path):
        pass
    held(tmp_path, heartbeat=1e12)
    passed = watching(monkeypatch, lambda passed: None)
    with lock.owned(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert lock.DEAD_S <= passed[0] < lock.DEAD_S + 2
    with lock.owned(tmp_path):
        pass
    assert passed[0] < lock.DEAD_S + 2  # whoever ends well leaves no holder


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_locks_the_heartbeat_keeps_runs_apart(tmp_path, monkeypatch, capsys, number):
    def unsupported(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    watching(monkeypatch, lambda passed: None)
    with lock.owned(tmp_path):
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "has no locks" in err and os.strerror(number) in err
        mine = json.loads((tmp_path / "lock").read_text())
    held(tmp_path, **mine, beats=1)  # a run of this host that is alive, this one
    watching(monkeypatch, lambda passed: held(tmp_path, **mine, beats=2))
    with pytest.raises(BadInput, match=f"in use by process {os.getpid()}"), lock.owned(tmp_path):
        pass
    (tmp_path / "lock").write_text("")
    watching(monkeypatch, lambda passed: held(tmp_path))  # two at once: the other writes last
    with pytest.raises(BadInput, match="process 1 on elsewhere"), lock.owned(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_only_a_lock_that_is_held_means_in_use(tmp_path, monkeypatch, number):
    def taken(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", taken)
    with pytest.raises(BadInput, match="is in use"), lock.owned(tmp_path):
        pass


@pytest.mark.parametrize("renamed", [1, 2])
def test_shards_are_renamed_without_hard_links_and_after_a_kill(tmp_path, monkeypatch, renamed):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "no hard links here")

    monkeypatch.setattr(os, "link", unsupported)
    monkeypatch.setattr(Path, "hardlink_to", unsupported)
    g = made(tmp_path)
    before = {path.read_bytes() for path, _ in g.shards()}
    names = {0: "part-00000-of-00003.array_record", 10: "part-00001-of-00003.array_record"}
    left = iter(range(renamed - 1))
    monkeypatch.setattr(lineage.faults, "point", lambda name: name == "sample/moved" and next(left))
    with pytest.raises(StopIteration):  # as if killed after a rename, before it was written down
        g.renumber(names)
    monkeypatch.setattr(lineage.faults, "point", lambda name: None)
    g = again(tmp_path)
    g.mend()
    assert [path.name for path, _ in g.shards()] == list(names.values())
    assert {path.read_bytes() for path, _ in g.shards()} == before
    assert again(tmp_path).damaged(contents=True) == again(tmp_path).extra() == []


def test_exchanged_folders_are_noticed_and_nothing_of_them_is_lost(tmp_path, capsys):
    g = made(tmp_path)
    other = Generation(tmp_path, {"seed": 1})
    other.start()
    other.finish("fit", {})
    other.commit({"status": "committed"})
    for a, b in ((g.path, "x"), (other.path, g.id), (g.path.with_name("x"), other.id)):
        a.rename(a.with_name(b))
    assert len([line for line in verify(tmp_path) if "hashes to" in line]) == 2
    mine = again(tmp_path)
    assert not mine.committed and mine.shards() == []
    mine.mend()
    assert f"belongs to generation {other.id}" in capsys.readouterr().err
    aside = g.path.with_name(f"{g.id}.damaged-0")
    assert (aside / "manifest.json").exists() and not g.path.exists()
    Generation(tmp_path, {"seed": 1}).read().mend()
    assert len(list(other.path.with_name(f"{other.id}.damaged-0").glob("synthetic/*"))) == 2


def test_old_checkpoints_do_not_outlive_a_kill_at_the_end_of_a_fit(tmp_path):
    g = made(tmp_path)
    (g.path / "checkpoint" / "50").mkdir()
    (g.path / "checkpoint" / "50" / "x").touch()
    g.journal(files.below(g.path / "checkpoint" / "50"))
    again(tmp_path).read()
    g.reopen()
    again(tmp_path).mend()
    assert [p.name for p in (g.path / "checkpoint").iterdir()] == ["fitted"]
    assert not again(tmp_path).running() and again(tmp_path).damaged(contents=True) == []


LINKED = ["generations", "generations/ID", "generations/ID/synthetic", "generations/ID/checkpoint",
          "generations/ID/checkpoint/50", "generations/ID/synthetic/x", "generations/ID/progress.json",
          "generations/ID/recipe.json"]  # fmt: skip


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("name", LINKED)
def test_nothing_is_done_through_links(tmp_path, name, committed):
    """Everything that a generation does to its folder, with one part of it lying elsewhere."""
    g, outside = made(tmp_path / "store"), tmp_path / "outside"
    if not committed:
        g.reopen()
    path = tmp_path / "store" / name.replace("ID", g.id)
    if path.exists():
        shutil.move(path, outside)
    else:
        outside.mkdir()
        (outside / "precious").touch()
    path.symlink_to(outside)
    there = {
        p: p.read_bytes() for p in (outside.rglob("*") if outside.is_dir() else [outside]) if p.is_file()
    }
    with pytest.raises(BadInput, match=f"{path} is a symbolic link to {outside}"):
        g = again(tmp_path / "store")
        g.mend()
        g.start()
        g.reopen()
        g.set_aside("stale")
    assert {p: p.read_bytes() for p in there if p.exists()} == there
    with files.reading(), pytest.raises(BadInput, match="run the experiment again"):
        files.write_text(tmp_path / "x", "")
