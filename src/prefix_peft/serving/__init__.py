"""``transformers serve`` with prefixes: one base model, and a request's ``model`` chooses what it has in front of it.

The server, its endpoints and its batching are transformers'. Two of its classes are replaced: the one that loads models
and the one that hands out the managers which generate.
"""
