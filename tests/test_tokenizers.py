"""Tokenizers: lossless on any text, deterministic, and honest about sizes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_jax.config import BadInput
from collapse_jax.data import tokenizers

TRAIN = [
    "the cat sat on the mat, the cat sat. " * 3,
    "déjà vu: the naïve café",
    "numbers 1234 and 1234\n\n\tend",
    "the end of the cat and the mat",
]
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.BPETokenizer.train(TRAIN, 270)


@pytest.fixture(params=["bytes", "bpe"])
def tokenizer(request, bpe):
    return tokenizers.ByteTokenizer() if request.param == "bytes" else bpe


@given(texts=st.lists(ANY_TEXT, max_size=4))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_round_trip_of_any_text(bpe, kind, texts):
    tokenizer = tokenizers.ByteTokenizer() if kind == "bytes" else bpe
    encoded = tokenizer.encode(texts)
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    for text, ids in zip(texts, encoded, strict=True):
        assert ids.dtype == np.int32
        assert tokenizer.separator_id not in ids
        assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@pytest.mark.parametrize(
    "text", ["a<|endoftext|>b", " leading", "two  spaces", "\r\n\u2028\x00", "👩‍👩‍👧 مرحبا", "é e\u0301", ""]
)
def test_round_trip_of_awkward_text(tokenizer, text):
    ids = tokenizer.encode([text])[0]
    assert tokenizer.decode(ids) == text
    assert tokenizer.separator_id not in ids


def test_separator_shows_but_counts_no_bytes(tokenizer):
    ids = np.array([*tokenizer.encode(["ab"])[0], tokenizer.separator_id, *tokenizer.encode(["c"])[0]])
    assert tokenizer.decode(ids) == "ab<|endoftext|>c"
    assert tokenizer.token_bytes[tokenizer.separator_id] == 0
    assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,)


def test_invalid_utf8_decodes_to_replacement_characters(tokenizer):
    ids = tokenizer.encode(["é"])[0]
    ids = ids if len(ids) > 1 else np.array([tokenizer.pieces.index(b"\xc3")])
    assert tokenizer.decode(ids[:1]) == "\ufffd"


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    again = tokenizers.load(path)
    json.loads(path.read_text(encoding="utf-8"))
    assert again.pieces == tokenizer.pieces and again.separator_id == tokenizer.separator_id
    text = "the cat <|endoftext|> sat"
    assert again.encode([text])[0].tolist() == tokenizer.encode([text])[0].tolist()


def test_bpe_learns_exactly_the_vocabulary_the_text_allows(bpe):
    assert bpe.vocab_size == 270
    assert len(bpe.encode(["the cat sat"])[0]) < len("the cat sat")
    assert tokenizers.BPETokenizer.train(TRAIN, 257).vocab_size == 257
    assert 257 < tokenizers.BPETokenizer.train(TRAIN, 5000).vocab_size < 5000


def test_first_bpe_merge_is_the_most_frequent_pair():
    tokenizer = tokenizers.BPETokenizer.train(["xyxyxyab"], 258)
    assert tokenizer.pieces[257] == b"xy"


@pytest.mark.parametrize("text", ["ab" * 3000, "x" * 3000, "狐狸" * 800, " " * 3000 + "end"])
def test_runs_without_blanks_are_cut_for_merges_and_come_back_whole(text, tmp_path):
    tokenizer = tokenizers.BPETokenizer.train([text, *TRAIN], 300)
    assert max(map(len, tokenizer.pieces)) <= tokenizers.LONGEST
    tokenizer.save(tmp_path / "tokenizer.json")
    for made in (tokenizer, tokenizers.load(tmp_path / "tokenizer.json")):
        assert made.decode(made.encode([text])[0]) == text


def test_byte_ids_are_bytes():
    tokenizer = tokenizers.ByteTokenizer()
    assert tokenizer.vocab_size == 257
    assert tokenizer.encode(["é!"])[0].tolist() == list("é!".encode())


def test_bpe_does_not_depend_on_the_process(bpe, tmp_path):
    code = (
        f"from collapse_jax.data import tokenizers; from pathlib import Path\n"
        f"tokenizers.BPETokenizer.train({TRAIN!r}, 270).save(Path({str(tmp_path / 't.json')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    bpe.save(tmp_path / "here.json")
    assert (tmp_path / "t.json").read_bytes() == (tmp_path / "here.json").read_bytes()


def test_bad_tokenizers_are_refused(tmp_path):
    with pytest.raises(BadInput, match="257"):
        tokenizers.BPETokenizer.train(TRAIN, 256)
    path = tmp_path / "tokenizer.json"
    for content in ("", "[]", "{}", '{"type": "bytes"'):
        path.write_text(content)
        with pytest.raises(BadInput, match=r"tokenizer\.json"):
            tokenizers.load(path)
    with pytest.raises(BadInput, match=r"absent\.json"):
        tokenizers.load(tmp_path / "absent.json")
