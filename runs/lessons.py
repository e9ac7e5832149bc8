"""Texts with the encoder's answers, from which its student learns: kept in files, or made as they are needed.

A chunk is `GROUPS` windows with their edits (`garbled`), and the same whenever and wherever it is made.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from chunks import embedded, padded
from garbled import GROUP, Editor, groups
from numpy.typing import NDArray
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from unembed.corpus.windows import Shards, Windows
from unembed.encoders.encoder import Encoder
from unembed.files.atomic import atomic_file
from unembed.inverter import Inverter
from unembed.surrogate.contributions import Texts

GROUPS = 1024  # in a chunk
AHEAD = 4  # chunks that each process makes ahead


class Chunks(Dataset[tuple[NDArray[np.int32], NDArray[np.int64]]]):
    """The chunks of a split by number, without answers: content tokens (N, L) and their numbers (N,)."""

    def __init__(self, inverter: Inverter, alike_VA: NDArray[np.int32], data: str, split: str, seed: int) -> None:
        # Whole canvases less often than in training: a search is about texts of every length.
        config = dataclasses.replace(inverter.config.data, full_windows=0.35, short_share=0.0)
        self.tokenizer, self.length = inverter.tokenizer, inverter.length
        self.windows = Windows(Shards.open(data), config, self.tokenizer, self.length, GROUPS, seed, split)
        self.editor = Editor(alike_VA, self.length)
        self.split, self.seed = split, seed

    def texts(self, number: int) -> list[list[int]]:
        """The content tokens of each text."""
        noise = np.random.default_rng([self.seed, number, self.split == "train"])
        return list(groups(self.windows, self.tokenizer, self.editor, number, noise))

    def __getitem__(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        return padded(self.texts(number), self.length)


def keep(chunks: Chunks, encoder: Encoder, number: int, folder: Path) -> Path:
    """The file of a chunk with its answers, which is made where it is not there yet."""
    path = folder / f"{chunks.split}_{chunks.seed}_{number}.npz"
    if not path.exists():
        ids, lengths, e = embedded(encoder, chunks.texts(number), chunks.length)
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, tokens=ids, lengths=lengths, e=e)
    return path


def load(path: Path) -> Texts:
    """A chunk from its file, groups together."""
    with np.load(path) as file:
        ids, lengths, e = (torch.from_numpy(file[name]) for name in ("tokens", "lengths", "e"))
    return Texts(ids.long(), lengths.long(), F.normalize(e.float(), dim=-1))


def kept(paths: Sequence[Path], batch: int, seed: int, step: int) -> Iterator[Texts]:
    """Batches of `batch` groups without end, of chunks drawn at random; a later run begins at another `step`."""
    while True:
        noise = np.random.default_rng([seed, step])
        texts = load(paths[int(noise.integers(len(paths)))])
        for part in batches(texts, batch, noise):
            yield part
            step += 1


def streamed(
    chunks: Chunks, encoder: Encoder, device: torch.device, batch: int, seed: int, step: int
) -> Iterator[Texts]:
    """The same of chunks that are made by other processes and embedded on `device`, each of them once."""
    first = step // max(1, GROUPS // batch)
    loader = DataLoader(
        chunks, batch_size=None, sampler=range(first, 2**31), num_workers=max(1, (os.cpu_count() or 1) - 2),
        prefetch_factor=AHEAD, pin_memory=device.type == "cuda",
    )  # fmt: skip
    for number, (ids, lengths) in enumerate(loader, first):
        ids, lengths = ids.to(device, non_blocking=True).long(), lengths.to(device, non_blocking=True)
        texts = Texts(ids, lengths, F.normalize(encoder.encode_tokens(ids, lengths).float(), dim=-1))
        yield from batches(texts, batch, np.random.default_rng([seed, number]))


def batches(texts: Texts, batch: int, noise: np.random.Generator) -> Iterator[Texts]:
    """A chunk in batches of `batch` groups in a random order. Those of like length go together: little padding."""
    groups_NB = texts.lengths.view(-1, GROUP).amax(1).argsort(stable=True).split(batch)
    for number in noise.permutation(len(groups_NB)).tolist():
        rows = (groups_NB[number][:, None] * GROUP + torch.arange(GROUP, device=groups_NB[number].device)).flatten()
        lengths = texts.lengths[rows]
        yield Texts(texts.ids[rows, : int(lengths.max())], lengths, texts.e[rows])
