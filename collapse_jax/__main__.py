"""The `collapse` program, and `python -m collapse_jax`: the command line in a process made for it."""

import os
import sys

from collapse_jax.cli import main

HUGE_PAGES = "glibc.malloc.hugetlb=1"


def entry() -> int:
    """Run the command line, on Linux in a process whose malloc takes huge pages.

    A training step on CPU frees and takes hundreds of megabytes; in small pages the faults cost up to a third
    of the step. glibc reads the setting only when a process starts, so the program starts itself once more.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and "glibc.malloc.hugetlb" not in tunables:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, HUGE_PAGES)))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return main()


if __name__ == "__main__":
    raise SystemExit(entry())
