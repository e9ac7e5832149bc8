"""Corpus: texts on disk, token shards made of them, windows to train on, and the held-out texts to measure with."""
