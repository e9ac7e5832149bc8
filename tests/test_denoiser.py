"""The denoiser against torch's own transformer, a count by hand, and the BERT it may start from."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from fakes import FakeEncoder
from unembed.config import ModelConfig, load_config
from unembed.denoiser.model import Denoiser, attend, count_parameters
from unembed.errors import ConfigError
from unembed.training.initialise import start_from_encoder

CONFIG = ModelConfig(max_tokens=8, width=32, blocks=3, heads=4, feed_forward=48, adaln_rank=8, condition_width=16)
V, D, MASK = 23, 10, 4
V2_QWEN3 = Path(__file__).parents[1] / "configs" / "v2_qwen3.yaml"
QWEN3_VOCABULARY = 151_669


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def denoiser_with(noise: float = 0.0, config: ModelConfig = CONFIG) -> Denoiser:
    """A new denoiser; with `noise` every parameter is moved, so that nothing is zero any more."""
    torch.manual_seed(3)
    denoiser = Denoiser(V, D, MASK, config)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return denoiser


def canvas(rows: int = 5, length: int = CONFIG.max_tokens) -> Tensor:
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(1))


def embeddings(rows: int = 5) -> Tensor:
    return F.normalize(torch.randn(rows, D, generator=torch.Generator().manual_seed(2)), dim=-1)


def vanilla_hidden(denoiser: Denoiser, ids: Tensor) -> Tensor:
    """What torch's own pre-norm transformer computes with the denoiser's weights."""
    x = denoiser.embedding_norm(denoiser.table(ids) + denoiser.positions[: ids.shape[1]])
    config = denoiser.config
    for block in denoiser.blocks:
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            config.feed_forward,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        layer.self_attn.in_proj_weight.data = block.attention.qkv.weight.data
        layer.self_attn.in_proj_bias.data = block.attention.qkv.bias.data
        layer.self_attn.out_proj.load_state_dict(block.attention.out.state_dict())
        layer.linear1.load_state_dict(block.feed_forward[0].state_dict())
        layer.linear2.load_state_dict(block.feed_forward[2].state_dict())
        x = layer(x)
    return nn.LayerNorm(config.width)(x)


@pytest.mark.parametrize("rank", [0, 8])
def test_starts_as_a_vanilla_transformer_whatever_the_embedding(rank: int) -> None:
    denoiser = denoiser_with(config=dataclasses.replace(CONFIG, adaln_rank=rank))
    with torch.no_grad():  # bigger weights and biases than the initial ones: the equality is of the architecture
        for name, parameter in denoiser.named_parameters():
            if "adaln" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    expected = vanilla_hidden(denoiser, canvas())
    for modulation in (
        denoiser.condition(embeddings()),
        denoiser.condition(torch.ones(5, D)),
        denoiser.unconditional(5),
    ):
        torch.testing.assert_close(denoiser.hidden(canvas(), modulation), expected, rtol=1e-5, atol=1e-5)


def test_shorter_canvases_use_the_first_positions() -> None:
    denoiser = denoiser_with()
    ids = canvas(length=3)
    hidden = denoiser.hidden(ids, denoiser.condition(embeddings()))
    torch.testing.assert_close(hidden, vanilla_hidden(denoiser, ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 8])
def test_adaln_is_zero_at_the_start_yet_gets_gradient(rank: int) -> None:
    denoiser = denoiser_with(config=dataclasses.replace(CONFIG, adaln_rank=rank))
    layers = [block.adaln.up for block in denoiser.blocks] + [denoiser.final_adaln.up]
    assert not any(layer.weight.any() or layer.bias.any() for layer in layers)
    F.cross_entropy(denoiser(canvas(), embeddings())[:, 0], torch.tensor([0, 1, 2, 3, 5])).backward()
    for layer in layers:
        for vector in layer.weight.grad.unflatten(0, (-1, CONFIG.width)):  # each shift, scale and gate
            assert vector.abs().max() > 0
        assert layer.bias.grad.abs().max() > 0


@pytest.mark.parametrize(("asked", "width"), [(0, 64), (7, 7)])
def test_what_reads_the_embedding_is_as_wide_as_asked(asked: int, width: int) -> None:
    denoiser = denoiser_with(noise=0.2, config=dataclasses.replace(CONFIG, condition_width=asked))
    e = embeddings()
    assert denoiser.projection[0].out_features == 2 * width
    known = torch.cat([F.silu(denoiser.projection(e * D**0.5)), e * D**0.5], 1)  # once through a network, once as it is
    assert known.shape == (5, width + D)
    block = denoiser.blocks[1].adaln
    by_hand = known @ (block.up.weight @ block.down.weight).T + block.up.bias
    torch.testing.assert_close(denoiser.condition(e).blocks[:, 1].flatten(1), by_hand, rtol=1e-4, atol=1e-4)
    final = denoiser.final_adaln.up  # of full rank whatever that of the blocks
    torch.testing.assert_close(denoiser.condition(e).final.flatten(1), known @ final.weight.T + final.bias)


def test_the_embedding_matters_once_adaln_is_not_zero() -> None:
    denoiser = denoiser_with(noise=0.2)
    one, other = denoiser(canvas(1), embeddings()[:1]), denoiser(canvas(1), embeddings()[1:2])
    assert (one - other).nan_to_num().abs().max() > 0.1
    # Only its direction does: float16 stores and encoders that do not normalise give the same.
    torch.testing.assert_close(denoiser(canvas(1), 7.5 * embeddings()[:1]), one)


def test_modulation_equals_adaln_written_by_hand() -> None:
    denoiser = denoiser_with(noise=0.2)
    block = denoiser.blocks[0]
    x, vectors = torch.randn(2, 8, 32), torch.randn(2, 6, 32)
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (vectors[:, i, None] for i in range(6))
    norm = nn.LayerNorm(32, elementwise_affine=False)
    y = x + (1 + gate_a) * block.attention(norm(x) * (1 + scale_a) + shift_a)
    y = y + (1 + gate_f) * block.feed_forward(norm(y) * (1 + scale_f) + shift_f)
    torch.testing.assert_close(block(x, vectors), y)


def test_attention_equals_torch() -> None:
    q, k, v = torch.randn(3, 2, 4, 8, 16)
    torch.testing.assert_close(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_every_position_sees_every_other() -> None:
    denoiser = denoiser_with(noise=0.2)
    ids = canvas(1)
    before = denoiser(ids, embeddings()[:1])
    for changed in (0, 7):
        other = ids.clone()
        other[0, changed] = (other[0, changed] + 1) % V
        moved = (denoiser(other, embeddings()[:1]) - before).nan_to_num().abs().amax(-1)
        assert (moved > 1e-6).all()


def test_the_mask_is_never_predicted() -> None:
    logits = denoiser_with(noise=0.2)(canvas(), embeddings())
    assert logits.shape == (5, 8, V)
    assert (logits[..., MASK] == -torch.inf).all()
    others = torch.arange(V) != MASK
    assert logits[..., others].isfinite().all()
    torch.testing.assert_close(logits[..., others].softmax(-1).sum(-1), torch.ones(5, 8))


def test_tables_are_tied() -> None:
    denoiser = denoiser_with(noise=0.2)
    assert {name for name, p in denoiser.named_parameters() if V in p.shape} == {"table.weight", "output_bias"}
    hidden = torch.randn(3, CONFIG.width)
    expected = hidden @ denoiser.table.weight.T + denoiser.output_bias
    others = torch.arange(V) != MASK
    torch.testing.assert_close(denoiser.logits(hidden)[:, others], expected[:, others])


def test_rows_of_a_modulation_can_be_chosen_and_repeated() -> None:
    denoiser = denoiser_with(noise=0.2)
    ids, modulation = canvas(), denoiser.condition(embeddings())
    whole = denoiser.hidden(ids, modulation)
    index = torch.tensor([3, 0])
    torch.testing.assert_close(denoiser.hidden(ids[index], modulation.rows(index)), whole[index])
    torch.testing.assert_close(denoiser.hidden(ids[1:3], modulation.rows(slice(1, 3))), whole[1:3])
    twice = denoiser.hidden(ids.repeat_interleave(2, 0), modulation.repeat(2))
    torch.testing.assert_close(twice, whole.repeat_interleave(2, 0))
    one_by_one = [denoiser.hidden(ids[i : i + 1], denoiser.condition(embeddings()[i : i + 1])) for i in range(5)]
    torch.testing.assert_close(torch.cat(one_by_one), whole)


def test_dropped_rows_get_the_null_embedding_and_no_others() -> None:
    denoiser = denoiser_with(noise=0.2)
    drop = torch.tensor([False, True, False, False, True])
    mixed, plain = denoiser.condition(embeddings(), drop), denoiser.condition(embeddings())
    null = denoiser.unconditional(5)
    for found, kept, dropped in zip(mixed, plain, null, strict=True):
        torch.testing.assert_close(found[~drop], kept[~drop])
        torch.testing.assert_close(found[drop], dropped[drop])
        assert not torch.allclose(kept[drop], dropped[drop])


def on_meta(config: ModelConfig) -> int:
    with torch.device("meta"):
        return count_parameters(Denoiser(QWEN3_VOCABULARY + 1, 1024, QWEN3_VOCABULARY, config))


def test_the_published_model_has_78_million_parameters() -> None:
    config = load_config(V2_QWEN3)
    model = config.model
    assert (config.encoder.dimension, model.max_tokens) == (1024, 32)
    assert (model.width, model.blocks, model.heads, model.feed_forward) == (768, 8, 12, 3072)
    found = on_meta(model)
    assert found == pytest.approx(78e6, rel=0.01)
    for rank in (model.adaln_rank - 1, model.adaln_rank + 1):
        assert abs(found - 78e6) <= abs(on_meta(dataclasses.replace(model, adaln_rank=rank)) - 78e6)
    h, f, r, d, c = 768, 3072, model.adaln_rank, 1024, 2 * 768
    block = (h * 3 * h + 3 * h) + (h * h + h) + (h * f + f) + (f * h + h) + ((c + d) * r + r * 6 * h + 6 * h)
    final = (c + d) * 2 * h + 2 * h
    projection = (d * 2 * c + 2 * c) + (2 * c * c + c)
    assert found == 8 * block + final + projection + 32 * h + 2 * h + d  # positions, embedding norm, null embedding


BERT = {
    "hidden_size": CONFIG.width,
    "num_hidden_layers": CONFIG.blocks,
    "num_attention_heads": CONFIG.heads,
    "intermediate_size": CONFIG.feed_forward,
    "max_position_embeddings": 16,
    "layer_norm_eps": 1e-5,
}


def bert(**changes: int) -> SimpleNamespace:
    """An encoder with as much of one as starting needs: a BERT whose weights are all of order one."""
    torch.manual_seed(5)
    network = BertModel(BertConfig(vocab_size=V, **(BERT | changes)), add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return SimpleNamespace(network=network)


@torch.no_grad()
def test_blocks_that_start_from_bert_compute_what_it_computes() -> None:
    encoder = bert()
    denoiser = denoiser_with()
    start_from_encoder(denoiser, encoder, "blocks")
    embedding = encoder.network.embeddings
    assert torch.equal(denoiser.table.weight, embedding.word_embeddings.weight)
    # [CLS] stands at place 0, content begins at 1
    framed = torch.cat([torch.zeros(5, 1, dtype=torch.int64), canvas()], 1)
    x = denoiser.embedding_norm(denoiser.table(canvas()) + denoiser.positions)
    torch.testing.assert_close(x, embedding(framed)[:, 1:])

    stream = torch.randn(5, 8, CONFIG.width)
    plain = F.layer_norm(stream, (CONFIG.width,))  # what a new block's branches read
    norm = embedding.LayerNorm
    for block, layer in zip(denoiser.blocks, encoder.network.encoder.layer, strict=True):
        attended = layer.attention.self(norm(stream))[0]
        torch.testing.assert_close(block.attention(plain), layer.attention.output.dense(attended), rtol=1e-4, atol=1e-4)
        norm = layer.attention.output.LayerNorm
        fed = layer.output.dense(layer.intermediate(norm(stream)))
        torch.testing.assert_close(block.feed_forward(plain), fed, rtol=1e-4, atol=1e-4)
        norm = layer.output.LayerNorm


def test_starting_from_the_table_copies_the_table_alone() -> None:
    encoder = bert()
    denoiser, untouched = denoiser_with(), denoiser_with()
    start_from_encoder(denoiser, encoder, "table")
    for (name, found), (_, old) in zip(denoiser.named_parameters(), untouched.named_parameters(), strict=True):
        assert torch.equal(found, encoder.network.embeddings.word_embeddings.weight if "table" in name else old)


def test_a_mask_that_the_encoder_does_not_know_keeps_its_own_row() -> None:
    torch.manual_seed(3)
    denoiser = Denoiser(V + 1, D, V, CONFIG)
    before = denoiser.table.weight[V].clone()
    encoder = bert()
    start_from_encoder(denoiser, encoder, "table")
    assert torch.equal(denoiser.table.weight[:V], encoder.network.embeddings.word_embeddings.weight)
    assert torch.equal(denoiser.table.weight[V], before)


def test_starting_from_nothing_changes_nothing(fake: FakeEncoder) -> None:
    denoiser, untouched = denoiser_with(), denoiser_with()
    start_from_encoder(denoiser, fake, "none")
    assert all(map(torch.equal, denoiser.parameters(), untouched.parameters()))


@pytest.mark.parametrize("change", [{"num_hidden_layers": 2}, {"num_attention_heads": 8}, {"intermediate_size": 40}])
def test_an_encoder_of_another_shape_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="start_from_encoder is 'blocks', but the encoder is no BERT of 3 blocks"):
        start_from_encoder(denoiser_with(), bert(**change), "blocks")


def test_an_encoder_of_another_width_or_kind_is_refused(fake: FakeEncoder) -> None:
    with pytest.raises(ConfigError, match="token table is 16 wide and model.width is 32"):
        start_from_encoder(denoiser_with(), fake, "table")
    config = SimpleNamespace(num_attention_heads=CONFIG.heads, intermediate_size=CONFIG.feed_forward)
    decoder = SimpleNamespace(layers=[], config=config, get_input_embeddings=lambda: nn.Embedding(V, CONFIG.width))
    with pytest.raises(ConfigError, match="the encoder is no BERT"):
        start_from_encoder(denoiser_with(), SimpleNamespace(network=decoder), "blocks")
