"""Real text into rows: splits, packing, reuse by content, and damage noticed and repaired."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_jax import files
from collapse_jax.config import BadInput, resolve, template
from collapse_jax.data import cache, packing, tokenizers
from collapse_jax.data import dataset as datasets
from collapse_jax.data.text import TextData, prepare, split_documents

REAL = Path(__file__).parents[2] / "shared" / "data" / "tinystories"
STORIES = [f"Story {i}: " + " ".join(f"word{(i * j) % 13}" for j in range(3 + i % 17)) for i in range(40)]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("<|endoftext|>".join(STORIES), encoding="utf-8")
    return path


def text_data(corpus, **changes):
    return TextData(**{"source": f"text:{corpus}", "tokenizer": "bytes", "row_length": 32, **changes})


def all_rows(dataset, split):
    with dataset.rows(split) as source:
        return source.read(0, len(source))


def documents_of(dataset, split):
    """The documents of a packed split, from its rows."""
    stream = all_rows(dataset, split)["tokens"].reshape(-1)
    return dataset.tokenizer.decode(stream).split("<|endoftext|>")


# --- packing

DOCUMENTS = st.lists(st.lists(st.integers(0, 8), max_size=12), max_size=10)
SEPARATOR = 9


def chunked(documents, size=3):
    arrays = [np.array(d, np.int32) for d in documents]
    return [arrays[i : i + size] for i in range(0, len(arrays), size)]


@given(DOCUMENTS, st.integers(2, 7))
@settings(max_examples=100, deadline=None)
def test_packed_rows_are_the_stream_cut_in_pieces(documents, length):
    chunks = list(packing.packed(chunked(documents), length, SEPARATOR, "uint16"))
    stream = [token for document in documents for token in [*document, SEPARATOR]]
    whole = len(stream) // length
    tokens = np.concatenate([chunk.rows["tokens"] for chunk in chunks])
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [stream[i * length : (i + 1) * length] for i in range(whole)]
    assert np.concatenate([chunk.rows["length"] for chunk in chunks]).tolist() == [length] * whole
    assert sum(chunk.dropped for chunk in chunks) == len(stream) - whole * length


@given(DOCUMENTS, st.integers(2, 7))
@settings(max_examples=100, deadline=None)
def test_one_document_per_row(documents, length):
    chunks = list(packing.one_per_row(chunked(documents), length, SEPARATOR, "int32"))
    rows = [
        (list(t), n)
        for chunk in chunks
        for t, n in zip(chunk.rows["tokens"].tolist(), chunk.rows["length"].tolist(), strict=True)
    ]
    assert len(rows) == len(documents)
    for document, (tokens, n) in zip(documents, rows, strict=True):
        closed = [*document, SEPARATOR]
        assert n == min(len(closed), length)
        assert tokens == closed[:length] + [SEPARATOR] * (length - n)
    assert sum(chunk.truncated for chunk in chunks) == sum(len(d) >= length for d in documents)
    assert sum(chunk.dropped for chunk in chunks) == sum(max(len(d) + 1 - length, 0) for d in documents)


def test_spec_is_compact():
    assert packing.row_spec(8, 1 << 16)["tokens"] == ((8,), "uint16")
    assert packing.row_spec(8, (1 << 16) + 1)["tokens"] == ((8,), "int32")


# --- splits and counts


@given(
    count=st.integers(3, 60), validation=st.floats(0, 0.5), test=st.floats(0, 0.49), seed=st.integers(0, 5)
)
@settings(max_examples=60, deadline=None)
def test_splits_are_whole_documents_and_none_is_empty(count, validation, test, seed):
    documents = [str(i) for i in range(count)]
    data = TextData(validation=validation, test=test, seed=seed)
    groups = split_documents(documents, data)
    assert sorted([d for group in groups.values() for d in group], key=int) == documents
    assert all(groups.values())
    assert abs(len(groups["validation"]) - max(1, validation * count)) <= 1
    assert abs(len(groups["test"]) - max(1, test * count)) <= 1
    assert groups == split_documents(documents, data)


def test_rows_hold_the_documents_of_their_split(corpus, tmp_path):
    dataset = prepare(text_data(corpus), tmp_path)
    found = {}
    for split in ("train", "validation", "test"):
        *whole, cut = documents_of(dataset, split)
        assert set(whole) <= set(STORIES)
        assert cut == "" or any(story.startswith(cut) for story in STORIES)
        found[split] = set(whole)
    assert not found["train"] & found["validation"] and not found["train"] & found["test"]
    assert [dataset.info["splits"][s]["documents"] for s in found] == [32, 4, 4]
    other = prepare(text_data(corpus, seed=1), tmp_path)
    assert documents_of(other, "train") != documents_of(dataset, "train")


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
@pytest.mark.parametrize("kind", ["packed", "document"])
def test_counts_of_tokens_and_bytes(corpus, tmp_path, tokenizer, kind):
    data = text_data(corpus, tokenizer=tokenizer, packing=kind, vocab_size=270)
    dataset = prepare(data, tmp_path)
    assert dataset.spec == {"tokens": ((32,), "uint16"), "length": ((), "int32"), "prompt": ((), "int32")}
    for split in ("train", "validation", "test"):
        rows, counts = all_rows(dataset, split), dataset.info["splits"][split]
        scored = [t[:n] for t, n in zip(rows["tokens"], rows["length"], strict=True)]
        text = [dataset.tokenizer.decode(t[t != dataset.tokenizer.separator_id]) for t in scored]
        assert counts["rows"] == len(scored) == dataset.row_count(split)
        assert counts["tokens"] == sum(map(len, scored))
        assert counts["bytes"] == sum(len(t.encode()) for t in text)
    counts = dataset.info["splits"]["test"]
    # A model that spends log(256) nats on each byte costs 8 bits a byte.
    nats_per_token = np.log(256) * counts["bytes"] / counts["tokens"]
    assert dataset.bits_per_byte(nats_per_token) == pytest.approx(8)
    assert "documents" in datasets.describe(dataset)


@given(
    copies=st.lists(st.integers(0, 20), min_size=3, max_size=60).filter(lambda ids: len(set(ids)) > 2),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_copies_lie_in_one_split(copies, seed):
    documents = [f"Story {i}" if k % 2 else f"  STORY\n{i}" for k, i in enumerate(copies)]
    groups = split_documents(documents, TextData(seed=seed, validation=0.2, test=0.2))
    assert sorted(d for group in groups.values() for d in group) == sorted(documents)
    numbers = [{d.split()[1] for d in group} for group in groups.values()]
    assert all(numbers) and sum(map(len, numbers)) == len(set(copies))


def test_two_different_documents_are_too_few(tmp_path):
    with pytest.raises(BadInput, match=r"has 2 document\(s\)"):
        split_documents(["a", "b", "a", " A "], TextData())


def test_copies_are_told(corpus, tmp_path):
    corpus.write_text("<|endoftext|>".join([*STORIES, STORIES[0].upper(), STORIES[1]]))
    info = prepare(text_data(corpus, packing="document", row_length=200), tmp_path).info
    assert "documents that are copies of others: 2; they lie in the same split" in info["notes"]
    assert info["warnings"] == []


def test_held_out_rows_that_are_training_rows_are_a_warning(corpus, tmp_path):
    # documents that begin alike are the same rows once they are cut
    corpus.write_text("<|endoftext|>".join(f"the same beginning{'.' * 20} {i}" for i in range(40)))
    dataset = prepare(text_data(corpus, packing="document", row_length=16), tmp_path)
    assert [dataset.info["splits"][s].get("copies_of_training_rows") for s in datasets.SPLITS] == [None, 4, 4]
    assert [w.partition(";")[0] for w in dataset.info["warnings"]] == [
        "4 of 4 validation rows are also training rows",
        "4 of 4 test rows are also training rows",
    ]
    assert "WARNING    4 of 4 test rows" in datasets.describe(dataset)
    cut = sum(len(f"the same beginning{'.' * 20} {i}") + 1 - 16 for i in range(40))
    [note] = dataset.info["notes"]
    assert note.startswith(
        f"documents longer than a row, cut: 40 of 40; {cut / (cut + 640):.1%} of the tokens"
    )


def test_tokens_and_rows_that_are_left_out_are_told(corpus, tmp_path):
    info = prepare(text_data(corpus, max_rows=3), tmp_path).info
    counts = info["splits"]
    ends = ", ".join(f"{s} {n}" for s in datasets.SPLITS if (n := counts[s]["dropped_tokens"]))
    assert f"tokens at the end that fill no row, left out: {ends}" in info["notes"] and "test" in ends
    assert "training text beyond max_rows=3 is left out" in info["notes"]


def test_notes_of_the_source_are_part_of_the_data(tmp_path):
    parts = [f"line {i} of a text that has no separator" for i in range(30)]
    for breaks, name in (("\n", "without"), ("<|endoftext|>", "with")):
        (tmp_path / name).write_text(breaks.join(parts))
    without, separated = (prepare(text_data(tmp_path / name), tmp_path) for name in ("without", "with"))
    assert without.digest == separated.digest and without.path != separated.path  # equal rows, told otherwise
    assert "30 lines" in "".join(without.info["notes"]) and "lines" not in "".join(separated.info["notes"])


@pytest.mark.parametrize("lengths", [(3, 3), (3, 2)])
def test_digests_are_of_the_tokens_that_count(lengths):
    tokens = np.array([[1, 2, 3, 9], [1, 2, 3, 8]], np.uint16)
    first, second = packing.digests({"tokens": tokens, "length": np.array(lengths)})
    assert (first == second) == (lengths[0] == lengths[1])


def test_bpe_learns_from_the_training_split_only(corpus, tmp_path):
    data = text_data(corpus, tokenizer="bpe", vocab_size=290)
    train = split_documents(STORIES, data)["train"]
    expected = tokenizers.BPETokenizer.train(train, 290)
    dataset = prepare(data, tmp_path)
    assert dataset.tokenizer.pieces == expected.pieces
    assert dataset.info["vocab_size"] == expected.vocab_size
    assert dataset.tokenizer.pieces != tokenizers.BPETokenizer.train(STORIES[::-1] * 3, 290).pieces


def test_max_rows_keeps_the_first_training_rows(corpus, tmp_path):
    whole, capped = (prepare(text_data(corpus, max_rows=n), tmp_path) for n in (0, 7))
    assert np.array_equal(all_rows(whole, "train")["tokens"][:7], all_rows(capped, "train")["tokens"])
    assert capped.info["splits"]["test"] == whole.info["splits"]["test"]


def test_many_shards(corpus, tmp_path, monkeypatch):
    one = prepare(text_data(corpus), tmp_path / "one")
    monkeypatch.setattr(cache, "ROWS_PER_SHARD", 10)
    many = prepare(text_data(corpus), tmp_path / "many")
    assert len([name for name in many.info["files"] if name.startswith("train/")]) == -(
        -one.row_count("train") // 10
    )
    assert np.array_equal(all_rows(one, "train")["tokens"], all_rows(many, "train")["tokens"])


# --- identity, reuse, damage


def test_reused_by_content(corpus, tmp_path, monkeypatch):
    first = prepare(text_data(corpus), tmp_path)
    assert first.verify() == []
    monkeypatch.setattr(cache, "_make", lambda *_: pytest.fail("made again"))
    moved = corpus.with_name("moved.txt")
    shutil.move(corpus, moved)
    again = prepare(text_data(moved, vocab_size=300), tmp_path)  # bytes have no vocabulary to choose
    assert again.path == first.path and again.digest == first.digest


@pytest.mark.parametrize(
    "change",
    [
        {"row_length": 33},
        {"packing": "document"},
        {"seed": 1},
        {"validation": 0.2},
        {"tokenizer": "bpe", "vocab_size": 260},
        {"max_rows": 3},
    ],
)
def test_settings_that_matter_change_the_digest(corpus, tmp_path, change):
    first = prepare(text_data(corpus), tmp_path)
    other = prepare(text_data(corpus, **change), tmp_path)
    assert other.path != first.path and other.digest != first.digest


def test_other_text_changes_the_digest(corpus, tmp_path):
    first = prepare(text_data(corpus), tmp_path)
    corpus.write_text(corpus.read_text().replace("word3", "Word3"))
    assert prepare(text_data(corpus), tmp_path).digest != first.digest


def test_digest_does_not_depend_on_the_place(corpus, tmp_path):
    data = text_data(corpus, tokenizer="bpe", vocab_size=270)
    a, b = (prepare(data, tmp_path / name) for name in "ab")
    assert a.digest == b.digest and a.info == b.info


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


SHARD = "train/part-00000-of-00001.array_record"
DAMAGE = {
    "flipped": lambda d: flip(d / SHARD),
    "truncated": lambda d: (d / SHARD).write_bytes((d / SHARD).read_bytes()[:-100]),
    "missing": lambda d: (d / SHARD).unlink(),
    "extra": lambda d: shutil.copy(d / SHARD, d / "train/part-00001-of-00002.array_record"),
    "tokenizer": lambda d: flip(d / "tokenizer.json"),
    "no manifest": lambda d: (d / "manifest.json").unlink(),
    "cut manifest": lambda d: (d / "manifest.json").write_text((d / "manifest.json").read_text()[:200]),
    "edited manifest": lambda d: (d / "manifest.json").write_text(
        (d / "manifest.json").read_text().replace('"uint16"', '"int32"')
    ),
    "edited count": lambda d: (d / "manifest.json").write_text(
        (d / "manifest.json").read_text().replace('"bytes": ', '"bytes": 1')
    ),
    "unsealed manifest": lambda d: files.write_json(
        d / "manifest.json", {k: v for k, v in files.read_json(d / "manifest.json").items() if k != "seal"}
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_set_aside_and_repaired(corpus, tmp_path, capfd, kind):
    first = prepare(text_data(corpus), tmp_path)
    for n in (0, 1):
        DAMAGE[kind](first.path)
        again = prepare(text_data(corpus), tmp_path)
        said = capfd.readouterr().err
        assert f"{first.path.name}.damaged-{n}" in said and said.count("\n") == 1
        assert (tmp_path / "data" / f"{first.path.name}.damaged-{n}").is_dir()
        assert again.digest == first.digest and again.verify() == []


def test_other_data_in_the_place_is_set_aside(corpus, tmp_path, capfd):
    first = prepare(text_data(corpus), tmp_path)
    other = prepare(text_data(corpus, seed=1), tmp_path)
    shutil.rmtree(first.path)
    shutil.move(other.path, first.path)
    assert prepare(text_data(corpus), tmp_path).digest == first.digest
    assert "belongs to other data" in capfd.readouterr().err


def test_verify_names_every_problem(corpus, tmp_path):
    dataset = prepare(text_data(corpus), tmp_path)
    flip(dataset.path / SHARD)
    (dataset.path / "tokenizer.json").unlink()
    (dataset.path / "notes").write_text("mine")
    missing, extra, damaged = dataset.verify()
    assert "tokenizer.json is missing" in missing
    assert "notes is not in the manifest" in extra
    assert SHARD in damaged and "sha256" in damaged


def test_work_of_a_killed_import_is_redone(corpus, tmp_path):
    first = prepare(text_data(corpus), tmp_path)
    partial = first.path.with_name(f"{first.path.name}.partial")
    first.path.rename(partial)
    (partial / "manifest.json").unlink()
    again = prepare(text_data(corpus), tmp_path)
    assert again.digest == first.digest and again.verify() == []
    assert list((tmp_path / "data").iterdir()) == [again.path]


def test_a_failed_import_leaves_nothing(corpus, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.Draft, "write_split", full)
    with pytest.raises(OSError, match="No space left on device"):
        prepare(text_data(corpus), tmp_path)
    assert not list((tmp_path / "data").iterdir())


def test_prepared_rows_as_a_source(corpus, tmp_path):
    made = prepare(text_data(corpus), tmp_path / "a")
    given = prepare(TextData(source=f"rows:{made.path}"), tmp_path / "b")
    assert given == made and not (tmp_path / "b").exists()
    flip(made.path / SHARD)
    with pytest.raises(BadInput, match="sha256"):
        prepare(TextData(source=f"rows:{made.path}"), tmp_path / "b")
    assert made.path.exists()
    with pytest.raises(BadInput, match="collapse import"):
        prepare(TextData(source=f"rows:{tmp_path}"), tmp_path / "b")


# --- what cannot work


@pytest.mark.parametrize(
    "change, message",
    [
        ({"row_length": 1}, "row_length=1"),
        ({"tokenizer": "bpe", "vocab_size": 256}, "vocab_size=256 is too small"),
        ({"validation": 0.5, "test": 0.5}, "nothing to train on"),
        ({"row_length": 2000}, "too little text"),
        ({"separator": "\n"}, "1 document"),
        ({"source": "text:/nowhere/x"}, "matches no file"),
        ({"source": "stories.txt"}, "not one of"),
    ],
)
def test_impossible_settings_are_one_line_and_write_no_data(corpus, tmp_path, change, message):
    store = tmp_path / "store"
    with pytest.raises(BadInput, match=message) as caught:
        prepare(text_data(corpus, **change), store)
    assert "\n" not in str(caught.value)
    assert not list(store.rglob("manifest.json"))


def test_a_store_that_cannot_be_written_is_one_line(corpus, tmp_path):
    (tmp_path / "data").write_text("a file in the way")
    with pytest.raises(BadInput, match=r"cannot write in .*; choose another"):
        prepare(text_data(corpus), tmp_path)


def test_settings_resolve_from_a_config():
    given: Any = template(TextData())
    assert resolve(TextData, given) == TextData()
    given.row_length, given.packing = 1, "loose"
    with pytest.raises(BadInput, match=r"row_length=1 .*packing='loose'"):
        resolve(TextData, given)
    with pytest.raises(BadInput, match="too small for bpe"):
        resolve(TextData, {"vocab_size": 100})


def test_manifest_is_plain_json(corpus, tmp_path):
    dataset = prepare(text_data(corpus), tmp_path)
    info = json.loads((dataset.path / datasets.MANIFEST).read_text())
    assert info == dataset.info and info["files"][SHARD]["rows"] == dataset.row_count("train")


@pytest.mark.skipif(not REAL.exists(), reason="tinystories data is not beside the repository")
def test_real_stories(tmp_path):
    data = TextData(source=f"text:{REAL}/train_2MiB.txt", vocab_size=2000, row_length=128)
    dataset = prepare(data, tmp_path)
    info = dataset.info
    assert info["vocab_size"] == 2000
    assert [info["splits"][s]["documents"] for s in ("train", "validation", "test")] == [1853, 232, 232]
    assert 3 < info["splits"]["test"]["bytes"] / info["splits"]["test"]["tokens"] < 5
    with dataset.rows("train") as source:
        text = dataset.tokenizer.decode(source.read(0, 50)["tokens"].reshape(-1))
    raw = (REAL / "train_2MiB.txt").read_text()
    for story in text.split("<|endoftext|>")[1:-1]:
        assert story in raw
