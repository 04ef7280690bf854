"""`collapse` with the toy family added: what the fault tests start as a process of its own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from collapse_jax import cli, families

families.KINDS["toy"] = "toy"

if __name__ == "__main__":
    sys.exit(cli.main())
