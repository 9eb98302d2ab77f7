"""One file per measurement; each has `run(options) -> Part`."""
