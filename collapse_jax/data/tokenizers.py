"""Tokenizers: bytes and byte-level BPE, lossless on any text, with one separator id between documents.

An id stands for a piece of bytes, so decoding is joining pieces; ids that join into bytes that are no UTF-8
(a sampler may produce them) show as U+FFFD.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax.config import BadInput

SEPARATOR = "<|endoftext|>"
MIN_BPE = 257
LONGEST = 128  # bytes of a word that merges may join: without a bound they take quadratic time on text without blanks


class Tokenizer:
    """What both tokenizers share.

    pieces: the bytes of each id; the separator shows as `<|endoftext|>` but stands for no bytes of text.
    """

    pieces: list[bytes]
    separator_id: int

    @property
    def vocab_size(self) -> int:
        """Number of ids, the separator included."""
        return len(self.pieces)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: UTF-8 bytes of text each id stands for; 0 for the separator."""
        sizes = np.array([len(piece) for piece in self.pieces], np.int32)
        sizes[self.separator_id] = 0
        return sizes

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text, without separators."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text of ids; separators show as `<|endoftext|>`."""
        pieces = b"".join([self.pieces[int(i)] for i in np.asarray(ids).reshape(-1)])
        return pieces.decode("utf-8", errors="replace")

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`."""
        raise NotImplementedError


class ByteTokenizer(Tokenizer):
    """Ids 0-255 are bytes, 256 is the separator."""

    def __init__(self) -> None:
        self.pieces = [bytes([i]) for i in range(256)] + [SEPARATOR.encode()]
        self.separator_id = 256

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"type": "bytes"}) + "\n")


class BPETokenizer(Tokenizer):
    """Byte-level BPE (Sennrich et al. 2016, over bytes as in GPT-2) through the `tokenizers` library.

    Id 0 is the separator, then come the 256 bytes, then the merges.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        # A document that spells out the separator must not end there.
        backend.encode_special_tokens = True
        byte_of = {char: byte for byte, char in enumerate(_byte_characters())}
        vocabulary = sorted(backend.get_vocab().items(), key=lambda item: item[1])
        self.separator_id = backend.token_to_id(SEPARATOR)
        self.pieces = [
            SEPARATOR.encode() if i == self.separator_id else bytes(byte_of[c] for c in piece)
            for piece, i in vocabulary
        ]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learn merges from texts: exactly `vocab_size` ids unless pairs seen twice run out first.

        Raises `BadInput` when the 256 bytes and the separator do not fit.
        """
        from tokenizers import Tokenizer as Backend
        from tokenizers import models, pre_tokenizers, trainers

        if vocab_size < MIN_BPE:
            raise BadInput(
                f"vocab_size={vocab_size} is too small for bpe: 256 bytes and a separator need {MIN_BPE}"
            )
        backend = Backend(models.BPE())
        words = [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.FixedLength(LONGEST)]
        backend.pre_tokenizer = pre_tokenizers.Sequence(words)  # type: ignore[assignment]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[SEPARATOR],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def save(self, path: Path) -> None:
        path.write_text(self._backend.to_str(pretty=False) + "\n", encoding="utf-8")


def load(path: Path) -> Tokenizer:
    """Read `tokenizer.json`. Raises `BadInput` when it is no tokenizer."""
    try:
        given = path.read_text(encoding="utf-8")
        if json.loads(given).get("type") == "bytes":
            return ByteTokenizer()
        from tokenizers import Tokenizer as Backend

        return BPETokenizer(Backend.from_str(given))
    except Exception as error:  # the library raises bare Exceptions
        raise BadInput(f"tokenizer {path} cannot be read ({' '.join(str(error).split())[:100]})") from error


def _byte_characters() -> str:
    """The printable character that GPT-2's vocabulary files write for each byte 0-255."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    characters = {byte: chr(byte) for byte in shown} | {b: chr(256 + k) for k, b in enumerate(hidden)}
    return "".join(characters[byte] for byte in range(256))
