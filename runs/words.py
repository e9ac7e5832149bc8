"""How well can the words of a text be told from its embedding, whatever their places? Print a Markdown table.

    python runs/words.py --data SHARDS --model src/unembed/weights/minilm

An inverter's first pass, from all masks, says which words it expects: the mean of its distributions over all
positions. Beside it stand simple heads, fitted here in minutes: a linear map and small networks from the embedding to
one distribution over words. An inverter that does no better than a linear map wastes what the embedding tells it, and
longer training is not what it lacks. Only the 8,192 most frequent tokens count. Windows are those of the inverter's
configuration, all on the full canvas.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import click
import torch
from scripts import run
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from unembed.corpus.windows import Shards, Windows
from unembed.denoiser.precision import slowdown
from unembed.encoders.encoder import Encoder, load_encoder
from unembed.storage.checkpoint import Parts, load_inverter
from unembed.training.initialise import count_tokens

FREQUENT = 8192  # tokens K told apart
BATCH = 512
GUESSES = 64  # likeliest tokens, for the recall


class Sample(NamedTuple):
    """Texts as an embedding and a bag of words each."""

    e: Tensor  # (B, D) of length sqrt(D)
    tokens: Tensor  # (B, T) places among the frequent tokens, -1 for none

    def bags(self, rows: Tensor | slice, words: int) -> Tensor:
        """How often each word occurs in each of the rows, (B, K)."""
        tokens = self.tokens[rows]
        found = torch.zeros(len(tokens), words + 1)
        return found.scatter_add_(1, tokens.where(tokens >= 0, words), torch.ones(tokens.shape))[:, :words]


class Shape(NamedTuple):
    """Of a head: what it makes of the embedding before the features that a token has."""

    condition: int  # width of a network's output, its hidden layer twice as wide; 0 for none
    direct: bool  # whether the embedding itself is among what the last map reads
    rank: int  # of the last map; 0 for a full matrix


HEADS = {
    "linear, rank 128": Shape(0, True, 128),
    "linear": Shape(0, True, 0),
    "network of width 384, rank 128": Shape(384, False, 128),
    "network of width 768": Shape(768, False, 0),
    "network of width 768 and linear": Shape(768, True, 0),
}


class Head(nn.Module):
    """From an embedding (B, D) to logits of words (B, K), through as many features as a token has."""

    def __init__(self, shape: Shape, table_KH: Tensor, shares_K: Tensor, dimension: int) -> None:
        super().__init__()
        width, condition = table_KH.shape[1], shape.condition
        self.network = (
            nn.Sequential(
                nn.Linear(dimension, 2 * condition), nn.GELU(), nn.Linear(2 * condition, condition), nn.SiLU()
            )
            if condition
            else None
        )
        self.direct = shape.direct
        features = condition + dimension * shape.direct
        down = nn.Linear(features, shape.rank, bias=False) if shape.rank else nn.Identity()
        self.last = nn.Sequential(down, nn.Linear(shape.rank or features, width))
        self.table = nn.Parameter(table_KH.clone())
        self.bias = nn.Parameter(shares_K.log())

    def forward(self, e_BD: Tensor) -> Tensor:
        known = [e_BD] if self.direct else []
        known += [self.network(e_BD)] if self.network is not None else []
        return F.linear(self.last(torch.cat(known, -1)), self.table, self.bias)


def reduced() -> bool:
    """Whether bfloat16 is the faster format on this processor; emulated it is up to thirty times slower."""
    return slowdown() <= 1


def sample(windows: Windows, encoder: Encoder, texts: int, place_V: Tensor, label: str) -> Sample:
    """Embed `texts` windows, with progress on standard error."""
    e, tokens = [], []
    for step in tqdm(range(-(-texts // BATCH)), desc=label, unit="batch", disable=not sys.stderr.isatty()):
        batch = windows.batch(step)
        found = encoder.encode_tokens(batch.canvas, batch.lengths)
        e.append(F.normalize(found.float(), dim=-1) * found.shape[1] ** 0.5)
        content = torch.arange(batch.canvas.shape[1]) < batch.lengths[:, None]
        tokens.append(place_V[batch.canvas].where(content, -1))
    return Sample(torch.cat(e)[:texts], torch.cat(tokens)[:texts])


def fit(head: Head, train: Sample, passes: int, seed: int) -> None:
    """AdamW over all texts, `passes` times, the rate falling to zero."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    order = [
        rows for _ in range(passes) for rows in torch.split(torch.randperm(len(train.e), generator=generator), BATCH)
    ]
    for step, rows in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 20) * (1 - step / len(order))
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced()):
            logits_BK = head(train.e[rows])
        bags_BK = train.bags(rows, len(head.bias))
        loss = -(bags_BK * logits_BK.float().log_softmax(-1)).sum() / bags_BK.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.inference_mode()
def judge(log_chances: Callable[[Tensor], Tensor], texts: Sample, words: int) -> tuple[float, float]:
    """Cross-entropy per token in nats, and the share of a text's words among the likeliest."""
    total = hits = tokens = distinct = 0.0
    for rows in torch.split(torch.arange(len(texts.e)), 128):
        log_BK, bags_BK = log_chances(texts.e[rows]), texts.bags(rows, words)
        there_BK = bags_BK > 0
        total -= float((bags_BK * log_BK).sum())
        tokens += float(bags_BK.sum())
        hits += float(there_BK.gather(1, log_BK.topk(min(GUESSES, words)).indices).sum())
        distinct += float(there_BK.sum())
    return total / tokens, hits / distinct


def rows_of_table(
    parts: Parts, train: Sample, held_out: Sample, frequent_K: Tensor, passes: int, seed: int
) -> Iterator[tuple[str, str, float, float]]:
    """Name, parameters beside the table, cross-entropy and recall: unigrams, the heads, the inverter."""
    words, denoiser = len(frequent_K), parts.denoiser
    counts_K = 1 + train.tokens[train.tokens >= 0].bincount(minlength=words)
    shares_K = counts_K / counts_K.sum()
    yield "frequencies alone", "0", *judge(lambda e_BD: shares_K.log().expand(len(e_BD), -1), held_out, words)
    for name, shape in HEADS.items():
        torch.manual_seed(seed)
        head = Head(shape, denoiser.table.weight[frequent_K].float(), shares_K, train.e.shape[1])
        fit(head, train, passes, seed)
        size = sum(p.numel() for p in head.parameters()) - head.table.numel() - head.bias.numel()
        yield name, f"{size:,}", *judge(nn.Sequential(head, nn.LogSoftmax(-1)), held_out, words)

    def first_pass(e_BD: Tensor) -> Tensor:
        masks_BL = torch.full((len(e_BD), denoiser.config.max_tokens), denoiser.mask_id)
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced()):
            chances_BLV = denoiser(masks_BL, e_BD).float().softmax(-1)
        return F.normalize(chances_BLV[..., frequent_K].mean(1), p=1, dim=-1).log()

    yield "this inverter, from all masks", "", *judge(first_pass, held_out, words)


@click.command(help=__doc__)
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False), help="folder of prepared shards")
@click.option("--model", required=True, type=click.Path(exists=True), help="an inverter's folder or .pt file")
@click.option("--texts", default=100_000, show_default=True, help="texts that the heads are fitted to")
@click.option("--held-out", default=2048, show_default=True, help="texts of the validation split that judge")
@click.option("--passes", default=2, show_default=True, help="over the texts")
@click.option("--seed", default=0, show_default=True, help="which texts, and the heads' first weights")
def main(data: str, model: str, texts: int, held_out: int, passes: int, seed: int) -> None:
    parts = load_inverter(model)
    encoder = load_encoder(replace(parts.config.encoder, precision="bfloat16" if reduced() else "float32"))
    shards, whole = Shards.open(data), replace(parts.config.data, short_share=0.0)
    length = parts.config.model.max_tokens

    def drawn(split: str) -> Windows:
        return Windows(shards, whole, encoder.tokenizer, length, BATCH, seed, split)

    windows = drawn("train")
    counts_V = count_tokens(windows, encoder.tokenizer.vocab_size)
    counts_V[[encoder.tokenizer.pad_id, encoder.tokenizer.eos_id, encoder.tokenizer.mask_id]] = 0
    frequent_K = counts_V.topk(min(FREQUENT, int((counts_V > 0).sum()))).indices
    place_V = torch.full_like(counts_V, -1)
    place_V[frequent_K] = torch.arange(len(frequent_K))
    train = sample(windows, encoder, texts, place_V, "training texts")
    judges = sample(drawn("validation"), encoder, held_out, place_V, "held-out texts")
    click.echo(f"| words from the embedding | parameters | cross-entropy per token | recall in {GUESSES} |")
    click.echo("| --- | ---: | ---: | ---: |")
    for name, size, entropy, recall in rows_of_table(parts, train, judges, frequent_K, passes, seed):
        click.echo(f"| {name} | {size} | {entropy:.3f} | {recall:.3f} |")


if __name__ == "__main__":
    run(main)
