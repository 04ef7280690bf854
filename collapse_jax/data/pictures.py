"""Pictures: from encoded files or arrays to uint8 pixels [H, W, C], C = 1 or 3, of a wanted size and colouring.

What cannot be used raises `ValueError` with the end of a sentence ("is damaged (...)"); who knows where the
picture came from puts that before it.
"""

import contextlib
import functools
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
GREY = ("1", "L", "LA", "I")  # and 16-bit variants of the last
COLOUR, FRAMES = "three channels", "several frames"  # traits of pictures
FAINTEST = 16  # whole numbers up to it (scikit-learn's digits) are levels of their own, of which the largest is white

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
"""What sources call splits, and what they are called here."""

HELD_OUT = {name: split for name, split in SPLIT_NAMES.items() if split != "train"}


def split_of(name: str) -> str:
    """The split that a name such as Train, val2017, test_set or training-images stands for, "" where for none."""
    match = re.fullmatch(r"([a-z]+?)[-_ ]?(?:set|data|split|images|imgs|\d+)?", name.lower())
    return SPLIT_NAMES.get(match[1], "") if match else ""


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


class Codec(Protocol):
    """How the bytes of a picture become pixels."""

    def traits(self, content: bytes) -> set[str]:
        """Which of `COLOUR` and `FRAMES` a picture has, without decoding all of it. Raises `ValueError`."""
        ...

    def pixels(self, content: bytes) -> np.ndarray:
        """uint8 [H, W, C], C = 3 where it has `COLOUR`, else 1. Raises `ValueError`."""
        ...


@dataclass(frozen=True)
class Plain:
    """The bytes are the pixels of a picture of this shape [H, W, C]."""

    shape: tuple[int, int, int]

    def traits(self, content: bytes) -> set[str]:
        return {COLOUR} if self.shape[2] == 3 else set()

    def pixels(self, content: bytes) -> np.ndarray:
        return np.frombuffer(content, np.uint8).reshape(self.shape)


@dataclass(frozen=True)
class Encoded:
    """Files of `FORMATS` in any mode of whole numbers, at most `Image.MAX_IMAGE_PIXELS` large.

    Upright, over white where transparent, the first of several frames.
    """

    def traits(self, content: bytes) -> set[str]:
        with _opened(content) as image:
            found = set() if image.mode.startswith(GREY) else {COLOUR}
            # Cameras put previews beside a JPEG, which make it an MPO.
            several = image.format != "MPO" and getattr(image, "n_frames", 1) > 1
            return found | {FRAMES} if several else found

    def pixels(self, content: bytes) -> np.ndarray:
        with _opened(content) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode == "F":
                raise ValueError("its pixels are fractions")
            if image.mode.startswith("I"):  # 16 bits of grey
                deep_HW = np.asarray(image).astype(np.int64)
                if deep_HW.min() < 0 or deep_HW.max() >= 1 << 16:
                    raise ValueError("its pixels have more than 16 bits")
                grey_HW = (deep_HW + 128) // 257
                return grey_HW.astype(np.uint8)[..., None]
            mode = "L" if image.mode.startswith(GREY) else "RGB"
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            pixels = np.asarray(image.convert(mode))
            return pixels[..., None] if mode == "L" else pixels


@dataclass(frozen=True)
class Pictures:
    """The pictures of a source, by number.

    read: number -> (bytes of the picture for `codec`, its class or -1). where: number -> what to call it.
    classes: names of the classes, () where there are none.
    held_out: for each picture the split that the source holds it out for, "" where it does not.
    names, groups: for each picture its name, and what it is a variant of, where the source says so.
    about: title -> words on what was taken from the source.
    notes: sentences on what was understood of the source and what of it was left out.
    """

    count: int
    codec: Codec
    read: Callable[[int], tuple[bytes, int]]
    where: Callable[[int], str]
    classes: tuple[str, ...]
    held_out: Sequence[str]
    names: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def without_classes(self) -> "Pictures":
        return replace(self, classes=(), read=lambda i: (self.read(i)[0], -1))


@functools.cache
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow reads."""
    Image.init()
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_opened` refuses what it warns of
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def suffixes() -> frozenset[str]:
    """What the names of files of these formats end with, in lower case."""
    return frozenset(end for end, name in Image.registered_extensions().items() if name in formats())


def _without_text(content: bytes) -> bytes:
    """A PNG file without texts and colour profile, which Pillow refuses when they are long, if rightly so.

    Those texts stay in which some programs say which side is up.
    """
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    parts, at = [content[:8]], 8
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4])
        upright = content.startswith((b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"), at + 8)
        if upright or content[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            parts.append(content[at:end])
        at = end
    return b"".join(parts)


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(_without_text(content)), formats=formats()) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise ValueError(f"{image.height:,} x {image.width:,} pixels may be a decompression bomb")
            yield image
    except UnidentifiedImageError as error:
        raise ValueError("is no PNG, JPEG, WebP, BMP, GIF or TIFF picture, or damaged") from error
    except Exception as error:  # Pillow raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"cannot be decoded ({reason or type(error).__name__})") from error


def numbers(array_NHW: np.ndarray) -> np.ndarray:
    """[N, H, W, C] of pictures in an array [N, H, W] or [N, H, W, C], C = 1, 3 or 4 (the last: opacity)."""
    array = array_NHW[..., None] if array_NHW.ndim == 3 else array_NHW
    if array.ndim != 4 or array.shape[3] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(
            f"has shape {list(array_NHW.shape)}; pictures are [N, H, W] or [N, H, W, C] with C = 1, 3 or 4"
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(f"has type {array.dtype}; pictures are numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = int(np.flatnonzero(~np.isfinite(array).all((1, 2, 3)))[0])
        raise ValueError(f"is not finite in picture {first}; mend or remove it")
    return array


def white_level(arrays: Sequence[np.ndarray]) -> int:
    """The value that is white in the arrays of a source, of `numbers`; 0 is black.

    255 for whole numbers, but the largest of them where none is above `FAINTEST`; 1 for fractions. What is stored
    as numbers from 0 to 1 or as booleans gives the same pictures whatever its type.
    """
    low, high = min(a.min() for a in arrays), max(a.max() for a in arrays)
    fractions = any(a.dtype.kind == "f" and (a != np.rint(a)).any() for a in arrays)
    if low < 0 or high > (1 if fractions else 255):
        raise ValueError(
            f"holds values from {low:g} to {high:g}; pictures are whole 0..255 or between 0 and 1"
        )
    return 1 if fractions else max(int(high), 1) if high <= FAINTEST else 255


def pixels(array_NHWC: np.ndarray, white: int) -> np.ndarray:
    """uint8 [N, H, W, C] of `numbers`, C = 1 or 3, opaque over white."""
    if white != 255:
        array_NHWC = np.rint(array_NHWC.astype(np.float32) * (255 / white))
    pixels_NHWC = array_NHWC.astype(np.uint8, copy=False)
    if pixels_NHWC.shape[3] == 4:
        opacity = pixels_NHWC[..., 3:] / np.float32(255)
        pixels_NHWC = np.rint(pixels_NHWC[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return pixels_NHWC


def fitted(pixels_HWC: np.ndarray, size: int, channels: int, fit: str) -> np.ndarray:
    """uint8 [size, size, channels] (or [H, W, channels] for size 0) of a picture.

    fit: "crop" takes the middle square and resizes it (Lanczos), "pad" surrounds the picture with its edge.
    Grey is ITU-R 601 luma.
    """
    if channels < pixels_HWC.shape[2]:
        pixels_HWC = np.asarray(Image.fromarray(pixels_HWC).convert("L"))[..., None]
    height, width = pixels_HWC.shape[:2]
    if size and (height, width) != (size, size):
        pixels_HWC = _padded(pixels_HWC, size) if fit == "pad" else _cropped(pixels_HWC, size)
    return np.repeat(pixels_HWC, channels, 2) if channels > pixels_HWC.shape[2] else pixels_HWC


def _padded(pixels_HWC: np.ndarray, size: int) -> np.ndarray:
    height, width = pixels_HWC.shape[:2]
    if max(height, width) > size:
        raise ValueError(f"is {height} x {width} pixels, too large to be padded to {size}; use fit=crop")
    top, left = (size - height) // 2, (size - width) // 2
    return np.pad(pixels_HWC, ((top, size - height - top), (left, size - width - left), (0, 0)), "edge")


def _cropped(pixels_HWC: np.ndarray, size: int) -> np.ndarray:
    height, width, channels = pixels_HWC.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels_HWC[top : top + side, left : left + side]
    image = Image.fromarray(square[..., 0] if channels == 1 else square)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)).reshape(size, size, channels)
