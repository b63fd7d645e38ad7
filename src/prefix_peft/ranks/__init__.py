"""Several processes at one run: how they share the work, and gather what each has a part of."""
