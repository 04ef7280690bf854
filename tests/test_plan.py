"""What a run costs: FLOPs against counts by hand, the table of devices, and the warnings."""

import jax
import jax.numpy as jnp
import pytest
from conftest import CONFIG

from collapse_jax import cli, devices, flops, plan
from collapse_jax.config import BadInput


def cost(f, *shapes):
    return flops.count(jax.jit(f).trace(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)))


def test_products_and_their_gradients():
    assert cost(jnp.matmul, (3, 5), (5, 7)) == flops.Cost(2 * 3 * 5 * 7, 4 * (15 + 35 + 21))
    loss = jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w)), argnums=(0, 1))
    assert cost(loss, (5, 7), (3, 5)).flops == 3 * 2 * 3 * 5 * 7
    assert (
        cost(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (4, 3, 5), (4, 5, 7)).flops == 2 * 4 * 3 * 5 * 7
    )


def test_loops_count_as_often_as_they_run_and_branches_once():
    def f(w, x):
        return jax.lax.scan(lambda x, _: (jax.checkpoint(lambda x: x @ w)(x), None), x, length=6)[0]

    assert cost(f, (5, 5), (3, 5)).flops == 6 * 2 * 3 * 5 * 5
    branch = lambda w, x: jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)  # noqa: E731
    assert cost(branch, (5, 5), (3, 5)).flops == 2 * 2 * 3 * 5 * 5


@pytest.mark.parametrize(
    ("strides", "dilation", "groups", "size"), [(1, 1, 1, 8), (2, 1, 1, 4), (1, 2, 1, 16), (1, 1, 2, 8)]
)
def test_convolutions(strides, dilation, groups, size):
    def f(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (strides,) * 2, [(1, dilation)] * 2, (dilation,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        )  # fmt: skip

    found = cost(f, (2, 8, 8, 4), (3, 3, 4 // groups, 6)).flops
    assert found == pytest.approx(2 * 2 * size**2 * 6 * 9 * (4 // groups) / dilation**2, rel=0.02)


def test_devices_by_name_and_by_kind():
    assert devices.of_kind("NVIDIA H200") is devices.DEVICES["H200"]
    assert devices.of_kind("TPU v5 lite") is devices.DEVICES["v5e"]
    assert devices.of_kind("TPU v6 lite") is devices.DEVICES["v6e"]
    assert devices.of_kind("NVIDIA A100-SXM4-80GB") is devices.DEVICES["A100"]
    assert devices.of_kind("cpu") is None
    with pytest.raises(BadInput, match="A100"):
        devices.named("abacus")


def test_what_cannot_be_is_warned_of(tmp_path):
    lines = list(plan._warnings(20e9, devices.DEVICES["v5e"], 1e18, tmp_path / "not" / "there"))
    assert "20 GB do not fit the 16 GB" in lines[0] and "do not fit" in lines[1] and len(lines) == 2
    assert not list(plan._warnings(1e9, devices.DEVICES["v5e"], 0.0, tmp_path))


def test_a_plan_for_a_pod_that_is_not_here(tmp_path, capsys):
    pod = ["--config.mesh.data=16", "--device=v5e", "--price=1.5"]
    assert cli.main(["plan", f"--config={CONFIG}", f"--workdir={tmp_path}", *pod]) == 0
    told = capsys.readouterr().out
    assert "data 16" in told and "16 x v5e" in told and "cost" in told
    assert cli.main(["plan", f"--config={CONFIG}", "--device=abacus"]) == 2
