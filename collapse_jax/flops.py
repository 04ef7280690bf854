"""What a traced program costs: the arithmetic of its matrix products and convolutions, and the bytes they touch.

Counted from the program itself, so the same for every family and device: a loop counts as often as it runs,
what is computed anew in the backward pass counts again. Elementwise work is left out; compilers fuse most of it.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np


class Cost(NamedTuple):
    """flops: a multiplication and an addition are two. bytes: operands and results, each read or written once."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Any) -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


def count(traced: Any) -> Cost:
    """The cost of a traced function, `jax.jit(f).trace(...)`."""
    return _program(traced.jaxpr.jaxpr)


def _program(jaxpr: Any) -> Cost:
    return sum((_equation(equation) for equation in jaxpr.eqns), Cost())


def _equation(equation: Any) -> Cost:
    name, parameters = equation.primitive.name, equation.params
    if name in ("dot_general", "conv_general_dilated"):
        out, (left, right) = equation.outvars[0].aval.shape, (v.aval.shape for v in equation.invars[:2])
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            each = math.prod(left[i] for i in contracted)
        else:  # the zeros that a dilation puts between the inputs are not multiplied by anyone who looks
            each = math.prod(right) // right[parameters["dimension_numbers"].rhs_spec[0]]
            each = each / math.prod(parameters["lhs_dilation"])
        touched = sum(_bytes(v.aval) for v in (*equation.invars, *equation.outvars))
        return Cost(int(2 * math.prod(out) * each), touched)
    inside = [_program(jaxpr) for jaxpr in _inside(parameters)]
    if name == "scan":
        once = sum(inside, Cost())
        return Cost(once.flops * parameters["length"], once.bytes * parameters["length"])
    if name == "cond":
        return max(inside, default=Cost())
    return sum(inside, Cost())


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * np.dtype(aval.dtype).itemsize


def _inside(parameters: dict[str, Any]) -> list[Any]:
    """The programs that an equation holds."""
    leaves = jax.tree.leaves(
        list(parameters.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
    )
    return [getattr(x, "jaxpr", x) for x in leaves if hasattr(getattr(x, "jaxpr", x), "eqns")]
