"""Text to embeddings: the frozen encoder, exactly as its recipe says.

Unusual here: one implementation serves every encoder. What makes an embedding (pooling, prompt, Dense layers,
truncation, normalisation, precision) is read from the recipe and checked against what the encoder's own files
say; a disagreement is an error, never a guess, because embeddings of a slightly different recipe look fine and
invert to nonsense. Files are hashed before use, only safetensors are read, and no code shipped with an encoder
is ever run.

Shapes: B texts, T content tokens, S tokens with the special ones, h hidden width, d embedding dimension.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from unembed.config import Recipe
from unembed.encoders.named import check_named, remember
from unembed.encoders.recipes import RECIPES, Layout, describe, locate, read_layout, verify
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import EncoderError
from unembed.files.json_files import read_json

_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": nn.Identity,
    "torch.nn.modules.activation.Tanh": nn.Tanh,
    "torch.nn.modules.activation.GELU": nn.GELU,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CPU_ROWS = 32


class Encoder(Protocol):
    """What the rest of unembed needs of an encoder.

    Attributes:
        recipe: everything that decides an embedding besides the text.
        tokenizer: the encoder's vocabulary.
        calls: texts embedded so far (encoder calls).
        network: the transformers model, from whose weights a denoiser may start.
    """

    recipe: Recipe
    tokenizer: Tokenizer
    calls: int
    network: Any

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        """Embeddings (n, d) float32 of `texts`, in their order."""
        ...

    def encode_tokens(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings (B, d) float32 of content ids (B, T), of which row i has `lengths[i]`; no gradient."""
        ...

    def to(self, device: str | torch.device) -> Self:
        """Move to `device`."""
        ...


class TransformerEncoder:
    """A transformer, its pooling and the Dense layers behind it, run as `recipe` says.

    Args:
        recipe: the recipe; `recipe.dimension` must be what the layers give.
        network: a transformers model that returns `last_hidden_state`.
        tokenizer: its vocabulary, with the recipe's prompt.
        layers: what follows pooling, before normalisation.
    """

    def __init__(
        self, recipe: Recipe, network: nn.Module, tokenizer: Tokenizer, layers: nn.Module | None = None
    ) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.calls = 0
        self.network: Any = network.eval().requires_grad_(False).to(_DTYPES[recipe.precision])
        self.layers = (layers or nn.Identity()).eval().requires_grad_(False)
        self._prefix = torch.tensor(tokenizer.prefix_ids, dtype=torch.int64)
        self._suffix = torch.tensor(tokenizer.suffix_ids, dtype=torch.int64)
        self._room = recipe.max_length - len(self._prefix) - len(self._suffix)
        if self._room < 1:
            raise EncoderError(f"{recipe.encoder}: max_length {recipe.max_length} leaves no room beside the prompt")

    @property
    def device(self) -> torch.device:
        """Where the encoder runs."""
        return self._prefix.device

    def to(self, device: str | torch.device) -> Self:
        """Move to `device`."""
        self.network.to(device)
        self.layers.to(device)
        self._prefix = self._prefix.to(device)
        self._suffix = self._suffix.to(device)
        return self

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        """Embeddings (n, d) float32 of `texts`, in their order.

        Texts longer than `recipe.max_length` are truncated, an empty one is embedded as its special tokens.
        Special tokens spelled out in a text are read as plain characters (see `Tokenizer`).

        Raises:
            EncoderError: an embedding came out with NaN or infinite values.
        """
        rows = [ids[: self._room] for ids in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
        out = np.empty((len(rows), self.recipe.dimension), dtype=np.float32)
        starts = range(0, len(order), batch_size)
        for start in tqdm(starts, desc="encode", unit="batch", disable=not show_progress_bar):
            chosen = order[start : start + batch_size]
            lengths = torch.tensor([len(rows[i]) for i in chosen])
            ids = torch.zeros(len(chosen), int(lengths.max()), dtype=torch.int64)
            for row, i in enumerate(chosen):
                ids[row, : len(rows[i])] = torch.tensor(rows[i], dtype=torch.int64)
            out[chosen] = self.encode_tokens(ids.to(self.device), lengths.to(self.device)).cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(out).all(axis=1))
        if bad.size:
            raise EncoderError(f"{self.recipe.encoder}: embedding of text {bad[0]} has NaN or infinite values")
        return out

    def encode_tokens(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings (B, d) float32 of content ids, on the device of `ids`; no gradient flows.

        Args:
            ids: int64 (B, T) content ids without masks; what stands behind a row's length is ignored.
            lengths: int64 (B,) content tokens of each row, 0 to T.

        Equals `encode(decode(ids))` where the ids are what that text tokenises to. Autocast is switched off
        inside: the recipe's precision decides.
        """
        self.calls += len(ids)
        device = ids.device
        lengths = lengths.to(self.device).clamp(max=min(self._room, ids.shape[1]))
        ids = ids[:, : self._room].to(self.device)
        if self.device.type != "cpu" or len(ids) <= _CPU_ROWS:
            return self._embed(ids, lengths).to(device)
        # On a CPU padding costs as much as text, so texts of a length go together; elsewhere one large batch is best.
        order = lengths.argsort(descending=True, stable=True)
        e = torch.empty(len(ids), self.recipe.dimension)
        for chosen in torch.split(order, _CPU_ROWS):
            e[chosen] = self._embed(ids[chosen, : int(lengths[chosen[0]])], lengths[chosen])
        return e.to(device)

    # no_grad, not inference_mode: the result is an input of the denoiser's training graph.
    @torch.no_grad()
    def _embed(self, ids: Tensor, lengths: Tensor) -> Tensor:
        with torch.autocast(ids.device.type, enabled=False):
            whole, mask = self._frame(ids, lengths)
            hidden = self.network(input_ids=whole, attention_mask=mask).last_hidden_state  # (B, S, h)
            e: Tensor = self.layers(pool(hidden.float(), mask, self.recipe.pooling))  # (B, d)
            return F.normalize(e, dim=-1) if self.recipe.normalize else e

    def _frame(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Content ids (B, T) between prefix and suffix, padded on the right, and the attention mask; both (B, S)."""
        before, after = len(self._prefix), len(self._suffix)
        rows, columns = ids.shape
        place = torch.arange(before + columns + after, device=ids.device)
        ends = before + lengths[:, None] + after  # (B, 1)
        whole = F.pad(ids, (before, after))
        whole[:, :before] = self._prefix
        mask = place < ends
        whole = torch.where(mask, whole, self.tokenizer.pad_id)
        if after:
            slots = before + lengths[:, None] + torch.arange(after, device=ids.device)
            whole.scatter_(1, slots, self._suffix.expand(rows, after))
        return whole, mask.long()


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector (B, h) from token vectors (B, S, h) and their attention mask (B, S), padded on either side.

    `mean` averages every unmasked token, those of the prompt and the special ones included, as
    sentence-transformers does by default; `last` and `cls` take the last and the first unmasked token.
    """
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    if pooling == "last":
        chosen = places.masked_fill(mask == 0, -1).argmax(1)
    else:
        chosen = places.masked_fill(mask == 0, mask.shape[1]).argmin(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), chosen]


def load_encoder(
    recipe_or_name: Recipe | str, device: str | torch.device = "cpu", named: bool = True
) -> TransformerEncoder:
    """Load the encoder that a recipe or a name means.

    A known name stands for its recipe in `unembed.encoders.recipes`. The files are looked for in an installed package,
    then in a local folder of that name, then in the Hub's local cache, then on the Hub. Another folder or Hub id
    gets the recipe that its own sentence-transformers files describe.

    Args:
        named: whether the user names it, which is remembered (`named`). Else a checkpoint does, and nothing is read or
            downloaded for it unless it is known or was named before.

    Raises:
        EncoderError: the encoder is not found, its files differ from the recipe, or need code of their own; or it is
            not known, and a checkpoint names it.
    """
    if not named and isinstance(recipe_or_name, Recipe):
        check_named(recipe_or_name)
    if isinstance(recipe_or_name, Recipe):
        recipe = recipe_or_name
        folder = locate([recipe.encoder], recipe.revision)
    elif recipe_or_name in RECIPES:
        recipe = RECIPES[recipe_or_name]
        folder = locate([recipe_or_name, recipe.encoder], recipe.revision)
    else:
        folder = locate([recipe_or_name])
        recipe = describe(recipe_or_name, folder)
    # A recipe without hashes does not make a known encoder's files more trustworthy.
    known = RECIPES.get(recipe.encoder)
    for name, expected in {**(known.sha256 if known else {}), **recipe.sha256}.items():
        verify(folder / name, expected)
    encoder = _build(recipe, read_layout(folder)).to(device)
    if named:
        remember(recipe)
    return encoder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Loading without transformers' bars and notices; what the user had set comes back afterwards."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    notices: Any = transformers_logging
    bars, hub_bars, level = notices.is_progress_bar_enabled(), not are_progress_bars_disabled(), notices.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the Hub's client warns where its environment variable overrules these calls
        notices.disable_progress_bar()
        notices.set_verbosity(logging.ERROR)
        try:
            yield
        finally:
            notices.set_verbosity(level)
            if bars:
                notices.enable_progress_bar()
            if not hub_bars:
                disable_progress_bars()


def _build(recipe: Recipe, layout: Layout) -> TransformerEncoder:
    """Put the encoder together. Raises EncoderError where its files contradict the recipe."""
    from transformers import AutoModel, AutoTokenizer

    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet():
            known = AutoTokenizer.from_pretrained(layout.transformer, **options)
            network, report = AutoModel.from_pretrained(
                layout.transformer,
                dtype=_DTYPES[recipe.precision],
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # transformers, tokenizers and safetensors each have their own
        reason = " ".join(str(error).split())[:300]
        raise EncoderError(f"{recipe.encoder}: cannot be loaded from {layout.transformer} ({reason})") from error
    # The BERT family's own pooler is not used here, and many encoders come without its weights.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise EncoderError(
            f"{recipe.encoder}: {len(missing)} tensors are missing from its weights, {missing[0]} for one; "
            "it may need code of its own, which is never run here"
        )
    network.config.use_cache = False  # nothing is generated, so keys and values need not be kept
    _compare(recipe, layout, network.config)
    eos_id = known.eos_token_id if known.eos_token_id is not None else known.sep_token_id
    if eos_id is None:
        raise EncoderError(f"{recipe.encoder}: its tokenizer has neither an end-of-sequence nor a separator token")
    tokenizer = Tokenizer(
        known.backend_tokenizer,
        eos_id=eos_id,
        mask_id=known.mask_token_id,
        pad_id=known.pad_token_id,
        prompt=recipe.prompt,
    )
    layers = nn.Sequential(*(_dense(place) for place in layout.dense))
    return TransformerEncoder(recipe, network, tokenizer, layers)


def _compare(recipe: Recipe, layout: Layout, config: Any) -> None:
    """Raise EncoderError where the encoder's files contradict the recipe."""
    said = {
        "pooling": layout.pooling or recipe.pooling,
        "dimension": layout.dimension or config.hidden_size,
        # An encoder that leaves normalising to its user is used both ways; one that normalises is not.
        "normalize": layout.normalize or recipe.normalize,
        "max_length": min(recipe.max_length, getattr(config, "max_position_embeddings", recipe.max_length)),
    }
    for field, found in said.items():
        if getattr(recipe, field) != found:
            raise EncoderError(
                f"{recipe.encoder}: the recipe's {field} is {getattr(recipe, field)}, expected {found} by the files "
                f"in {layout.transformer}"
            )


def _dense(folder: Path) -> nn.Module:
    """One sentence-transformers Dense module: a linear layer and its activation."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "config.json"
    config = read_json(path, EncoderError)
    name = config["activation_function"]
    if name not in _ACTIVATIONS:
        raise EncoderError(f"{path}: activation is {name}, expected one of {', '.join(_ACTIVATIONS)}")
    if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise EncoderError(f"{path}: a residual or another input than the pooled vector is not known here")
    try:
        with torch.device("meta"):  # so that no size is believed that the file does not hold
            linear = nn.Linear(config["in_features"], config["out_features"], bias=config["bias"])
        tensors = load_file(folder / "model.safetensors")
        state = {name.removeprefix("linear."): tensor.float() for name, tensor in tensors.items()}
        linear.load_state_dict(state, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise EncoderError(f"{folder / 'model.safetensors'}: cannot be read as its config says ({reason})") from error
    return nn.Sequential(linear, _ACTIVATIONS[name]())
