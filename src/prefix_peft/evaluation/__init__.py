"""How well a prefix does: the loss, what the model writes, and the scores of that."""
