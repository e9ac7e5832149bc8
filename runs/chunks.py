"""Many texts with their embeddings as arrays, which scripts keep in files."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from unembed.encoders.encoder import Encoder

AT_ONCE = 128  # texts that the encoder is given at once


def padded(texts: Sequence[Sequence[int]], length: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Content tokens (N, `length`), 0 behind a text's end, and their numbers (N,)."""
    lengths = np.array([len(text) for text in texts])
    ids = np.zeros((len(texts), length), np.int32)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    return ids, lengths


def embedded(
    encoder: Encoder, texts: Sequence[Sequence[int]], length: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float16]]:
    """`padded` texts, and the encoder's answers (N, D)."""
    ids, lengths = padded(texts, length)
    e = np.zeros((len(texts), encoder.recipe.dimension), np.float16)
    order = np.argsort(lengths, kind="stable")  # texts of like length, which hold little padding
    for start in range(0, len(order), AT_ONCE):
        rows = order[start : start + AT_ONCE]
        part = torch.from_numpy(ids[rows, : lengths[rows].max()].astype(np.int64))
        e[rows] = encoder.encode_tokens(part, torch.from_numpy(lengths[rows])).numpy()
    return ids, lengths, e
