"""Surrogate: a cheap model of the encoder, and how it is fitted.

A bag of tokens (`bag`) with contributions of their own (`contributions`), and a student (`student`, `distillation`)
that knows what a bag cannot know. Both learn from texts with their embeddings (`pairs`), edits of texts (`edits`) too.
`unembed.training.fit` is the whole way.
"""
