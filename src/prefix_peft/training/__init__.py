"""Training a prefix: the tasks' records, their tokens, the loop and the scores."""
