"""Surrogate: a cheap model of the encoder, and how it is fitted.

    bag.py                  the embedding that a bag of tokens has on average
    token_contributions.py  what single tokens contribute, learned from texts
    student.py              a small transformer that corrects the bag
    distillation.py         the student's training
    pairs.py                texts with their embeddings to learn from
    edits.py                edits of texts, which a student must tell apart

`unembed.training.fit` does all of it.
"""
