"""One step, one loop and one evaluation for every family."""
