"""A deterministic 16-d encoder over a 69-token vocabulary: quick, offline, and with enough structure to learn from.

Also denoisers and inverters of random weights, which nothing was learned by, but which depend on all that they see.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from torch import Tensor, nn

from unembed.config import Config, DataConfig, DiffusionConfig, ModelConfig, Recipe, TrainingConfig
from unembed.denoiser.model import Denoiser
from unembed.encoders.tokenizer import Tokenizer
from unembed.storage.checkpoint import Parts, build_denoiser, save_inverter
from unembed.surrogate.bag import Fitted, Own, fit
from unembed.surrogate.student import Student

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [".", ",", "?", "'", "##s", "##ing", "##ed"]
ARTICLES = ["the", "a", "one", "every", "no", "this"]
ADJECTIVES = ["old", "small", "red", "quiet", "bright", "cold", "young", "green", "wild", "slow"]
NOUNS = ["cat", "dog", "river", "house", "ship", "tree", "king", "child", "bird", "town", "horse", "letter"]
VERBS = ["watch", "follow", "paint", "open", "visit", "remember", "guard", "cross", "learn", "repair"]
TAILS = ["today", "again", "at", "night", "in", "winter", "with", "care", "and", "then", "never", "alone"]
LETTERS = ["x", "y", "z", "i", "you", "we", "it"]
DIMENSION = 16
FIRST = 4.0  # what [CLS] counts more in `LocalEncoder`


def tiny_tokenizer() -> Tokenizer:
    """A lower-case WordPiece vocabulary of 69 tokens with BERT's special ones."""
    words = SPECIALS + PIECES + ARTICLES + ADJECTIVES + NOUNS + VERBS + TAILS + LETTERS
    vocabulary = {word: i for i, word in enumerate(words)}
    backend = Backend(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.add_special_tokens(SPECIALS)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return Tokenizer(backend, mask_id=vocabulary["[MASK]"], eos_id=vocabulary["[SEP]"], pad_id=vocabulary["[PAD]"])


class _Network(nn.Module):
    """As much of a transformers model as starting a denoiser's token table needs."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(table)

    def get_input_embeddings(self) -> nn.Embedding:
        """The token table (V, 16)."""
        return self.table


class FakeEncoder:
    """Sum of token vectors, each scaled by place, through tanh, to unit length: order matters, and it takes no time."""

    def __init__(self, dimension: int = DIMENSION) -> None:
        self.recipe = Recipe(encoder="fake", dimension=dimension, max_length=64)
        self.tokenizer = tiny_tokenizer()
        self.calls = 0
        generator = torch.Generator().manual_seed(7)
        self.network = _Network(torch.randn(self.tokenizer.vocab_size, dimension, generator=generator))
        self._places = torch.randn(self.recipe.max_length, dimension, generator=generator)

    def to(self, device: str | torch.device) -> Self:
        """Move to `device`."""
        self.network.to(device)
        self._places = self._places.to(device)
        return self

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        """Embeddings (n, 16) float32 of `texts`."""
        rows = [ids[: self.recipe.max_length - 2] for ids in self.tokenizer.encode_batch(texts)]
        if not rows:
            return np.zeros((0, self.recipe.dimension), dtype=np.float32)
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
        device = self._places.device
        return self.encode_tokens(ids.to(device), lengths.to(device)).cpu().numpy()

    def encode_tokens(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings (B, 16) float32 of content ids (B, T)."""
        self.calls += len(ids)
        ids = ids[:, : self.recipe.max_length - 2]
        before = torch.full((len(ids), 1), self.tokenizer.prefix_ids[0], device=ids.device)
        framed = torch.cat([before, ids], dim=1)
        known = torch.arange(framed.shape[1], device=ids.device) <= lengths.to(ids.device)[:, None]
        with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
            vectors = self.network.table(framed) * (1.0 + self._places[: framed.shape[1]])
            total = (vectors * known.unsqueeze(-1)).sum(1)
            return torch.nn.functional.normalize(torch.tanh(total / 3.0), dim=-1)


class LocalEncoder(FakeEncoder):
    """Token vectors and what neighbours make of each other: as in a real one, a small change does little.

    The first one, of [CLS], counts more than others, so that lengths differ.
    """

    def __init__(self) -> None:
        super().__init__(64)
        generator = torch.Generator().manual_seed(8)
        self._left, self._right = (torch.randn(64, 64, generator=generator) / 8 for _ in range(2))

    def encode_tokens(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings (B, 64) float32 of content ids (B, T)."""
        self.calls += len(ids)
        ids, ends = ids[:, : self.recipe.max_length - 2], (len(ids), 1)
        framed = torch.cat([torch.full(ends, self.tokenizer.prefix_ids[0]), ids, torch.zeros(ends).long()], dim=1)
        framed[torch.arange(len(ids)), lengths + 1] = self.tokenizer.suffix_ids[0]
        inside = torch.arange(framed.shape[1] - 1) <= lengths[:, None]
        with torch.no_grad():
            x = self.network.table(framed)
            pairs = torch.tanh(x[:, :-1] @ self._left + x[:, 1:] @ self._right)
            total = FIRST * x[:, 0] + ((x[:, :-1] + pairs) * inside.unsqueeze(-1)).sum(1)
            return torch.nn.functional.normalize(total, dim=-1)


def fake_encoder() -> FakeEncoder:
    """A new `FakeEncoder`, its count of calls at zero; all of them give the same embeddings."""
    return FakeEncoder()


def tiny_texts(n: int, seed: int = 0) -> list[str]:
    """`n` sentences of 6 to 12 tokens that `tiny_tokenizer` knows and gives back unchanged."""
    rng = random.Random(seed)

    def noun_phrase() -> str:
        words = [rng.choice(ARTICLES), rng.choice(ADJECTIVES), rng.choice(NOUNS)]
        return " ".join(words if rng.random() < 0.5 else [words[0], words[2]])

    texts = []
    for _ in range(n):
        clause = f"{noun_phrase()} {rng.choice(VERBS)}{rng.choice(['s', 'ed', 'ing', ''])} {noun_phrase()}"
        tail = rng.choice(["", " today", " at night", " in winter", " with care", " never again", " and then alone"])
        texts.append(clause + tail + rng.choice([".", "?", "."]))
    return texts


def tiny_config() -> Config:
    """A whole configuration that trains in seconds: 16 positions, 2 blocks of width 32."""
    return Config(
        encoder=fake_encoder().recipe,
        model=ModelConfig(
            max_tokens=16, width=32, blocks=2, heads=4, feed_forward=64, adaln_rank=8, condition_width=16
        ),
        diffusion=DiffusionConfig(),
        data=DataConfig(held_out=0.1, min_tokens=2),
        training=TrainingConfig(
            steps=20,
            batch_size=16,
            precision="float32",
            warmup_steps=2,
            start_from_encoder="none",
            log_every=5,
            validate_every=10,
            validation_texts=16,
        ),
    )


def tiny_surrogate() -> Fitted:
    """What the fake encoder looks like to a denoiser whose token table is `tiny_parts`'."""
    encoder, texts = fake_encoder(), tiny_texts(300, seed=9)
    ids = encoder.tokenizer.encode_batch(texts)
    table_VH = tiny_parts().denoiser.table.weight
    fitted = fit(table_VH, ids, torch.from_numpy(encoder.encode(texts)))
    # Contributions of their own, by which passes are steered, and which add nothing.
    own = Own(torch.ones(len(table_VH)), torch.zeros(len(table_VH), 1), torch.zeros(1, len(fitted.bias)))
    return fitted._replace(own=own)


def taught(fitted: Fitted) -> Fitted:
    """The same surrogate with a student that has something to say, if nothing that it has learned."""
    torch.manual_seed(3)
    student = Student(*fitted.weight.shape, positions=16, width=32)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return fitted._replace(student=student.eval().requires_grad_(False))


def perturbed(denoiser: Denoiser, noise: float) -> Denoiser:
    """The same denoiser, every weight moved: AdaLN's too, which start at zero and would hide the embedding."""
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return denoiser


def small_denoiser(
    vocab_size: int, dimension: int, length: int, noise: float, width: int = 8, blocks: int = 1
) -> Denoiser:
    """A denoiser for canvases of any few tokens, the last of which is the mask; the same one each time."""
    torch.manual_seed(0)
    config = ModelConfig(
        max_tokens=length,
        width=width,
        blocks=blocks,
        heads=2,
        feed_forward=width,
        adaln_rank=0,
        condition_width=width,
    )
    return perturbed(Denoiser(vocab_size, dimension, vocab_size - 1, config), noise)


def tiny_denoiser(noise: float) -> Denoiser:
    """A denoiser of `tiny_config` for the fake encoder; the same one each time."""
    torch.manual_seed(0)
    return perturbed(build_denoiser(tiny_config(), tiny_tokenizer()), noise)


def tiny_parts() -> Parts:
    """An untrained inverter whose guesses differ from text to text and are more than a few tokens long."""
    denoiser = tiny_denoiser(0.2).eval().requires_grad_(False)
    denoiser.output_bias[list(denoiser.end_ids)] = -4.0
    return Parts(denoiser, tiny_tokenizer(), tiny_config(), {"steps": 1})


def local_parts() -> Parts:
    """An untrained inverter of `LocalEncoder`, with a surrogate that knows what its tokens contribute."""
    encoder, texts = LocalEncoder(), tiny_texts(300, seed=9)
    config = replace(tiny_config(), encoder=encoder.recipe)
    torch.manual_seed(0)
    denoiser = perturbed(build_denoiser(config, tiny_tokenizer()), 0.02).eval().requires_grad_(False)
    fitted = fit(denoiser.table.weight, encoder.tokenizer.encode_batch(texts), torch.from_numpy(encoder.encode(texts)))
    table_VD = encoder.network.table.weight.detach()
    own = Own(torch.zeros(len(table_VD)), table_VD, torch.eye(64))
    return Parts(denoiser, encoder.tokenizer, config, {"steps": 1}, surrogate=fitted._replace(own=own))


def save_tiny_inverter(folder: Path) -> Path:
    """Write `tiny_parts` as an inverter's folder, which is returned."""
    parts = tiny_parts()
    save_inverter(folder, parts.denoiser.state_dict(), parts.tokenizer, parts.config, parts.results)
    return folder
