"""Drills: what is done to training, files and threads on purpose, and whether everything still holds."""
