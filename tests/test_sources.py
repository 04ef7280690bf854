"""Documents from each kind of source, and one clear line for each that cannot be read."""

import sys
import types
from pathlib import Path

import pytest

from collapse_jax.config import BadInput
from collapse_jax.data import sources

REAL = Path(__file__).parents[2] / "shared" / "data" / "tinystories"


def write(directory, **files):
    for name, content in files.items():
        path = directory / f"{name}.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"text:{directory}/*.txt"


def test_python_docs_are_real_english():
    documents = sources.documents("builtin:python_docs")
    assert len(documents) > 50
    assert 300_000 < sum(map(len, documents)) < 1_000_000
    assert any("The `if` statement" in d or 'The "if" statement' in d for d in documents)
    assert documents == sources.documents("builtin:python_docs")


def test_text_files_split_at_separators_or_are_one_document(tmp_path):
    source = write(
        tmp_path, b="one\n<|endoftext|>\ntwo\n\nlines\n<|endoftext|>\n \n<|endoftext|>", a="  whole\r\nfile\n"
    )
    assert sources.documents(source) == ["  whole\r\nfile\n", "one", "two\n\nlines"]
    assert sources.documents(source, separator="\n\n") == [
        "  whole\r\nfile\n",
        "one\n<|endoftext|>\ntwo",
        "lines\n<|endoftext|>\n \n<|endoftext|>",
    ]
    assert sources.documents(source, separator="")[1].startswith("one\n<|endoftext|>")


def test_glob_reaches_subdirectories(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write(tmp_path / "deep" / "er", x="below")
    write(tmp_path, y="above")
    assert sources.documents(f"text:{tmp_path}/**/*.txt") == ["below", "above"]


def test_non_utf8_names_file_and_offset(tmp_path):
    source = write(tmp_path, good="fine", latin="caf\xe9".encode("latin-1"))
    with pytest.raises(BadInput, match=r"latin\.txt is not UTF-8: byte 0xe9 at offset 3"):
        sources.documents(source)


@pytest.mark.parametrize("content", ["", " \n\t", "<|endoftext|>\n<|endoftext|>"])
def test_empty_text_is_refused(tmp_path, content):
    with pytest.raises(BadInput, match="no text"):
        sources.documents(write(tmp_path, a=content))


@pytest.mark.parametrize(
    "source, message",
    [
        ("text:/nowhere/*.txt", "matches no file"),
        ("python_docs", "not one of"),
        ("text:", "not one of"),
        ("builtin:novels", "builtin:python_docs"),
        ("csv:x", "not one of"),
        ("rows:/x", "prepared rows"),
        ("tfds:no_such_dataset_here", "cannot be read"),
    ],
)
def test_sources_that_do_not_exist_are_refused(source, message, tmp_path):
    with pytest.raises(BadInput, match=message) as caught:
        sources.documents(source, data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def prepared_tfds(tmp_path_factory):
    """A small TFDS dataset on disk, made and read without TensorFlow."""
    import tensorflow_datasets as tfds

    directory = tmp_path_factory.mktemp("tfds")

    class TinyStoriesOfTests(tfds.core.GeneratorBasedBuilder):
        """Six stories."""

        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {"author": tfds.features.Text(), "text": tfds.features.Text()}
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 6), "validation": self._generate_examples(6, 8)}

        def _generate_examples(self, first, last):
            for i in range(first, last):
                yield i, {"author": "nobody", "text": f"Story {i}: é."}

    TinyStoriesOfTests(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


@pytest.mark.parametrize(
    "name, expected",
    [
        ("tiny_stories_of_tests", range(6)),
        ("tiny_stories_of_tests:validation", range(6, 8)),
        ("tiny_stories_of_tests:1.2.0", range(6)),
        ("tiny_stories_of_tests:1.*.*:validation", range(6, 8)),
    ],
)
def test_tfds_without_tensorflow(prepared_tfds, name, expected):
    documents = sources.documents(f"tfds:{name}", data_dir=str(prepared_tfds))
    assert sorted(documents) == [f"Story {i}: é." for i in expected]
    assert documents == sources.documents(f"tfds:{name}", data_dir=str(prepared_tfds))
    assert "tensorflow" not in sys.modules


def test_tfds_missing_split_is_refused(prepared_tfds):
    with pytest.raises(BadInput, match="'nights'"):
        sources.documents("tfds:tiny_stories_of_tests:nights", data_dir=str(prepared_tfds))


def fake_datasets(monkeypatch, features, rows):
    class Rows(list):
        features: dict

    def load_dataset(name, split, cache_dir):
        if name != "someone/stories":
            raise FileNotFoundError(f"{name}\nis not on the hub")
        made = Rows(rows)
        made.features = {key: types.SimpleNamespace(dtype=dtype) for key, dtype in features.items()}
        calls.append((name, split, cache_dir))
        return made

    calls: list[tuple] = []
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_hf_reads_the_text_column(monkeypatch):
    calls = fake_datasets(
        monkeypatch, {"title": "string", "text": "string"}, [{"title": "t", "text": "a"}, {"text": "b"}]
    )
    assert sources.documents("hf:someone/stories:validation", data_dir="cache") == ["a", "b"]
    assert sources.documents("hf:someone/stories") == ["a", "b"]
    assert calls == [("someone/stories", "validation", "cache"), ("someone/stories", "train", None)]


def test_hf_falls_back_to_the_first_string_column(monkeypatch):
    fake_datasets(monkeypatch, {"id": "int64", "story": "string"}, [{"id": 1, "story": "once"}])
    assert sources.documents("hf:someone/stories") == ["once"]


def test_hf_failures_are_one_line(monkeypatch):
    fake_datasets(monkeypatch, {"id": "int64"}, [{"id": 1}])
    with pytest.raises(BadInput, match="no text feature"):
        sources.documents("hf:someone/stories")
    with pytest.raises(BadInput, match="is not on the hub"):
        sources.documents("hf:someone/else")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match="extra 'hf'"):
        sources.documents("hf:someone/stories")


@pytest.mark.skipif(not REAL.exists(), reason="tinystories data is not beside the repository")
def test_real_stories():
    documents = sources.documents(f"text:{REAL}/train_2MiB.txt")
    assert len(documents) == 2317  # 2,316 whole stories and one cut off
    assert documents[0].startswith("One day, a little girl named Lily found a needle in her room.")
