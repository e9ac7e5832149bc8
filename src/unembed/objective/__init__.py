"""Objective: what a denoiser is trained to do.

Corruption and loss, hypotheses for its feedback, and the autoregressive twin with which it is compared.
"""
