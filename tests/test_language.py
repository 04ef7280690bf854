"""A language model through the whole chain on real text: its numbers recomputed by other means, and its faults."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import outcome

from collapse_jax import cli, config, experiment, files, run
from collapse_jax.data import sources
from collapse_jax.data.dataset import open_dataset
from collapse_jax.data.records import RowSource

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.py"
DATA = Path(__file__).parents[2] / "shared" / "data" / "tinystories" / "small" / "train_200k.txt"
TINY = [
    f"--config={CONFIG}", "--config.rows=64", "--config.generations=2", "--config.seeds=(0,)",
    "--config.model.layers=1", "--config.model.width=16", "--config.model.heads=2", "--config.data.vocab_size=300",
    "--config.model.vocab_size=300", "--config.data.row_length=32", "--config.model.context=32",
    "--config.train.epochs=1", "--config.writing.batch_size=32", "--config.evaluate.rows=96",
    "--config.sample.prompt_tokens=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("language")
    assert cli.main(["run", *TINY, f"--workdir={workdir}"]) == 0
    return workdir


def measured(workdir: Path, arm: str, generation: int) -> dict[str, float]:
    lines = map(json.loads, (workdir / "records.jsonl").read_text().splitlines())
    return {r["metric"]: r["value"] for r in lines if r["arm"] == arm and r["generation"] == generation}


def samples(workdir: Path, arm: str, generation: int) -> dict[str, np.ndarray]:
    name = files.read_json(workdir / "experiment.json")["ids"][arm]["0"][generation - 1]
    folder = workdir / "generations" / name
    said = files.read_json(folder / "manifest.json")["files"]
    shards = [(folder / k, v["rows"]) for k, v in sorted(said.items()) if "first" in v]
    return RowSource(shards, dataset(workdir).spec).read(0, 64)


def dataset(workdir: Path):
    (folder,) = (workdir / "data").iterdir()
    return open_dataset(folder)


def test_every_metric_is_there(done):
    found = measured(done, "replace", 2)
    assert set(found) == {
        "test_loss", "perplexity", "bits_per_byte", "train_loss", "unigram_entropy", "distinct_1", "distinct_2",
        "distinct_3", "tail_recall", "mean_length", "copied_rows", "sample_loss_under_first",
    }  # fmt: skip
    assert all(math.isfinite(v) for v in found.values())


def test_a_finished_run_needs_none_of_the_original_text(done, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "documents", None)  # would fail if the text were read again
    name = files.read_json(done / "experiment.json")["ids"]["replace"]["0"][1]
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*")}
    capsys.readouterr()
    assert cli.main(["sample", str(done), f"--generation={name}", "-n", "2"]) == 0
    assert capsys.readouterr().out
    assert cli.main(["plan", *TINY, f"--workdir={done}"]) == 0
    assert f"{len(dataset(done).rows('train')):,} to train on" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*")} == before


def test_units_of_loss_agree(done):
    found = measured(done, "accumulate", 2)
    assert found["perplexity"] == pytest.approx(math.exp(found["test_loss"]))
    # bits per byte from the rows themselves: total nats over the bytes that the scored tokens stand for
    rows = dataset(done).rows("test")
    tokens = rows.read(0, len(rows))["tokens"]
    text = dataset(done).tokenizer.token_bytes[tokens].sum()
    bits = found["test_loss"] * tokens.size / text / math.log(2)
    assert found["bits_per_byte"] == pytest.approx(bits)


def test_measures_of_the_samples_by_counting(done):
    found, tokens = measured(done, "replace", 2), samples(done, "replace", 2)["tokens"][:, 3:]  # as drawn
    words = [tuple(row) for row in tokens.tolist()]
    counts: dict[int, int] = {}
    for word in (w for row in words for w in row):
        counts[word] = counts.get(word, 0) + 1
    total = sum(counts.values())
    assert found["unigram_entropy"] == pytest.approx(
        -sum(c / total * math.log(c / total) for c in counts.values())
    )
    pairs = [row[i : i + 2] for row in words for i in range(len(row) - 1)]
    assert found["distinct_2"] == pytest.approx(len(set(pairs)) / len(pairs))


def test_prompts_are_real_and_rows_differ(done):
    tokens = samples(done, "replace", 1)["tokens"]
    real = dataset(done).rows("train").read(0, 64)["tokens"]
    np.testing.assert_array_equal(tokens[:, :3], real[:, :3])
    assert len(np.unique(tokens[:, 3:], axis=0)) == 64


def test_the_fit_learned_and_the_sample_loss_is_the_models(done):
    assert np.all(samples(done, "replace", 1)["prompt"] == 3)
    found = measured(done, "replace", 1)
    assert found["test_loss"] < math.log(300) - 0.3
    # under generation 1, generation 1's own samples cost about its entropy: well below a uniform model's
    assert found["sample_loss_under_first"] < math.log(300)


def test_the_report_opens_offline(done):
    page = (done / "report.html").read_text()
    assert "replace" in page and "http://" not in page and "https://" not in page


def test_data_is_reused_and_damage_to_it_is_mended(done, tmp_path, capsys):
    workdir = Path(shutil.copytree(done, tmp_path / "run"))
    before = dataset(workdir).path.stat().st_mtime_ns
    assert cli.main(["run", *TINY, f"--workdir={workdir}"]) == 0
    assert dataset(workdir).path.stat().st_mtime_ns == before
    shard = next(dataset(workdir).path.glob("train/*"))
    shard.write_bytes(shard.read_bytes()[:-9])
    assert cli.main(["verify", str(workdir)]) == 1
    assert cli.main(["run", *TINY, f"--workdir={workdir}"]) == 0
    assert "set aside" in capsys.readouterr().err
    assert outcome(workdir) == outcome(done)


@pytest.mark.parametrize(("arguments", "said"), [
    (["--config.model.vocab_size=299"], "model.vocab_size=299 is below the tokenizer's 300 ids"),
    (["--config.model.context=16"], "model.context=16 is shorter"),
    (["--config.model.heads=3"], "heads=3 must divide width=16"),
    (["--config.data.vocab_size=100"], "too small for bpe"),
    (["--config.data.source=texts:x"], "texts:x"),
    (["--config.data.source=text:nothing/*.txt"], "nothing/*.txt"),
    (["--config.sample.temperature=-1.0"], "temperature=-1.0"),
    (["--config.sample.prompt_tokens=33"], "prompt_tokens=33"),
])  # fmt: skip
def test_bad_input(tmp_path, capsys, arguments, said):
    assert cli.main(["run", *TINY, f"--workdir={tmp_path / 'w'}", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not (tmp_path / "w" / "generations").exists()


@pytest.mark.parametrize(("content", "said"), [(b"", "empty"), (b"caf\xe9 au lait", "UTF-8")])
def test_bad_text(tmp_path, capsys, content, said):
    (tmp_path / "a.txt").write_bytes(content)
    source = f"--config.data.source=text:{tmp_path}/*.txt"
    assert cli.main(["run", *TINY, f"--workdir={tmp_path / 'w'}", source]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_tinystories_one_document_a_row(tmp_path):
    if not DATA.exists():
        pytest.skip(f"{DATA} is not here")
    arguments = [*TINY, f"--config.data.source=text:{DATA}", "--config.data.packing=document", "--config.rows=48",
                 "--config.sample.prompt_tokens=0", f"--workdir={tmp_path}"]  # fmt: skip
    assert cli.main(["run", *arguments]) == 0
    rows = samples_of(tmp_path)
    separator = dataset(tmp_path).info["separator_id"]
    for tokens, length in zip(rows["tokens"], rows["length"], strict=True):
        ends = np.flatnonzero(tokens == separator)
        assert length == (ends[0] + 1 if len(ends) else len(tokens))


def samples_of(workdir: Path) -> dict[str, np.ndarray]:
    manifest = next(workdir.glob("generations/*/manifest.json"))
    said = json.loads(manifest.read_text())["files"]
    return RowSource([(manifest.parent / k, v["rows"]) for k, v in said.items() if "first" in v],
                     dataset(workdir).spec).read(0, 48)  # fmt: skip


@pytest.mark.slow
def test_import_prepares_what_run_finds(tmp_path, capsys):
    assert cli.main(["import", *TINY, f"--store={tmp_path}"]) == 0
    assert "rows" in capsys.readouterr().out
    settings = experiment.resolve(config.load(str(CONFIG), TINY[1:]))
    before = dataset(tmp_path).path.stat().st_mtime_ns
    run.prepare(settings, tmp_path)
    assert dataset(tmp_path).path.stat().st_mtime_ns == before
    given = [
        f"--config.data.source=rows:{dataset(tmp_path).path}",
        "--config.rows=16",
        "--config.generations=1",
    ]
    assert cli.main(["run", *TINY, f"--workdir={tmp_path / 'w'}", *given]) == 0


@pytest.mark.slow
def test_bench_prints_one_line(tmp_path, capsys):
    assert cli.main(["bench", *TINY, "--seconds=0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    needed = {"train_rows_per_s", "train_tokens_per_s", "sample_rows_per_s", "sample_tokens_per_s", "step_ms_median",
              "compile_s", "params", "device"}  # fmt: skip
    assert needed <= set(found)
