"""`python -m collapse_jax` is `collapse`."""

from collapse_jax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
