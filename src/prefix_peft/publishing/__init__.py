"""Prefixes on the Hugging Face Hub: pushing one there, and fetching one of somebody else's."""
