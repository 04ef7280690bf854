"""Text files: which files a path or pattern means, what a file is that is no text, where its documents end."""

import glob
import os
import re

from collapse_jax.config import BadInput
from collapse_jax.data.tokenizers import SEPARATOR

FEWEST = 10  # paragraphs or lines that may stand for documents: a tenth of them is one

MARKS = {
    "UTF-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"),
    "UTF-16": (b"\xff\xfe", b"\xfe\xff"),
}
"""Byte order marks, those that begin like another first."""

ZEROS = {"0111": "UTF-32LE", "1110": "UTF-32BE", "0101": "UTF-16LE", "1010": "UTF-16BE"}
"""Where among four bytes mostly Latin text has its zeros."""

UNPACK, OTHERWISE = "unpack it first", "give the text that it holds"
KINDS = {
    "a gzip archive": (rb"\x1f\x8b", UNPACK),
    "a compress archive": (rb"\x1f\x9d", UNPACK),
    "a zip archive or office document": (rb"PK(\x03\x04|\x05\x06)", UNPACK),
    "a bzip2 archive": (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", UNPACK),
    "an xz archive": (rb"\xfd7zXZ\0", UNPACK),
    "a zstd archive": (rb"\x28\xb5\x2f\xfd", UNPACK),
    "an lz4 archive": (rb"\x04\x22\x4d\x18", UNPACK),
    "a 7z archive": (rb"7z\xbc\xaf\x27\x1c", UNPACK),
    "a rar archive": (rb"Rar!\x1a\x07", UNPACK),
    "a tar archive": (rb"(?s).{257}ustar[\0 ]", UNPACK),
    "a PDF document": (rb"%PDF-\d", OTHERWISE),
    "a Parquet table": (rb"PAR1\x15", "read the folder it lies in with hf:DIR"),
    "an Arrow table": (rb"ARROW1\0", "read the folder it lies in with hf:DIR"),
    "an SQLite database": (rb"SQLite format 3\0", OTHERWISE),
    "an HDF5 file": (rb"\x89HDF\r\n", OTHERWISE),
    "a PNG picture": (rb"\x89PNG\r\n", OTHERWISE),
    "a JPEG picture": (rb"\xff\xd8\xff", OTHERWISE),
}
"""Files of other kinds: how they begin, and what to do about them."""


def paths(name: str) -> list[str]:
    """The files of a path as it stands, of all below a folder but hidden ones, or of a pattern, in name order."""
    whole = os.path.expanduser(name)
    if os.path.isfile(whole):
        return [whole]
    folder = os.path.isdir(whole)
    pattern = os.path.join(glob.escape(whole), "**", "*") if folder else whole
    matches = sorted(f for f in glob.glob(pattern, recursive=True) if os.path.isfile(f))
    if not matches:
        why = "has no file in it" if folder else "matches no file"
        raise BadInput(f"text:{name} {why}; check the path (quote the pattern in the shell)")
    return matches


def read(path: str) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises `BadInput` that says what else a file is."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    if other := _other_kind(raw):
        raise BadInput(f"{path} {other}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}; "
            "convert it (e.g. with iconv)"
        ) from error


def _other_kind(raw: bytes) -> str | None:
    """What bytes are, and what to do, where they are not 8-bit text."""
    for kind, (beginning, remedy) in KINDS.items():
        if re.match(beginning, raw):
            return f"is {kind}, not text; {remedy}"
    encoding = next((name for name, marks in MARKS.items() if raw.startswith(marks)), None)
    zeros = raw.count(0)
    if zeros and not encoding:
        encoding = ZEROS.get("".join(str(int(raw[i::4].count(0) * 8 > len(raw))) for i in range(4)))
    if encoding:
        return f"is {encoding}, not UTF-8; convert it: iconv -f {encoding} -t UTF-8"
    if zeros:
        return (
            f"holds {zeros:,} zero bytes, the first at offset {raw.index(0)}: it is a binary file, or text in "
            "UTF-16 or UTF-32; convert it to UTF-8"
        )
    return None


def documents(texts: list[str], separator: str) -> tuple[list[str], list[str]]:
    """The documents of some files, and notes on how they were told apart.

    separator: string between documents; \\n, \\t and \\r may be spelt out, and a line break is also one of Windows.
        A file without it is one document. Where no file has the usual separator and the files are too few to be
        split, paragraphs are the documents, or lines.
    """
    breaks = [re.split(_pattern(separator), text) if separator else [text] for text in texts]
    if any(len(parts) > 1 for parts in breaks) or separator != SEPARATOR or len(texts) > 2:
        # The line breaks around a separator belong to the file, not to its documents.
        return [p.strip() if len(parts) > 1 else p for parts in breaks for p in parts], []
    for pieces, pattern in (("paragraphs", r"\n\s*\n"), ("lines", r"\n")):
        found = [part.strip("\r\n") for text in texts for part in re.split(pattern, text)]
        found = [part for part in found if part.strip()]
        if len(found) >= FEWEST:
            return found, [
                f"the separator {separator!r} is nowhere in the text: its {len(found):,} {pieces} are the documents"
            ]
    return texts, []


def _pattern(separator: str) -> str:
    """A separator as a regular expression."""
    spelt = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}
    plain = re.sub(r"\\[ntr\\]", lambda match: spelt[match[0]], separator)
    return r"\r?\n".join(re.escape(part) for part in re.split(r"\r?\n", plain))
