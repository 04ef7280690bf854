"""The program as a process of its own."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("tunables", ["", "glibc.malloc.hugetlb=0", "glibc.malloc.check=0"])
def test_module_is_the_command_line(tmp_path, tunables):
    environment = {**os.environ, "GLIBC_TUNABLES": tunables}
    command = [sys.executable, "-m", "collapse_jax", "verify", str(tmp_path / "a folder")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "a folder" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_it_starts_itself_again_with_a_malloc_that_keeps_memory(monkeypatch):
    from collapse_jax import __main__

    asked = []
    monkeypatch.setattr(os, "execv", lambda path, argv: asked.append((path, argv)))
    monkeypatch.setattr(__main__, "main", lambda: 7)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    assert __main__.entry() == 7 and len(asked) == 1
    assert asked[0][0] == sys.executable and asked[0][1][1:] == sys.orig_argv[1:]
    assert os.environ["GLIBC_TUNABLES"].split(":") == ["glibc.malloc.check=0", *__main__.TUNABLES]
    assert __main__.entry() == 7 and len(asked) == 1
