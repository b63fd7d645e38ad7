"""Bases that can copy and word what they read, trained on plain text: ``python -m experiments.pretrain --help``."""
