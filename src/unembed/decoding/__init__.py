"""Decoding: how masks become tokens, given an embedding and nothing else.

Strategies and the predictor that makes their passes; the token counts, steering and consensus that decide between
tokens and between texts; calibrated confidence; and what an inversion tells in the end.
"""
