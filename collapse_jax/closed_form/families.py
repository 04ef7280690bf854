"""The closed-form families by name; a module is imported when its family is asked for."""

import importlib
from collections.abc import Mapping

from collapse_jax.closed_form.family import Family

WHERE: Mapping[str, str] = {
    "gaussian": "gaussian:Gaussian",
    "regression": "regression:Regression",
    "discrete": "discrete:Discrete",
    "exponential": "exponential:Exponential",
    "kde": "kde:KernelDensity",
    "mixture_em": "mixture_em:MixtureEM",
    "hutter": "hutter:Hutter",
    "bigram": "bigram:Bigram",
    "memory": "memory:Memory",
    "verified": "verified:Verified",
    "strong": "strong:Strong",
    "shared_models": "shared_models:SharedModels",
    "pathological": "pathological:Pathological",
}


def kind(name: str) -> type[Family]:
    """The settings class of a family in `WHERE`."""
    module, found = WHERE[name].split(":")
    return getattr(importlib.import_module(f"collapse_jax.closed_form.{module}"), found)
