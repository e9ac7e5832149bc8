"""Objective: what a denoiser is trained to do.

diffusion.py       corruption with masks, and the loss
feedback.py        hypotheses, whose embeddings the denoiser is shown too
edits.py           random changes of texts, of which hypotheses are made
autoregressive.py  the autoregressive twin that the denoiser is compared with
"""
