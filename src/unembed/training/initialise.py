"""Starting a denoiser from what is known before training: the encoder's own weights, and how often tokens occur.

The encoder has read far more text than an inverter's training run will. Its token table already places words
by meaning, in the vocabulary that the denoiser predicts; for a BERT-like encoder of the same shape,
the blocks can be taken over as well. A denoiser that was trained already can be made deeper without changing what it
computes.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from unembed.corpus.windows import Windows
from unembed.denoiser.model import Block, Denoiser
from unembed.encoders.encoder import Encoder
from unembed.errors import ConfigError


@torch.no_grad()
def start_from_encoder(denoiser: Denoiser, encoder: Encoder, what: str) -> None:
    """Copy the encoder's token table ('table'), or table, positions and blocks ('blocks'), into a new denoiser.

    BERT normalises after each residual sum, the denoiser before each branch. A norm's weights are therefore
    folded into the matrix that reads its output, which keeps what each branch computes from the direction of the
    residual stream; the scale of the stream differs, so this is a start, not the same function.

    Raises:
        ConfigError: the encoder's shape does not fit the denoiser's.
    """
    if what == "none":
        return
    network = encoder.network
    table = network.get_input_embeddings().weight.float()
    if table.shape[1] != denoiser.config.width:
        raise ConfigError(
            f"training.start_from_encoder is {what!r}, but the encoder's token table is {table.shape[1]} wide "
            f"and model.width is {denoiser.config.width}"
        )
    rows = min(len(table), len(denoiser.table.weight))  # a mask appended to the vocabulary has no row yet
    denoiser.table.weight[:rows] = table[:rows].to(denoiser.table.weight.device)
    if what == "blocks":
        _take_blocks(denoiser, network)


@torch.no_grad()
def start_from_frequencies(denoiser: Denoiser, windows: Windows, batches: int = 64) -> None:
    """Set the output bias to the log share of each token on the canvases of the first `batches` batches.

    Tokens are counted once more than they occur, so that unseen ones stay possible.
    """
    counts_V = 1 + count_tokens(windows, len(denoiser.output_bias), batches)
    denoiser.output_bias.copy_((counts_V / counts_V.sum()).log())


def count_tokens(windows: Windows, vocab_size: int, batches: int = 64) -> Tensor:
    """How often each token (V,) stands on the canvases of the first `batches` batches, EOS and PAD too."""
    counts_V = torch.zeros(vocab_size, dtype=torch.int64)
    for step in range(batches):
        counts_V += windows.batch(step).canvas.flatten().bincount(minlength=vocab_size)
    return counts_V


def deepened(weights: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """The weights of a denoiser with `blocks` blocks that computes what the one of `weights` does.

    New blocks stand behind the old ones that they are copies of, evenly, with both gates closed (`1 + gate` is 0).
    (Function-preserving growth, arXiv 1511.05641; that copies beat fresh blocks, arXiv 1910.06732.)

    Raises:
        ConfigError: the denoiser has more blocks than that.
    """
    had = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    if had > blocks:
        raise ConfigError(f"model.blocks is {blocks}, but the weights to start from have {had} blocks")
    found = {name: tensor for name, tensor in weights.items() if not name.startswith("blocks.")}
    before = -1
    for block in range(blocks):
        old = block * had // blocks
        prefix = f"blocks.{old}."
        own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        if old == before:
            for kind, value in (("weight", 0.0), ("bias", -1.0)):
                old_up = own[f"adaln.up.{kind}"]
                modulation = old_up.reshape(6, -1).clone()
                modulation[[2, 5]] = value  # the gates of attention and feed-forward
                own[f"adaln.up.{kind}"] = modulation.reshape(old_up.shape)
        found |= {f"blocks.{block}.{name}": tensor for name, tensor in own.items()}
        before = old
    return found


def _take_blocks(denoiser: Denoiser, network: Any) -> None:
    config, layers = denoiser.config, getattr(getattr(network, "encoder", None), "layer", ())
    bert = network.config
    shape = (len(layers), getattr(bert, "num_attention_heads", 0), getattr(bert, "intermediate_size", 0))
    if shape != (config.blocks, config.heads, config.feed_forward):
        raise ConfigError(
            "training.start_from_encoder is 'blocks', but the encoder is no BERT of "
            f"{config.blocks} blocks, {config.heads} heads and feed-forward {config.feed_forward}"
        )
    embeddings = network.embeddings
    positions = embeddings.position_embeddings.weight[1 : config.max_tokens + 1]  # place 0 is [CLS]'s
    denoiser.positions.copy_(positions + embeddings.token_type_embeddings.weight[0])
    denoiser.embedding_norm.load_state_dict(embeddings.LayerNorm.state_dict())
    norm = embeddings.LayerNorm
    for block, layer in zip(cast(list[Block], denoiser.blocks), layers, strict=True):
        reads, writes = block.feed_forward[0], block.feed_forward[2]
        assert isinstance(reads, nn.Linear)
        assert isinstance(writes, nn.Linear)
        attention = layer.attention.self
        qkv = [attention.query, attention.key, attention.value]
        _fold(block.attention.qkv, torch.cat([m.weight for m in qkv]), torch.cat([m.bias for m in qkv]), norm)
        block.attention.out.load_state_dict(layer.attention.output.dense.state_dict())
        norm = layer.attention.output.LayerNorm
        _fold(reads, layer.intermediate.dense.weight, layer.intermediate.dense.bias, norm)
        writes.load_state_dict(layer.output.dense.state_dict())
        norm = layer.output.LayerNorm


def _fold(target: nn.Linear, weight: Tensor, bias: Tensor, norm: nn.LayerNorm) -> None:
    """`target(x) = weight @ norm(x) + bias` for an x that is normalised without weights."""
    target.weight.copy_(weight * norm.weight)
    target.bias.copy_(bias + weight @ norm.bias)
