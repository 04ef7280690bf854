"""The training step: loss, gradient, clipping and AdamW, compiled once for a whole experiment."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from collapse_jax import checkpoint, rng
from collapse_jax.config import choice, number, path
from collapse_jax.families import Batch, Family
from collapse_jax.lanes import over

State = dict[
    str, Any
]  # "model", "opt", perhaps "average", and the scalars "step", "loss_sum", "finite_steps"


@dataclass(frozen=True)
class Training:
    """How a generation is fitted.

    epochs: how often each used row is drawn (the arm's budget says what that means as mixtures grow).
    batch_size: rows a step, over all devices; microbatches: how many parts of it are computed in turn.
    warmup: share of the steps over which the learning rate rises; end: its final share under "cosine".
    ema: decay of the average of the weights that is evaluated, sampled and kept (0: the last weights are).
    init: "fresh" weights each generation, those of the "parent" generation, or a checkpoint folder.
    dispatch: steps handed to the device at once, for models whose step is shorter than the handing over.
    """

    epochs: int = number(1, 1)
    batch_size: int = number(32, 1)
    microbatches: int = number(1, 1)
    learning_rate: float = number(1e-3, 0.0)
    schedule: str = choice("cosine", ("cosine", "constant"))
    warmup: float = number(0.05, 0.0, 1.0)
    end: float = number(0.1, 0.0, 1.0)
    weight_decay: float = number(0.1, 0.0)
    b1: float = number(0.9, 0.0, 0.99999)
    b2: float = number(0.95, 0.0, 0.99999)
    clip: float = number(1.0, 1e-8)
    ema: float = number(0.0, 0.0, 0.999999)
    init: str = path("fresh")
    checkpoint_every: int = number(1000, 1, identity=False)
    log_every: int = number(50, 1, identity=False)
    dispatch: int = number(1, 1, 10_000, identity=False)

    def problems(self) -> Iterator[str]:
        if self.batch_size % self.microbatches:
            yield f"batch_size={self.batch_size} is not divisible by microbatches={self.microbatches}"
        if self.learning_rate == 0:
            yield "learning_rate must be above 0"


def learning_rate(settings: Training, step: jax.Array, steps: jax.Array) -> jax.Array:
    """Linear warm-up, then constant or cosine to `end` of the peak; the length is traced, not compiled in."""
    warm = jnp.maximum(settings.warmup * steps, 1.0)
    rise = jnp.minimum((step + 1) / warm, 1.0)
    if settings.schedule == "constant":
        return settings.learning_rate * rise
    passed = jnp.clip((step - warm) / jnp.maximum(steps - warm, 1.0), 0.0, 1.0)
    fall = settings.end + (1 - settings.end) * 0.5 * (1 + jnp.cos(jnp.pi * passed))
    return settings.learning_rate * rise * fall


def optimizer(settings: Training) -> optax.GradientTransformation:
    """Clipping and AdamW at unit learning rate; norms' scales and biases are not decayed."""

    def decayed(params: Any) -> Any:
        return jax.tree.map_with_path(lambda path, _: not _is_gain(path), params)

    return optax.chain(
        optax.clip_by_global_norm(settings.clip),
        optax.scale_by_adam(settings.b1, settings.b2),
        optax.add_decayed_weights(settings.weight_decay, mask=decayed),
    )


def _is_gain(path: Any) -> bool:
    names = (str(getattr(k, "name", getattr(k, "key", ""))) for k in path)
    return any(name.endswith(("bias", "scale")) for name in names)


class Trainer:
    """Compiled `init`, `start` and `step` of a family on a mesh, shared by every generation, arm and seed.

    States, batches, keys and metrics have a leading axis of `lanes` fits side by side.
    `steps_at_once` takes as many steps as its batches [K, G, B, ...] have.
    """

    def __init__(self, family: Family, settings: Training, mesh: Mesh, lanes: int = 1):
        self.family, self.settings, self.mesh, self.lanes = family, settings, mesh, lanes
        self.tx = optimizer(settings)
        step = over(self._step, lanes, (0, 0, None, 0))
        self.step: Callable[..., tuple[State, dict]] = jax.jit(step, donate_argnums=0)

        def several(state: State, batches: Batch, steps: jax.Array, keys_G: jax.Array) -> tuple[State, dict]:
            return jax.lax.scan(lambda s, batch: step(s, batch, steps, keys_G), state, batches)

        self.steps_at_once: Callable[..., tuple[State, dict]] = jax.jit(several, donate_argnums=0)
        self.init: Callable[[jax.Array], State] = jax.jit(over(self._init, lanes, (0,)))
        self.start: Callable[[Any], State] = jax.jit(over(self._start, lanes, (0,)))

    def fresh_key(self, seed: int, generation: int) -> jax.Array:
        return rng.key("init", seed, generation)

    def _init(self, key: jax.Array) -> State:
        return self._start(self.family.init(nnx.Rngs(key)))

    def _start(self, model: nnx.Module) -> State:
        """The state of a fit that begins from this model."""
        average = {"average": jax.tree.map(jnp.copy, model)} if self.settings.ema else {}
        return average | {
            "model": model,
            "opt": self.tx.init(cast(Any, model)),
            "step": jnp.int32(0),
            "loss_sum": jnp.float32(0),
            "finite_steps": jnp.int32(0),
        }

    @cached_property
    def abstract(self) -> State:
        """Shapes and shardings of the state of one seed, to restore into."""
        return checkpoint.abstract(lambda: self._init(jax.random.key(0)), self.mesh)

    def fitted(self, state: State) -> nnx.Module:
        """The model that a fit gives: the averaged weights where there are such, else the last."""
        return state["average" if self.settings.ema else "model"]

    def _step(self, state: State, batch: Batch, steps: jax.Array, key: jax.Array) -> tuple[State, dict]:
        """One update of `steps` in all. From the first step that is not finite on, nothing changes any more."""
        at = state["step"]
        key = jax.random.fold_in(key, at)
        loss, grads = self._gradient(state["model"], batch, key, at / steps)
        updates, opt = self.tx.update(grads, state["opt"], state["model"])
        rate = learning_rate(self.settings, at, steps)
        model = jax.tree.map(lambda p, u: p - rate * u, state["model"], updates)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & (state["finite_steps"] == at)
        new = {
            "model": model,
            "opt": opt,
            "step": at,
            "loss_sum": state["loss_sum"] + loss,
            "finite_steps": at + 1,
        }
        if self.settings.ema:
            # short fits would otherwise average over their first steps (Karras et al. 2022, ramp-up)
            decay = jnp.minimum(self.settings.ema, (1.0 + at) / (10.0 + at))
            new["average"] = jax.tree.map(lambda a, p: p + decay * (a - p), state["average"], model)
        new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        new["step"] = at + 1
        return new, {"loss": loss, "grad_norm": norm, "learning_rate": rate, "finite": finite}

    def _gradient(
        self, model: nnx.Module, batch: Batch, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Mean loss and its gradient, over microbatches in turn and weighted as if in one."""

        def summed(model: nnx.Module, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            total, weight, _ = self.family.loss(model, batch, key, progress)
            return total, weight

        gradient = jax.value_and_grad(summed, has_aux=True)
        parts = self.settings.microbatches
        if parts == 1:
            (total, weight), grads = gradient(model, batch, key)
        else:

            def add(carry: Any, part: Any) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, carry, gradient(model, *part)), None

            rows = jax.tree.map(lambda x: _strided(x, parts), batch)
            zero = ((jnp.float32(0), jnp.float32(0)), jax.tree.map(jnp.zeros_like, model))
            ((total, weight), grads), _ = jax.lax.scan(add, zero, (rows, jax.random.split(key, parts)))
        weight = jnp.maximum(weight, 1.0)
        return total / weight, jax.tree.map(lambda g: g / weight, grads)


def _strided(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...] by stride, which moves no row to another device."""
    shape = (x.shape[0] // parts, parts, *x.shape[1:])
    return jnp.moveaxis(jax.lax.reshape(x, shape, out_sharding=P("data", *(None,) * (len(shape) - 1))), 1, 0)
