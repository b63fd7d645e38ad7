"""Attention over [P; sequence]: its terms, its two exact forms, and the choice between them."""
