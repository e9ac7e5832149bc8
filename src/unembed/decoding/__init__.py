"""Decoding: how masks become tokens, given an embedding and nothing else.

options.py         what may be chosen (`Decoding`), and the constants that were tuned
strategies.py      the order in which masks become tokens
predictor.py       passes of the denoiser, and what is made of their logits
guesses.py         passes over whole batches at once, for hypotheses to train on and correction by steps
token_counts.py    later passes keep to the token counts that the first one expects
steering.py        predictions drawn towards tokens whose bag has the embedding
agreement.py       which of several texts the others agree with
calibration.py     from a confidence to the probability that a token is right
inversion.py       what an inversion gives
other_encoders.py  whether embeddings are of another encoder
"""
