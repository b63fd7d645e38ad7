"""Training a prefix: the loop, its checkpoints and what it leaves behind."""
