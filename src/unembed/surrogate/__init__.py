"""Surrogate: a cheap model of the encoder, and how it is fitted.

A bag of tokens with contributions of their own, and a student that knows what a bag cannot know.
"""
