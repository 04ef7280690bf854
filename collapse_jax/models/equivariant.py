"""A denoiser of conformations: an E(3)-equivariant network over the molecular graph and the atoms in space.

GeoDiff (Xu et al. 2022, section 4.2): every layer sends messages along edges, which see atoms only through
distances, and moves the atoms along the lines between them (equivariant graph networks, Satorras et al.
2021). Local layers use edges between atoms up to three bonds apart, global layers all pairs nearer than a
cutoff. Rotations, reflections and translations of the input turn, mirror and leave the output alone, and the
order of the atoms does not matter. Molecules are padded to one number of atoms N; hydrogens are atoms.

Messages have shape [B, N, N, H], so their first matrix acts on atoms before they are paired, never on pairs.
The network knows no device mesh; `models.ragged` runs it on the rows that each device holds.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from collapse_jax.config import choice, number
from collapse_jax.models.denoiser import sinusoids
from collapse_jax.models.layers import RMSNorm, normal, weight, zeros
from collapse_jax.models.transformer import rematted

Molecules = Mapping[str, jax.Array]  # "atoms" [B, N], "charges" [B, N], "bonds" [B, N, N], "count" [B]

ELEMENTS = 119  # atomic numbers, and 0 for padding
CHARGES = 4  # formal charges beyond are taken for this one
NONE, FAR, TWO_APART, THREE_APART = range(4)  # kinds of pairs; then the bond orders 1 to 4 (aromatic)
KINDS = 8
NOISE_FEATURES = 32
NORM_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class EquivariantConfig:
    """What the network is (and how it is computed, in the last two fields).

    local_layers, global_layers: the local ones come first.
    cutoff: Å, reach of the global layers' edges, which fade before it (0: they join all pairs).
    radial: Gaussians that show a distance to the network (0: its square alone, as Satorras et al.).
    unit: Å that the noise's unit stands for (0: the root mean square coordinate of the training rows).
    """

    hidden: int = number(64, 2, 65536)
    local_layers: int = number(2, 0, 1000)
    global_layers: int = number(2, 0, 1000)
    cutoff: float = number(10.0, 0.0, 1000.0)
    radial: int = number(16, 0, 1024)
    unit: float = number(0.0, 0.0, 1e4)
    dtype: str = choice("float32", ("float32", "bfloat16"))  # of messages; weights and positions are float32
    remat: str = choice("none", ("none", "full"), identity=False)

    @property
    def layers(self) -> int:
        return self.local_layers + self.global_layers

    def problems(self) -> Iterator[str]:
        if not self.layers:
            yield "local_layers=0 and global_layers=0 leave no network; raise one"


def pair_kinds(molecules: Molecules) -> jax.Array:
    """Kind of every ordered pair of atoms, int32 [B, N, N]: how they are linked, NONE for padding and i = j."""
    bonds, count = molecules["bonds"], molecules["count"]
    size = bonds.shape[1]
    linked = (bonds > 0).astype(jnp.float32)
    within_two = ((linked @ linked) > 0).astype(jnp.float32)
    within_three = (within_two @ linked) > 0
    kinds = jnp.where(within_three, THREE_APART, FAR)
    kinds = jnp.where(within_two > 0, TWO_APART, kinds)
    kinds = jnp.where(bonds > 0, THREE_APART + jnp.minimum(bonds, KINDS - 1 - THREE_APART), kinds)
    there_BN = jnp.arange(size) < count[:, None]
    pairs = there_BN[:, :, None] & there_BN[:, None] & ~jnp.eye(size, dtype=bool)
    return jnp.where(pairs, kinds, NONE).astype(jnp.int32)


def centred(x_BNx: jax.Array, count_B: jax.Array) -> jax.Array:
    """Vectors of the first `count` atoms minus their mean, 0 for padding: the projection on the subspace without
    centre of mass."""
    there_BN1 = (jnp.arange(x_BNx.shape[1]) < count_B[:, None])[..., None]
    x_BNx = jnp.where(there_BN1, x_BNx, 0.0)
    mean_B1x = jnp.sum(x_BNx, 1, keepdims=True) / jnp.maximum(count_B, 1)[:, None, None]
    return jnp.where(there_BN1, x_BNx - mean_B1x, 0.0)


def fading(distance: jax.Array, cutoff: float) -> jax.Array:
    """1 at 0, 0 from the cutoff on, twice differentiable, flat at both ends (Gasteiger et al. 2020, eq. 8)."""
    if not cutoff:
        return jnp.ones_like(distance)
    r = jnp.minimum(distance / cutoff, 1.0)
    return 1.0 + r**6 * (-28.0 + r * (48.0 - 21.0 * r))


def shown(distance: jax.Array, squared: jax.Array, count: int) -> jax.Array:
    """What the network sees of distances in Å: [..., count] Gaussians of exp(-d / 2), closest where bonds are, or
    [..., 1] the square (Unke and Meuwly 2019, eq. 7)."""
    if not count:
        return squared[..., None]
    centres = jnp.linspace(0.0, 1.0, count)
    return jnp.exp(-((count * (jnp.exp(-distance / 2)[..., None] - centres)) ** 2))


class Layers(nnx.Module):
    """All layers at once: every weight has a leading layer axis, a call takes one layer's slice."""

    def __init__(self, rngs: nnx.Rngs, config: EquivariantConfig):
        h, n = config.hidden, config.layers
        seen = KINDS + max(config.radial, 1)
        fan, last = initializers.lecun_normal(in_axis=-2, out_axis=-1), normal(0.02)

        def matrix(rows: int, columns: int, init: Any = fan) -> nnx.Param[jax.Array]:
            return weight(rngs, (rows, columns), (None, None), init, n)

        def bias(size: int) -> nnx.Param[jax.Array]:
            return weight(rngs, (size,), (None,), zeros, n)

        self.norm = RMSNorm(rngs, h, NORM_EPS, n)
        self.ends, self.pair, self.pair_bias = matrix(h, 2 * h), matrix(seen, h), bias(h)
        self.message, self.message_bias = matrix(h, h), bias(h)
        self.move, self.move_bias, self.along = matrix(h, h), bias(h), matrix(h, 1, normal(1e-3))
        self.node, self.received, self.node_bias = matrix(h, h), matrix(h, h), bias(h)
        self.out, self.out_bias = matrix(h, h, last), bias(h)

    def __call__(
        self, h_NH: jax.Array, x_BNx: jax.Array, kinds_PK: jax.Array, reach: tuple, config: EquivariantConfig
    ) -> tuple[jax.Array, jax.Array]:
        """New features [B N, H] and positions [B, N, 3] in Å.

        kinds_PK: one-hot kinds of the P = B N N pairs. reach: weights [B, N, N] of pairs up to three bonds
        apart, of all others, and whether the layer is global.
        """
        (rows, size, _), dtype = x_BNx.shape, h_NH.dtype

        def linear(x: jax.Array, w: nnx.Param[jax.Array], b: nnx.Param[jax.Array]) -> jax.Array:
            return x @ w[...].astype(dtype) + b[...].astype(dtype)

        away = x_BNx[:, :, None] - x_BNx[:, None]
        squared = jnp.sum(away * away, -1)
        distance = jnp.sqrt(squared + 1e-8)
        near, far, everywhere = reach
        weights = near + jnp.where(everywhere, far * fading(distance, config.cutoff), 0.0)
        weights = weights / jnp.maximum(jnp.sum(near + far * everywhere, -1, keepdims=True), 1.0)

        normed = self.norm(h_NH)
        to, since = jnp.split((normed @ self.ends[...].astype(dtype)).reshape(rows, size, -1), 2, -1)
        seen = shown(distance, squared, config.radial).astype(dtype).reshape(kinds_PK.shape[0], -1)
        pairs = linear(jnp.concatenate([seen, kinds_PK], -1), self.pair, self.pair_bias)
        pairs = pairs.reshape(rows, size, size, -1) + to[:, :, None] + since[:, None]
        message = jax.nn.silu(
            linear(jax.nn.silu(pairs).reshape(len(kinds_PK), -1), self.message, self.message_bias)
        )
        move = jax.nn.silu(linear(message, self.move, self.move_bias)) @ self.along[...].astype(dtype)

        pull = move[:, 0].astype(x_BNx.dtype).reshape(weights.shape) * weights / (1.0 + distance)
        x_BNx = x_BNx * jnp.sum(pull, -1, keepdims=True) - jnp.einsum("bij,bjx->bix", pull, x_BNx) + x_BNx
        message = message.reshape(rows, size, size, -1)
        received = jnp.einsum("bij,bijh->bih", weights.astype(dtype), message).reshape(h_NH.shape)
        mixed = jax.nn.silu(
            linear(normed, self.node, self.node_bias) + received @ self.received[...].astype(dtype)
        )
        return h_NH + linear(mixed, self.out, self.out_bias), x_BNx


class EquivariantDenoiser(nnx.Module):
    """Estimates v = signal noise - sigma x_0 of noised molecules; equivariant, without centre of mass.

    The atoms' displacement by the layers, in Å, is -sigma v: x_0 is signal x_t and this displacement, so that
    what the layers give is the way from a strained geometry to a relaxed one, at every level of noise.
    """

    def __init__(self, config: EquivariantConfig, rngs: nnx.Rngs):
        h, self.config = config.hidden, config
        self.atoms = weight(rngs, (ELEMENTS, h), (None, None), normal(1.0))
        self.charges = weight(rngs, (2 * CHARGES + 1, h), (None, None), normal(0.1))
        self.noise = weight(rngs, (NOISE_FEATURES, h), (None, None), normal(NOISE_FEATURES**-0.5))
        self.layers = Layers(rngs, config)

    def __call__(
        self, molecules: Molecules, x_BNx: jax.Array, signal_B: jax.Array, sigma_B: jax.Array, unit: float
    ) -> jax.Array:
        """v [B, N, 3] of x_t [B, N, 3] in units of `unit` Å at the levels signal and sigma [B]."""
        config, size = self.config, x_BNx.shape[1]
        kinds = pair_kinds(molecules)
        kinds_PK = jax.nn.one_hot(kinds.reshape(-1), KINDS, dtype=config.dtype)
        reach = (kinds > FAR).astype(x_BNx.dtype), (kinds == FAR).astype(x_BNx.dtype)

        def entry(table: nnx.Param[jax.Array], ids: jax.Array) -> jax.Array:
            return table[...].at[ids.reshape(-1)].get(mode="clip")

        charges = jnp.clip(molecules["charges"].astype(jnp.int32), -CHARGES, CHARGES) + CHARGES
        h_NH = entry(self.atoms, molecules["atoms"].astype(jnp.int32)) + entry(self.charges, charges)
        features = sinusoids(4 * jnp.log(signal_B / sigma_B), NOISE_FEATURES, 100.0) @ self.noise[...]
        h_NH = (h_NH + jnp.repeat(features, size, 0)).astype(config.dtype)

        def layer(carry: Any, at: tuple[Layers, jax.Array]) -> tuple[Any, None]:
            weights, everywhere = at
            return weights(*carry, kinds_PK, (*reach, everywhere), config), None  # type: ignore[call-arg]

        unroll = 1
        if config.remat == "none" and jax.default_backend() == "cpu":
            unroll = config.layers  # CPUs copy what a loop hands from the forward to the backward pass
        start_BNx = x_BNx * unit
        body = rematted(layer, config.remat, unroll)
        everywhere = jnp.arange(config.layers) >= config.local_layers
        (_, end_BNx), _ = jax.lax.scan(body, (h_NH, start_BNx), (self.layers, everywhere), unroll=unroll)
        moved_BNx = centred(end_BNx - start_BNx, molecules["count"]) / unit
        return -moved_BNx / sigma_B[:, None, None]
