"""Pairs of a text and its embedding, from which surrogate and student learn: kept in files, or made as needed.

They come in chunks by number: windows of a split, or each of its windows followed by edits of it (`edits`). A chunk is
the same whenever it is made, and so is the batch of a step, so that a run that goes on is the run never stopped.

Shape suffixes: N texts of a chunk, L positions, D dimension.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from unembed.corpus.windows import Windows
from unembed.encoders.encoder import Encoder
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import DataError, EncoderError
from unembed.files.atomic import atomic_file
from unembed.files.tensors import load_tensors, save_tensors
from unembed.surrogate.edits import GROUP, Editor

AT_ONCE = 1024  # texts that the encoder is given together
AHEAD = 4  # chunks that each process makes ahead


class Texts(NamedTuple):
    """Texts and the encoder's answers."""

    ids: Tensor  # (N, L) int64, anything behind a text's end
    lengths: Tensor  # (N,), one at least
    e: Tensor  # (N, D) of length 1

    def rows(self) -> list[list[int]]:
        """The content tokens of each text."""
        return [ids[:length] for ids, length in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]


class Chunks(Dataset[tuple[NDArray[np.int32], NDArray[np.int64]]]):
    """Texts without embeddings, by the number of their chunk: content tokens (N, L) and how many they are (N,).

    Args:
        windows: each batch of which is a chunk.
        editor: makes edits of each window, which follow it, `GROUP` texts together; None: windows alone.
    """

    def __init__(self, windows: Windows, tokenizer: Tokenizer, editor: Editor | None = None) -> None:
        self.windows = windows
        self.tokenizer = tokenizer
        self.editor = editor

    def __len__(self) -> int:
        """Texts in a chunk."""
        return self.windows.batch_size * (1 if self.editor is None else GROUP)

    def __getitem__(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        texts = [self.tokenizer.content(row) for row in self.windows.batch(number).canvas.tolist()]
        if self.editor is not None:
            texts = list(self.editor.groups(texts, np.random.default_rng([*self.windows.seed, number, 1])))
        ids = np.zeros((len(texts), self.windows.length), np.int32)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
        return ids, np.array([len(text) for text in texts])

    def keep(self, encoder: Encoder, number: int, path: Path) -> Path:
        """Write a chunk with its embeddings (stored ones as they are), unless it is there; returns `path`.

        Raises:
            EncoderError: an embedding is not finite.
            OutputError: `path` cannot be written.
        """
        if not path.exists():
            ids, lengths = (torch.from_numpy(values) for values in self[number])
            e = self.windows.batch(number).embeddings if self.editor is None else None
            if e is None:
                parts = zip(torch.split(ids.long(), AT_ONCE), torch.split(lengths, AT_ONCE), strict=True)
                e = torch.cat([encoder.encode_tokens(*part) for part in parts])
            if not e.isfinite().all():
                raise EncoderError(f"{encoder.recipe.encoder}: an embedding has NaN or infinite values")
            with atomic_file(path) as temporary:
                save_tensors({"ids": ids, "lengths": lengths, "e": F.normalize(e, dim=-1).half()}, temporary)
        return path

    def load(self, paths: Sequence[Path]) -> Texts:
        """Chunks from their files. Raises CheckpointError or DataError."""
        return Texts(*(torch.cat(parts) for parts in zip(*map(self._load, paths), strict=True)))

    def _load(self, path: Path) -> Texts:
        shape = {"ids": (len(self), self.windows.length), "lengths": (len(self),)}
        shape["e"] = (len(self), self.windows.recipe.dimension)
        ranges = {"ids": (0, self.tokenizer.vocab_size - 1), "lengths": (1, self.windows.length), "e": (-1, 1)}
        found = load_tensors(path)
        if {name: tuple(tensor.shape) for name, tensor in found.items()} != shape or not all(
            bool(((found[name] >= least) & (found[name] <= most)).all())  # false of NaN
            for name, (least, most) in ranges.items()
        ):
            raise DataError(f"{path}: does not hold {len(self)} texts with embeddings; delete it to have it made again")
        return Texts(found["ids"].long(), found["lengths"].long(), F.normalize(found["e"].float(), dim=-1))

    def kept(self, paths: Sequence[Path], seed: int, turn: int) -> Iterator[Texts]:
        """Chunks drawn at random from files without end, from a turn on."""
        for number in itertools.count(turn):
            yield self.load([paths[int(np.random.default_rng([seed, number]).integers(len(paths)))]])

    def streamed(self, encoder: Encoder, device: torch.device, turn: int) -> Iterator[Texts]:
        """Chunks without end, from a turn on, which other processes make; each is embedded once, on `device`."""
        if self.editor is not None:
            self.editor.find_all()  # once, not in each process
        loader = DataLoader(
            self, batch_size=None, sampler=range(turn, 2**31), num_workers=max(1, (os.cpu_count() or 1) - 2),
            prefetch_factor=AHEAD, pin_memory=device.type == "cuda",
        )  # fmt: skip
        for ids, lengths in loader:
            ids, lengths = ids.to(device, non_blocking=True).long(), lengths.to(device, non_blocking=True)
            yield Texts(ids, lengths, F.normalize(encoder.encode_tokens(ids, lengths).float(), dim=-1))

    def batches(self, chunks: Callable[[int], Iterator[Texts]], batch: int, seed: int, step: int) -> Iterator[Texts]:
        """Batches of `batch` groups without end, from a step on.

        Args:
            chunks: `kept` or `streamed`, from a turn on.
        """
        turn, skipped = divmod(step, -(-self.windows.batch_size // batch))
        for number, texts in enumerate(chunks(turn), turn):
            # Groups of like length go together: little padding.
            groups_NB = torch.split(texts.lengths.view(-1, GROUP).amax(1).argsort(stable=True), batch)
            for place in np.random.default_rng([seed, number]).permutation(len(groups_NB)).tolist()[skipped:]:
                first = groups_NB[place][:, None] * GROUP
                rows = (first + torch.arange(GROUP, device=first.device)).flatten()
                lengths = texts.lengths[rows]
                yield Texts(texts.ids[rows, : int(lengths.max())], lengths, texts.e[rows])
            skipped = 0
