"""Attention that never passes the door: modules that compute softmax(q k^T) v by their own hand."""
