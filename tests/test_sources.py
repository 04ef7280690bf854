"""Documents from each kind of source, and one clear line for each that cannot be read."""

import bz2
import gzip
import io
import lzma
import sys
from pathlib import Path

import numpy as np
import pytest

from collapse_jax.config import BadInput
from collapse_jax.data import columns, sources, text_files, tfds

REAL = Path(__file__).parents[2] / "shared" / "data"


def texts(source, **settings):
    return sources.documents(source, **settings).texts


def write(directory, **files):
    for name, content in files.items():
        path = directory / f"{name}.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"text:{directory}/*.txt"


def test_python_docs_are_real_english():
    documents = texts("builtin:python_docs")
    assert len(documents) > 50
    assert 300_000 < sum(map(len, documents)) < 1_000_000
    assert any("The `if` statement" in d or 'The "if" statement' in d for d in documents)
    assert documents == texts("builtin:python_docs")


# --- text files


def test_text_files_split_at_separators_or_are_one_document(tmp_path):
    source = write(
        tmp_path, b="one\n<|endoftext|>\ntwo\n\nlines\n<|endoftext|>\n \n<|endoftext|>", a="  whole\r\nfile\n"
    )
    assert texts(source) == ["  whole\r\nfile\n", "one", "two\n\nlines"]
    assert texts(source, separator="\n\n") == [
        "  whole\r\nfile\n",
        "one\n<|endoftext|>\ntwo",
        "lines\n<|endoftext|>\n \n<|endoftext|>",
    ]
    assert texts(source, separator="")[1].startswith("one\n<|endoftext|>")


@pytest.mark.parametrize(
    "separator, text",
    [
        ("\n\n", "one\n\ntwo\n\nthree"),
        (r"\n\n", "one\n\ntwo\n\nthree"),
        (r"\n\n", "one\r\n\r\ntwo\r\n\r\nthree\r\n"),
        ("\r\n", "one\ntwo\nthree"),
        (r"\t", "one\ttwo\tthree"),
        (r"\\n", r"one\ntwo\nthree"),
        ("(.)", "one(.)two(.)three"),
    ],
)
def test_separators_of_line_breaks(tmp_path, separator, text):
    assert texts(write(tmp_path, a=text), separator=separator) == ["one", "two", "three"]


def test_text_without_separators_is_split_into_paragraphs_or_lines(tmp_path):
    speeches = [f"  Fox {i}:\nwhat now?" for i in range(12)]
    for breaks, place in (("\n\n", "unix"), ("\r\n \r\n", "windows")):
        (tmp_path / place).mkdir()
        corpus = sources.documents(write(tmp_path / place, a=breaks.join(speeches) + breaks))
        assert corpus.texts == speeches
        assert corpus.notes == [
            "the separator '<|endoftext|>' is nowhere in the text: its 12 paragraphs are the documents"
        ]
    lines = [f"name {i}" for i in range(30)]
    corpus = sources.documents(write(tmp_path, a="\n".join(lines)))
    assert corpus.texts == lines and "30 lines" in corpus.notes[0]
    # one document stays one where it is too short to be split, and where its separator was chosen
    assert texts(write(tmp_path, a="\n".join(lines[:9]))) == ["\n".join(lines[:9])]
    assert texts(write(tmp_path, a="\n\n".join(speeches)), separator="###") == ["\n\n".join(speeches)]
    assert len(texts(write(tmp_path, a="x\n" * 20, b="y\n" * 20, c="z\n" * 20))) == 3


def test_a_path_that_exists_is_no_pattern(tmp_path):
    folder = tmp_path / "data [v2]"
    (folder / "deep").mkdir(parents=True)
    write(folder, a="in brackets", **{".hidden": "no"})
    write(folder / "deep", b="below")
    assert texts(f"text:{folder}/a.txt") == ["in brackets"]
    assert texts(f"text:{folder}") == ["in brackets", "below"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="has no file in it"):
        texts(f"text:{tmp_path}/empty")


def test_glob_reaches_subdirectories(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write(tmp_path / "deep" / "er", x="below")
    write(tmp_path, y="above")
    assert texts(f"text:{tmp_path}/**/*.txt") == ["below", "above"]


def test_byte_order_mark_is_no_text(tmp_path):
    source = write(tmp_path, a="one\n<|endoftext|>\ntwo".encode("utf-8-sig"), b=b"\xef\xbb\xbf")
    assert texts(source) == ["one", "two"]


OTHERS = {
    "UTF-16, not UTF-8; convert it: iconv -f UTF-16 ": "fox".encode("utf-16"),
    "UTF-32, not UTF-8": "fox".encode("utf-32"),
    "UTF-16BE": "the quick fox".encode("utf-16-be"),
    "UTF-16LE": "the quick fox".encode("utf-16-le"),
    "UTF-32BE": "the quick fox".encode("utf-32-be"),
    "UTF-32LE": "the quick fox".encode("utf-32-le"),
    "2 zero bytes, the first at offset 3": b"fox\0hare\0" + b"." * 50,
    "gzip archive": gzip.compress(b"fox"),
    "zip archive": b"PK\x03\x04....",
    "bzip2": bz2.compress(b"fox"),
    "xz archive": lzma.compress(b"fox"),
    "zstd archive": b"\x28\xb5\x2f\xfd fox",
    "tar archive": b"fox.txt".ljust(257, b"\0") + b"ustar\x0000",
    "PDF document": b"%PDF-1.7 fox",
    "Parquet table, not text; read the folder it lies in with hf:DIR": b"PAR1\x15 fox PAR1",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_text_is_named(tmp_path, kind):
    with pytest.raises(BadInput, match=r"a\.txt ") as caught:
        texts(write(tmp_path, a=OTHERS[kind]))
    assert kind in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["BZhang met a fox", "PK is short for player", "PAR1 was", "Rar! he said", "7z"]
)
def test_text_that_begins_like_an_archive_is_text(tmp_path, text):
    assert texts(write(tmp_path, a=text)) == [text]


def test_non_utf8_names_file_and_offset(tmp_path):
    source = write(tmp_path, good="fine", latin="caf\xe9".encode("latin-1"))
    with pytest.raises(BadInput, match=r"latin\.txt is not UTF-8: byte 0xe9 at offset 3"):
        texts(source)


@pytest.mark.parametrize("content", ["", " \n\t", "<|endoftext|>\n<|endoftext|>"])
def test_empty_text_is_refused(tmp_path, content):
    with pytest.raises(BadInput, match="no text"):
        texts(write(tmp_path, a=content))


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
        texts(source, data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


# --- tables


@pytest.mark.parametrize(
    "there, name, expected",
    [
        ("url title text id", "", "text"),
        ("url document content", "", "content"),
        ("story", "", "story"),
        ("url text", "url", "url"),
        ("", "", None),
        ("url title", "", "several text columns (title, url); name one with config.data.column"),
        ("url text", "story", "config.data.column='story' is no text column of hf:x; those are: text, url"),
        ("", "story", "those are: none"),
    ],
)
@pytest.mark.parametrize("turned", [1, -1])
def test_the_column_that_is_read(there, name, expected, turned):
    def choose():
        return columns.choose(
            "hf:x", "text", there.split()[::turned], columns.TEXT, name, "config.data.column"
        )

    if expected is None or " " not in expected:
        assert choose() == expected
    else:
        with pytest.raises(BadInput) as caught:
            choose()
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("a", ("a", "train")),
        ("a/b:test", ("a/b", "test")),
        ("a:1.0.0", ("a:1.0.0", "train")),
        ("a:1.*.*:train[:50%]", ("a:1.*.*", "train[:50%]")),
        ("a:train[:5]+test[5:10]", ("a", "train[:5]+test[5:10]")),
    ],
)
def test_name_and_split(name, expected):
    assert tfds.name_and_split(name) == expected


def test_a_missing_module_is_named_with_what_installs_it():
    def line(module):
        try:
            try:
                raise ModuleNotFoundError(f"No module named {module!r}", name=module)
            except ModuleNotFoundError as error:
                raise RuntimeError("Failed to construct dataset") from error
        except RuntimeError as error:
            return tfds.unreadable("tfds:mnist", error)

    assert line("importlib_resources").endswith("pip install 'collapse_jax[tfds]'")
    assert line("pandas.core").endswith("module pandas.core; pip install 'collapse_jax[tfds]'")
    assert line("tensorflow.io").endswith("pip install tensorflow")


# --- TFDS and Hugging Face


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
                {
                    "author": tfds.features.Text(),
                    "text": tfds.features.Text(),
                    "number": np.int32,
                    "cover": tfds.features.Image(shape=(2, 2, 1)),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 6), "validation": self._generate_examples(6, 8)}

        def _generate_examples(self, first, last):
            for i in range(first, last):
                cover = io.BytesIO(b"no picture: never decoded")
                yield i, {"author": f"nobody {i}", "text": f"Story {i}: é.", "number": i, "cover": cover}

    TinyStoriesOfTests(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


@pytest.mark.parametrize(
    "name, expected",
    [
        ("tiny_stories_of_tests", range(6)),
        ("tiny_stories_of_tests:validation", range(6, 8)),
        ("tiny_stories_of_tests:1.2.0", range(6)),
        ("tiny_stories_of_tests:1.*.*:validation", range(6, 8)),
        ("tiny_stories_of_tests:train+validation", range(8)),
    ],
)
def test_tfds_without_tensorflow(prepared_tfds, name, expected):
    corpus = sources.documents(f"tfds:{name}", data_dir=str(prepared_tfds))
    assert sorted(corpus.texts) == [f"Story {i}: é." for i in expected]
    assert corpus == sources.documents(f"tfds:{name}", data_dir=str(prepared_tfds))
    assert corpus.about == {"column": "text"}
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    "split, rows", [("train[:50%]", 3), ("train[2:4]", 2), ("train[:1]+validation[:1]", 2)]
)
def test_tfds_slices(prepared_tfds, split, rows):
    assert len(texts(f"tfds:tiny_stories_of_tests:{split}", data_dir=str(prepared_tfds))) == rows


def test_tfds_reads_the_column_that_is_named_and_no_picture(prepared_tfds, monkeypatch):
    from tensorflow_datasets.core.features import image_feature

    monkeypatch.setattr(image_feature.Image, "decode_example_np", lambda *_: pytest.fail("decoded"))
    corpus = sources.documents("tfds:tiny_stories_of_tests", data_dir=str(prepared_tfds), column="author")
    assert sorted(corpus.texts) == [f"nobody {i}" for i in range(6)]
    for column in ("number", "absent"):
        with pytest.raises(BadInput, match=r"is no text column .* those are: author, text"):
            sources.documents("tfds:tiny_stories_of_tests", data_dir=str(prepared_tfds), column=column)


def test_tfds_missing_split_is_refused(prepared_tfds):
    with pytest.raises(BadInput, match="'nights'"):
        texts("tfds:tiny_stories_of_tests:nights", data_dir=str(prepared_tfds))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Folders of tables as people keep them, and where Hugging Face may put its files."""
    pytest.importorskip("datasets")
    import pyarrow as pa
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("hub")
    stories = [f"story {i} of the fox" for i in range(12)]
    tables = {
        "nulls/train": {
            "text": [None if i % 4 == 0 else "" if i == 5 else text for i, text in enumerate(stories)]
        },
        "large/train": {"text": pa.array(stories, pa.large_string()), "id": list(range(12))},
        "view/train": {"text": pa.array(stories, pa.string_view())},
        "ids/train": {"id": [f"doc-{i}" for i in range(12)], "url": ["u"] * 12, "content": stories},
        "open/train": {"id": [f"doc-{i}" for i in range(12)], "url": ["u"] * 12, "number": list(range(12))},
        "numbers/train": {"number": list(range(12))},
        "parts/train": {"text": stories},
        "parts/test": {"text": [f"test {text}" for text in stories]},
        "several/small": {"text": ["small " + text for text in stories]},
        "several/big": {"text": ["big " + text for text in stories]},
    }
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(pa.table(table), path)
    entries = "".join(f"- config_name: {n}\n  data_files: {n}.parquet\n" for n in ("small", "big"))
    (folder / "several" / "README.md").write_text(f"---\nconfigs:\n{entries}---\n")

    def read(name: str, column: str = "") -> sources.Corpus:
        return sources.documents(f"hf:{folder}/{name}", data_dir=str(folder / "cache"), column=column)

    return read


STORIES = [f"story {i} of the fox" for i in range(12)]


@pytest.mark.parametrize(
    "name, column, expected",
    [
        ("large", "", STORIES),
        ("view", "", STORIES),
        ("ids", "", STORIES),
        ("ids", "id", [f"doc-{i}" for i in range(12)]),
        ("parts:test", "", [f"test {text}" for text in STORIES]),
        ("parts:train[:50%]", "", STORIES[:6]),
        ("parts:train[5:10]", "", STORIES[5:10]),
        ("parts:train[:2]+test[:1]", "", [*STORIES[:2], f"test {STORIES[0]}"]),
        ("several:small:train", "", [f"small {text}" for text in STORIES]),
        ("several:big:train[:2]", "", [f"big {text}" for text in STORIES[:2]]),
    ],
)
def test_hf_columns_slices_and_configurations(hub, name, column, expected):
    corpus = hub(name, column)
    assert corpus.texts == expected and corpus.notes == []
    assert corpus.about == {"column": column or ("content" if name == "ids" else "text")}


def test_hf_nulls_are_left_out_and_counted(hub):
    corpus = hub("nulls")
    assert corpus.texts == [text for i, text in enumerate(STORIES) if i % 4 and i != 5]
    assert corpus.notes == [
        "rows left out because column 'text' is null: 3",
        "rows left out because column 'text' is empty: 1",
    ]


@pytest.mark.parametrize(
    "name, message",
    [
        ("open", r"several text columns \(id, url\); name one with config\.data\.column"),
        ("numbers", "no text column"),
        ("several", r"'small', 'big'.*hf:NAME:CONFIGURATION:SPLIT"),
        ("several:small", "hf:NAME:CONFIGURATION:SPLIT"),
        ("several:small:train:x", "1 colons too many"),
        ("parts:nights", "nights"),
        ("absent", "cannot be loaded"),
    ],
)
def test_hf_failures_are_one_line(hub, name, message):
    with pytest.raises(BadInput, match=message) as caught:
        hub(name)
    assert "\n" not in str(caught.value)


def test_hf_without_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match="extra 'hf'"):
        texts("hf:someone/stories")


@pytest.mark.skipif(not REAL.exists(), reason="real data is not beside the repository")
def test_real_stories_and_plays():
    documents = texts(f"text:{REAL}/tinystories/train_2MiB.txt")
    assert len(documents) == 2317  # 2,316 whole stories and one cut off
    assert documents[0].startswith("One day, a little girl named Lily found a needle in her room.")
    plays = text_files.documents([text_files.read(f"{REAL}/tinyshakespeare/input.txt")], "<|endoftext|>")[0]
    assert len(plays) == 7222 and plays[0].startswith("First Citizen:\nBefore we proceed")
