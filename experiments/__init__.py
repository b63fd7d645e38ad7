"""The paper's experiments, on small bases that can be trained here."""
