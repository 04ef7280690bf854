"""The small networks that images are judged by: a LeNet that knows the classes, a random one that knows nothing.

Both are pure functions of named weights (float32 arrays) and uint8 images [N, H, W, C], and run on one device.
"""

import itertools
from collections.abc import Mapping
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from collapse_jax import rng

Array = jax.Array | np.ndarray
Weights = Mapping[str, Array]

STEPS, BATCH = 600, 64  # at most 38,400 images,
EPOCHS = 20  # and every row so often
LEARNING_RATE = 3e-3
LENET_WIDTHS, RANDOM_WIDTHS = (8, 64), (32, 128)  # of the first convolution, and at most
DENSE = (120, 84)  # LeNet-5's
RANDOM_FEATURES = 128


def _drawn(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Weights whose outputs vary as their inputs do under ReLU (He et al. 2015)."""
    return (draw.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)


def _zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.float32)


def _stages(shape: tuple[int, ...], widths: tuple[int, int], until: int) -> list[tuple[int, int]]:
    """(channels in, out) of the convolutions that halve an image until a side is below `until`; at least one."""
    side, channels, width, found = min(shape[:2]), shape[2], widths[0], []
    while not found or side >= until:
        found.append((channels, width))
        side, channels, width = side // 2, width, min(2 * width, widths[1])
    return found


def _halved(x_NHWC: jax.Array) -> jax.Array:
    """The largest of every 2 x 2 pixels; an odd last row or column is dropped."""
    n, h, w, c = x_NHWC.shape
    if min(h, w) < 2:
        return x_NHWC
    return x_NHWC[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


def _convolved(weights: Weights, images: Array) -> jax.Array:
    """Convolution, maximum and ReLU as often as there are weights; [N, features]."""
    x = jnp.asarray(images, jnp.float32) / 127.5 - 1
    for i in range(sum(name.startswith("conv") for name in weights) // 2):
        x = jax.lax.conv_general_dilated(
            x, jnp.asarray(weights[f"conv{i}"]), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )  # fmt: skip
        x = jax.nn.relu(_halved(x + weights[f"conv{i}_bias"]))
    return x.reshape(len(x), -1)


def lenet_weights(shape: tuple[int, ...], classes: int) -> dict[str, np.ndarray]:
    """Fresh weights for images of this shape: 5 x 5 convolutions down to 4-7 pixels, two hidden layers."""
    draw, weights = rng.host("features/classifier"), {}
    for i, (c, d) in enumerate(_stages(shape, LENET_WIDTHS, 8)):
        weights[f"conv{i}"], weights[f"conv{i}_bias"] = _drawn(draw, (5, 5, c, d)), _zeros(d)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
    sizes = (jax.eval_shape(_convolved, weights, images).shape[1], *DENSE, classes)
    for i, (c, d) in enumerate(itertools.pairwise(sizes)):
        weights[f"dense{i}"], weights[f"dense{i}_bias"] = _drawn(draw, (c, d)), _zeros(d)
    return weights


def lenet(weights: Weights, images: Array) -> tuple[jax.Array, jax.Array]:
    """Features [N, 84] of the last hidden layer and logits [N, classes] (LeCun et al. 1998, with ReLU)."""
    x = _convolved(weights, images)
    for i in range(len(DENSE)):
        x = jax.nn.relu(jnp.matmul(x, weights[f"dense{i}"], precision="highest") + weights[f"dense{i}_bias"])
    last = f"dense{len(DENSE)}"
    return x, jnp.matmul(x, weights[last], precision="highest") + weights[f"{last}_bias"]


def _optimizer(steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))


@partial(jax.jit, static_argnames="steps")
def _step(
    weights: Weights, state: optax.OptState, images: Array, labels: jax.Array, steps: int
) -> tuple[Weights, optax.OptState]:
    def loss(weights: Weights) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(lenet(weights, images)[1], labels).mean()

    updates, state = _optimizer(steps).update(jax.grad(loss)(weights), state)
    return cast(Weights, optax.apply_updates(weights, updates)), state


def train_lenet(images: np.ndarray, labels: np.ndarray, classes: int) -> Weights:
    """The classifier after some hundred batches of these rows, shuffled anew each time all have been seen.

    One step a dispatch: inside a compiled loop XLA's convolutions on CPUs are ten times slower.
    """
    steps = min(STEPS, -(-EPOCHS * len(images) // BATCH))
    weights = jax.device_put(lenet_weights(images.shape[1:], classes))
    state = _optimizer(steps).init(weights)
    draw, order = rng.host("features/order"), np.zeros(0, np.int64)
    for _ in range(steps):
        while len(order) < BATCH:
            order = np.concatenate([order, draw.permutation(len(images))])
        rows, order = order[:BATCH], order[BATCH:]
        weights, state = _step(weights, state, images[rows], labels[rows].astype(np.int32), steps)
    return weights


def random_weights(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Fixed random weights for images of this shape, as yet without the scale of the features."""
    draw, weights = rng.host("features/random"), {}
    for i, (c, d) in enumerate(_stages(shape, RANDOM_WIDTHS, 8)):
        weights[f"conv{i}"], weights[f"conv{i}_bias"] = _drawn(draw, (3, 3, c, d)), _zeros(d)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
    size = jax.eval_shape(_convolved, weights, images).shape[1]
    weights["projection"] = _drawn(draw, (size, RANDOM_FEATURES))
    return {**weights, "mean": _zeros(RANDOM_FEATURES), "scale": 1 + _zeros(RANDOM_FEATURES)}


def random_features(weights: Weights, images: Array) -> jax.Array:
    """Features [N, 128] of random convolutions, whose scale the weights `mean` and `scale` set.

    A random network separates distributions without knowing any data set (Naeem et al. 2020, section 3.3).
    """
    x = jnp.matmul(_convolved(weights, images), weights["projection"], precision="highest")
    return (x - weights["mean"]) * weights["scale"]
