"""The model card: what a prefix was made for, what it scored, and, first of all, how to load it."""
