"""What happens when generative models are trained on the output of earlier generative models."""

from importlib.metadata import PackageNotFoundError, version

from flax import nnx

nnx.set_graph_mode(False)

try:
    __version__ = version("collapse_jax")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0"
