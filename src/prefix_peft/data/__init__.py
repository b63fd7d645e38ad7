"""What a prefix is trained and judged on: records, pairs of texts, and their tokens."""
