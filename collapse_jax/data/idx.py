"""The IDX format of MNIST: a magic number with type and rank, the lengths of the axes, then the bytes.

http://yann.lecun.com/exdb/mnist gives it; only its unsigned bytes are read here.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from collapse_jax.config import BadInput

UBYTE = 0x08


def read(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file, gzipped or not. Raises `BadInput`."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else open(path, "rb") as file:
            magic = file.read(4)
            rank = _rank(magic, path)
            header = file.read(4 * rank)
            if len(header) < 4 * rank:
                raise BadInput(f"{path} ends within its header; fetch it again")
            shape = struct.unpack(f">{rank}I", header)
            size = math.prod(shape)
            # Not more is read than there should be: a small gzip file may hold terabytes of zeros.
            content = file.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path} is damaged ({error}); fetch it again") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) != size:
        found = f"{len(content):,}" if len(content) < size else "more"
        raise BadInput(
            f"{path} is damaged: {found} bytes where its header says {list(shape)}; fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _rank(magic: bytes, path: Path) -> int:
    if len(magic) < 4 or magic[:2] != b"\0\0" or not magic[3]:
        raise BadInput(f"{path} is no IDX file (it begins with {magic.hex(' ') or 'nothing'}); give another")
    if magic[2] != UBYTE:
        raise BadInput(
            f"{path} holds numbers of IDX type 0x{magic[2]:02x}; only unsigned bytes (0x08) are read"
        )
    return magic[3]
