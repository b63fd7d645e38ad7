"""The paper's experiments: which method learns what from how much, one command each."""
