"""Pictures: from encoded files or arrays to uint8 pixels [H, W, C], C = 1 or 3, of a wanted size and colouring.

What cannot be used raises `ValueError` with the end of a sentence ("is damaged (...)"); who knows where the
picture came from puts that before it.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG")
GREY = ("1", "L", "LA", "I")  # and 16-bit variants of the last


HELD_OUT = {"validation": "validation", "val": "validation", "valid": "validation", "test": "test"}
"""What sources call the splits that they hold out, and what they are called here."""


class Codec(Protocol):
    """How the bytes of a picture become pixels."""

    def colour(self, content: bytes) -> bool:
        """Whether a picture has three channels, without decoding all of it. Raises `ValueError`."""
        ...

    def pixels(self, content: bytes) -> np.ndarray:
        """uint8 [H, W, C], C = 3 where `colour`, else 1. Raises `ValueError`."""
        ...


@dataclass(frozen=True)
class Plain:
    """The bytes are the pixels of a picture of this shape [H, W, C]."""

    shape: tuple[int, int, int]

    def colour(self, content: bytes) -> bool:
        return self.shape[2] == 3

    def pixels(self, content: bytes) -> np.ndarray:
        return np.frombuffer(content, np.uint8).reshape(self.shape)


@dataclass(frozen=True)
class Encoded:
    """PNG or JPEG files of any mode, at most `Image.MAX_IMAGE_PIXELS` large; upright, over white where transparent."""

    def colour(self, content: bytes) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _opened(content) as image:
                return not image.mode.startswith(GREY)

    def pixels(self, content: bytes) -> np.ndarray:
        with _opened(content) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits of grey
                grey_HW = (np.asarray(image).astype(np.uint32) + 128) // 257
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


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ValueError("is no PNG or JPEG picture, or damaged; mend or remove it") from error
    except Exception as error:  # Pillow raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"cannot be decoded ({reason or type(error).__name__}); mend or remove it"
        ) from error


def from_array(array_NHW: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] of pictures in an array, C = 1 or 3.

    array_NHW: [N, H, W] or [N, H, W, C] with 1, 3 or 4 channels (the last: opacity, over white); whole numbers
        from 0 to 255, numbers from 0 to 1, or booleans.
    """
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
    low, high = array.min(), array.max()
    if array.dtype.kind == "b" or (array.dtype.kind == "f" and low >= 0 and high <= 1):
        array = np.rint(array.astype(np.float32) * 255)
    elif low < 0 or high > 255 or (array.dtype.kind == "f" and (array != np.rint(array)).any()):
        raise ValueError(
            f"holds values from {low:g} to {high:g}; pictures are whole 0..255 or between 0 and 1"
        )
    pixels_NHWC = array.astype(np.uint8, copy=False)
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
