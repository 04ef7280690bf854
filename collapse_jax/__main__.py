"""The `collapse` program, and `python -m collapse_jax`: the command line in a process made for it."""

import os
import sys

from collapse_jax.cli import main

# Huge pages, heaps that serve what is large too, and none of it given back before the end. As many heaps as glibc
# likes: with one for all threads most runs of small models took up to 2.6 times as long.
TUNABLES = (
    "glibc.malloc.hugetlb=1",
    f"glibc.malloc.mmap_threshold={1 << 33}",
    f"glibc.malloc.trim_threshold={1 << 34}",
)


def entry() -> int:
    """Run the command line, on Linux in a process whose malloc keeps the memory it has.

    A training step on CPU frees and takes hundreds of megabytes; got from the system each time, in small pages,
    they cost up to a third of the step. glibc reads the settings only when a process starts, so the program
    starts itself once more.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and "glibc.malloc.hugetlb" not in given:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (given, *TUNABLES)))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return main()


if __name__ == "__main__":
    raise SystemExit(entry())
