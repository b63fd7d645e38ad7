"""What a model is like: its attention and where its positions come from, seen in one trial run."""
