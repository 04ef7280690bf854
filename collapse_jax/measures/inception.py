"""InceptionV3 as the Frechet Inception Distance uses it, with weights that the user has.

The network of pytorch-fid (Szegedy et al. 2016; Heusel et al. 2017). Weights are named as in its file
`pt_inception-2015-12-05` and in torchvision; its mixed blocks pool otherwise than torchvision's.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.config import BadInput

Array = jax.Array | np.ndarray
Weights = Mapping[str, Array]

BATCH = 32
SIDE = 299
EPS = 1e-3  # of the batch normalisation


class Conv(NamedTuple):
    """A convolution, normalised, and ReLU; every second pixel and no border where it is "halving"."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    halving: bool = False


class Fork(NamedTuple):
    """Two convolutions of one input, joined."""

    first: Conv
    second: Conv


# A mixed block joins its branches, each a chain of convolutions, forks and poolings (by their kind).
Block = list[list[Conv | Fork | str]]


def _chain(
    prefix: str, *layers: tuple[int, tuple[int, int]], halving: bool = False
) -> list[Conv | Fork | str]:
    """Convolutions PREFIX_1, PREFIX_2, ...; the last one perhaps halves."""
    last = len(layers)
    return [Conv(f"{prefix}_{i}", w, k, halving and i == last) for i, (w, k) in enumerate(layers, 1)]


def _fork(name: str) -> Fork:
    return Fork(Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1)))


ONE, THREE, WIDE, TALL = (1, 1), (3, 3), (1, 7), (7, 1)


def _a(pooled: int) -> Block:
    return [
        [Conv("branch1x1", 64)],
        _chain("branch5x5", (48, ONE), (64, (5, 5))),
        _chain("branch3x3dbl", (64, ONE), (96, THREE), (96, THREE)),
        ["mean", Conv("branch_pool", pooled)],
    ]


def _c(width: int) -> Block:
    return [
        [Conv("branch1x1", 192)],
        _chain("branch7x7", (width, ONE), (width, WIDE), (192, TALL)),
        _chain("branch7x7dbl", (width, ONE), (width, TALL), (width, WIDE), (width, TALL), (192, WIDE)),
        ["mean", Conv("branch_pool", 192)],
    ]


def _e(pooling: str) -> Block:
    return [
        [Conv("branch1x1", 320)],
        [*_chain("branch3x3", (384, ONE)), _fork("branch3x3_2")],
        [*_chain("branch3x3dbl", (448, ONE), (384, THREE)), _fork("branch3x3dbl_3")],
        [pooling, Conv("branch_pool", 192)],
    ]


_B: Block = [
    [Conv("branch3x3", 384, THREE, halving=True)],
    _chain("branch3x3dbl", (64, ONE), (96, THREE), (96, THREE), halving=True),
    ["halve"],
]
_D: Block = [
    _chain("branch3x3", (192, ONE), (320, THREE), halving=True),
    _chain("branch7x7x3", (192, ONE), (192, WIDE), (192, TALL), (192, THREE), halving=True),
    ["halve"],
]
STEM: list[tuple[Conv | str, str]] = [  # with the padding
    (Conv("Conv2d_1a_3x3", 32, THREE, halving=True), "VALID"),
    (Conv("Conv2d_2a_3x3", 32, THREE), "VALID"),
    (Conv("Conv2d_2b_3x3", 64, THREE), "SAME"),
    ("halve", "VALID"),
    (Conv("Conv2d_3b_1x1", 80), "SAME"),
    (Conv("Conv2d_4a_3x3", 192, THREE), "VALID"),
    ("halve", "VALID"),
]
MIXED = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _B,
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": _D,
    "Mixed_7b": _e("mean"),
    "Mixed_7c": _e("max"),
}


def convolutions() -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """(name, shape [out, in, height, width]) of every convolution, as the weights' file names them."""
    channels = 3
    for layer, _ in STEM:
        if isinstance(layer, Conv):
            yield layer.name, (layer.width, channels, *layer.kernel)
            channels = layer.width
    for block, branches in MIXED.items():
        joined = 0
        for branch in branches:
            given = channels
            for layer in branch:
                parts = layer if isinstance(layer, Fork) else [layer] if isinstance(layer, Conv) else []
                for part in parts:
                    yield f"{block}.{part.name}", (part.width, given, *part.kernel)
                given = sum(part.width for part in parts) or given
            joined += given
        channels = joined


def load(path: Path) -> dict[str, np.ndarray]:
    """The convolutions of a .safetensors file, normalisation folded in: kernels HWIO and biases, float32.

    Other tensors (the classifier's, the auxiliary one's) are ignored. Raises `BadInput` where the package
    safetensors is not installed, or the file is unreadable or of another network.
    """
    try:
        from safetensors import SafetensorError  # pyright: ignore[reportMissingImports]
        from safetensors.numpy import load_file  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BadInput(f"reading {path} needs the package safetensors; pip install safetensors") from None
    try:
        given = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{path} cannot be read ({' '.join(str(error).split())}); give another file"
        ) from error
    return fold(given, str(path))


def fold(given: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Kernels and biases of the named tensors of a file. Raises `BadInput` naming the first that does not fit."""
    found: dict[str, np.ndarray] = {}
    for name, shape in convolutions():
        norms = ("weight", "bias", "running_mean", "running_var")
        wanted = {f"{name}.conv.weight": shape, **{f"{name}.bn.{part}": shape[:1] for part in norms}}
        for tensor, expected in wanted.items():
            if tensor not in given:
                raise BadInput(f"{where} has no {tensor}; give the weights of InceptionV3")
            if given[tensor].shape != expected:
                raise BadInput(
                    f"{where}: {tensor} has shape {list(given[tensor].shape)}, not {list(expected)}; "
                    "give the weights of InceptionV3"
                )
        kernel, scale, bias, mean, variance = (np.asarray(given[tensor], np.float64) for tensor in wanted)
        gain = scale / np.sqrt(variance + EPS)
        found[name] = (kernel * gain[:, None, None, None]).transpose(2, 3, 1, 0).astype(np.float32)
        found[f"{name}.bias"] = (bias - mean * gain).astype(np.float32)
    return found


def features(weights: Weights, images: Array) -> jax.Array:
    """Features float32 [N, 2048] of uint8 images [N, H, W, 1 or 3], resized to 299 x 299, values in [-1, 1]."""
    n, _, _, channels = images.shape
    x = jax.image.resize(
        jnp.asarray(images, jnp.float32) / 255, (n, SIDE, SIDE, channels), "bilinear", antialias=False
    )
    x = 2 * jnp.broadcast_to(x, (n, SIDE, SIDE, 3)) - 1
    for layer, padding in STEM:
        x = _pooled(layer, x) if isinstance(layer, str) else _convolved(weights, "", layer, x, padding)
    for block, branches in MIXED.items():
        x = jnp.concatenate([_branch(weights, f"{block}.", branch, x) for branch in branches], -1)
    return x.mean((1, 2))


def _branch(weights: Weights, block: str, branch: list[Conv | Fork | str], x: jax.Array) -> jax.Array:
    for layer in branch:
        if isinstance(layer, str):
            x = _pooled(layer, x)
        elif isinstance(layer, Fork):
            x = jnp.concatenate([_convolved(weights, block, part, x) for part in layer], -1)
        else:
            x = _convolved(weights, block, layer, x, "VALID" if layer.halving else "SAME")
    return x


def _convolved(weights: Weights, block: str, layer: Conv, x: jax.Array, padding: str = "SAME") -> jax.Array:
    name, stride = block + layer.name, 2 if layer.halving else 1
    x = jax.lax.conv_general_dilated(
        x, jnp.asarray(weights[name]), (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )  # fmt: skip
    return jax.nn.relu(x + weights[f"{name}.bias"])


def _pooled(kind: str, x: jax.Array) -> jax.Array:
    """3 x 3 pixels: "halve" to every second maximum, "max", or "mean" of those that there are at the border."""
    window, every = (1, 3, 3, 1), (1, 1, 1, 1)
    if kind == "halve":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")
    if kind == "max":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, every, "SAME")
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, every, "SAME")
    there = jnp.ones((1, *x.shape[1:3], 1))
    return total / jax.lax.reduce_window(there, 0.0, jax.lax.add, window, every, "SAME")
