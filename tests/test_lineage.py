"""Generations on disk: identity, journal, damage, and locks."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapse_jax import files, lock
from collapse_jax.config import BadInput
from collapse_jax.lineage import Generation, generation_id, sealed, verify

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
    assert "damaged" in capsys.readouterr().err
    mended.mend()  # the journal still vouches for every file
    assert not mended.committed and mended.state == g.state
    g = made(tmp_path)
    files.write_json(g.path / "recipe.json", {"seed": 1})
    assert any("hashes to" in line for line in verify(tmp_path))


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


def test_another_host(tmp_path):
    def said(seconds_ago: float) -> None:
        held = {"host": "elsewhere", "pid": 1, "heartbeat": time.time() - seconds_ago}
        (tmp_path / "lock").write_text(json.dumps(held))

    said(1)
    with pytest.raises(BadInput, match="process 1 on elsewhere"), lock.owned(tmp_path):
        pass
    said(1000)
    with lock.owned(tmp_path):
        pass
