"""The configuration: one frozen dataclass per component, one YAML file per encoder.

`load_config` refuses unknown keys and impossible values with one line that names the file and the
key. The text in each field's metadata is what the documentation shows for it.
"""

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unembed.errors import ConfigError

POOLINGS = ("mean", "last", "cls")
PRECISIONS = ("float32", "bfloat16", "float16")
WEIGHTINGS = ("plain", "elbo")
OPTIMIZERS = ("muon", "adamw")


def _doc(text: str, default: Any = dataclasses.MISSING, **kwargs: Any) -> Any:
    return field(default=default, metadata={"doc": text}, **kwargs)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an embedding besides the text."""

    encoder: str = _doc("encoder id: a packaged name, a local folder or a Hub id")
    dimension: int = _doc("length d of an embedding")
    pooling: str = _doc("how token vectors become one: mean, last or cls", "mean")
    normalize: bool = _doc("whether embeddings have unit length", True)
    prompt: str = _doc("text put in front of every text before it is embedded", "")
    max_length: int = _doc("the encoder truncates to this many tokens, its special ones included", 256)
    precision: str = _doc("number format in which the encoder runs", "float32")
    revision: str | None = _doc("Hub revision, where the encoder comes from the Hub", None)
    sha256: Mapping[str, str] = _doc("file name -> SHA-256 that the encoder's files must have", default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.dimension > 0, f"encoder.dimension is {self.dimension}, expected at least 1")
        _require(
            self.pooling in POOLINGS, f"encoder.pooling is {self.pooling!r}, expected one of {', '.join(POOLINGS)}"
        )
        _require(
            self.precision in PRECISIONS,
            f"encoder.precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}",
        )
        _require(self.max_length > 2, f"encoder.max_length is {self.max_length}, expected more than 2")


@dataclass(frozen=True)
class ModelConfig:
    """The denoiser's shape. `vocab_size` and the embedding's dimension come from the encoder."""

    max_tokens: int = _doc("positions L of the canvas: the longest text that can come back", 32)
    width: int = _doc("hidden width h", 384)
    blocks: int = _doc("transformer blocks", 6)
    heads: int = _doc("attention heads", 12)
    feed_forward: int = _doc("hidden width of the feed-forward layers", 1536)
    condition_width: int = _doc("width of what the network that reads the embedding makes of it; 0 means 2 h", 0)
    adaln_rank: int = _doc("rank of the AdaLN layer of each block; 0 means a full matrix", 128)
    causal: bool = _doc("the autoregressive twin: each position sees only those before it; a comparison", False)
    feedback: bool = _doc("whether a hypothesis's own embedding can enter beside the embedding to invert", False)

    def __post_init__(self) -> None:
        for name in ("max_tokens", "width", "blocks", "heads", "feed_forward"):
            value = getattr(self, name)
            _require(value > 0, f"model.{name} is {value}, expected at least 1")
        _require(
            self.width % self.heads == 0,
            f"model.width is {self.width}, expected a multiple of model.heads ({self.heads})",
        )
        _require(self.condition_width >= 0, f"model.condition_width is {self.condition_width}, expected 0 or more")
        _require(self.adaln_rank >= 0, f"model.adaln_rank is {self.adaln_rank}, expected 0 or more")
        _require(not (self.causal and self.feedback), "model.feedback needs a network that sees all of a hypothesis")


@dataclass(frozen=True)
class DiffusionConfig:
    """Corruption and loss."""

    weighting: str = _doc("'plain': mean cross-entropy of the masked; 'elbo': 1/t, the likelihood bound", "plain")
    time_skew: float = _doc("density of the mask probability is k t^(k-1); 1 is uniform, more favours t near 1", 1.0)
    condition_dropout: float = _doc("share of embeddings replaced by the learned null embedding", 0.1)
    embedding_noise: float = _doc(
        "largest standard deviation of Gaussian noise on each coordinate of a unit embedding; each text draws its own, "
        "from 0 to this, so that an inverter can read noisy vectors too",
        0.0,
    )
    corrupt_visible: float = _doc("share of visible tokens replaced by random ones and trained on", 0.0)
    keep_visible: float = _doc("share of visible tokens left right and trained on, so that not all are doubted", 0.0)
    feedback_share: float = _doc("share of rows that are trained on a hypothesis and its embedding", 0.0)
    vocabulary_sample: int = _doc(
        "tokens drawn to estimate the softmax's normaliser besides the batch's own targets; 0: all of them", 0
    )

    def __post_init__(self) -> None:
        _require(
            self.weighting in WEIGHTINGS,
            f"diffusion.weighting is {self.weighting!r}, expected one of {', '.join(WEIGHTINGS)}",
        )
        _require(self.time_skew > 0, f"diffusion.time_skew is {self.time_skew}, expected more than 0")
        for name in ("condition_dropout", "corrupt_visible", "keep_visible", "feedback_share"):
            value = getattr(self, name)
            _require(0.0 <= value < 1.0, f"diffusion.{name} is {value}, expected 0 <= {name} < 1")
        _require(
            0.0 <= self.embedding_noise < math.inf,
            f"diffusion.embedding_noise is {self.embedding_noise}, expected 0 or more",
        )
        trained = self.corrupt_visible + self.keep_visible
        _require(trained <= 1.0, f"diffusion.corrupt_visible and keep_visible add up to {trained}, expected at most 1")
        _require(
            not (self.weighting == "elbo" and trained + self.feedback_share > 0),
            "diffusion.corrupt_visible, keep_visible and feedback_share must be 0 with diffusion.weighting elbo: the "
            "bound knows masks only",
        )
        _require(
            self.vocabulary_sample >= 0,
            f"diffusion.vocabulary_sample is {self.vocabulary_sample}, expected 0 or more",
        )


@dataclass(frozen=True)
class DataConfig:
    """How texts become token shards, and shards become training windows."""

    embeddings: str = _doc("'fly': computed while training; 'stored': float16, computed by prepare", "fly")
    held_out: float = _doc("share of texts kept out of training, by hash: half validation, half test", 0.01)
    min_tokens: int = _doc("shortest window", 4)
    full_windows: float = _doc("share of windows of exactly max_tokens, where the passage is long enough", 0.5)
    any_word_start: float = _doc("share of windows that start at any word, not at a passage's or sentence's start", 0.1)
    short_canvas: int = _doc("positions of the short canvas; only texts that fit are drawn for it", 12)
    short_share: float = _doc("share of training steps on the short canvas: cheaper, and more signal per token", 0.0)
    weights: Mapping[str, float] = _doc(
        "part (file stem) -> its share in training relative to its size; 1 where not named", default_factory=dict
    )

    def __post_init__(self) -> None:
        _require(
            self.embeddings in ("fly", "stored"),
            f"data.embeddings is {self.embeddings!r}, expected 'fly' or 'stored'",
        )
        _require(0.0 < self.held_out < 0.5, f"data.held_out is {self.held_out}, expected 0 < held_out < 0.5")
        _require(self.min_tokens > 0, f"data.min_tokens is {self.min_tokens}, expected at least 1")
        for name in ("full_windows", "any_word_start", "short_share"):
            value = getattr(self, name)
            _require(0.0 <= value <= 1.0, f"data.{name} is {value}, expected 0 <= {name} <= 1")
        _require(
            self.short_share == 0.0 or self.embeddings == "fly",
            "data.short_share needs data.embeddings: fly; a stored embedding covers its whole passage",
        )
        for part, weight in self.weights.items():
            _require(weight >= 0, f"data.weights.{part} is {weight}, expected 0 or more")


@dataclass(frozen=True)
class TrainingConfig:
    """One training run: warm-up, stable, decay."""

    steps: int = _doc("optimiser steps, decay included; --minutes may end the run earlier", 100_000)
    batch_size: int = _doc("sequences per step, over all processes", 256)
    optimizer: str = _doc("'muon' (matrices of the blocks; AdamW for the rest) or 'adamw'", "muon")
    learning_rate: float = _doc("peak rate of AdamW", 1e-3)
    muon_learning_rate: float = _doc("peak rate of Muon", 6e-3)
    final_learning_rate: float = _doc(
        "peak rate of AdamW for the last norm's AdaLN, which says what words a text has; 0 means learning_rate", 0.0
    )
    table_learning_rate: float = _doc(
        "peak rate of AdamW for the token table, whose rare rows see mostly noise; 0 means learning_rate", 0.0
    )
    freeze: tuple[str, ...] = _doc(
        "parts of the denoiser that keep the weights they start with, by their names there, such as [table, blocks]", ()
    )
    weight_decay: float = _doc("decoupled weight decay of matrices", 0.01)
    warmup_steps: int = _doc("steps over which the rate rises from 0", 200)
    decay_share: float = _doc("share of the run over which the rate falls to 0 at the end", 0.2)
    gradient_clip: float = _doc("largest gradient norm", 1.0)
    ema: float = _doc("decay of the fp32 moving average of the weights, which is what is released", 0.999)
    precision: str = _doc("autocast format: float32, or bfloat16 where that is not slower", "bfloat16")
    compile: bool = _doc("torch.compile the denoiser", False)
    start_from_encoder: str = _doc("what starts from the encoder: 'none', 'table' or 'blocks' (and table)", "table")
    log_every: int = _doc("steps between log lines", 20)
    validate_every: int = _doc("steps between validations", 500)
    validation_texts: int = _doc("held-out texts for each validation", 256)
    checkpoint_minutes: float = _doc("minutes between checkpoints", 5.0)
    seed: int = _doc("seed of initialisation, windows and corruption", 0)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "validate_every", "validation_texts"):
            value = getattr(self, name)
            _require(value > 0, f"training.{name} is {value}, expected at least 1")
        _require(
            self.optimizer in OPTIMIZERS,
            f"training.optimizer is {self.optimizer!r}, expected one of {', '.join(OPTIMIZERS)}",
        )
        _require(
            self.precision in ("float32", "bfloat16"),
            f"training.precision is {self.precision!r}, expected float32 or bfloat16",
        )
        _require(
            self.start_from_encoder in ("none", "table", "blocks"),
            f"training.start_from_encoder is {self.start_from_encoder!r}, expected none, table or blocks",
        )
        for name in ("learning_rate", "muon_learning_rate", "gradient_clip", "checkpoint_minutes"):
            value = getattr(self, name)
            _require(value > 0, f"training.{name} is {value}, expected more than 0")
        for name in ("final_learning_rate", "table_learning_rate"):
            value = getattr(self, name)
            _require(value >= 0, f"training.{name} is {value}, expected 0 or more")
        _require(0.0 <= self.ema < 1.0, f"training.ema is {self.ema}, expected 0 <= ema < 1")
        _require(0.0 <= self.decay_share <= 1.0, f"training.decay_share is {self.decay_share}, expected 0 to 1")
        _require(self.warmup_steps >= 0, f"training.warmup_steps is {self.warmup_steps}, expected 0 or more")


@dataclass(frozen=True)
class Config:
    """One inverter: the encoder's recipe, the denoiser, and how it is trained."""

    encoder: Recipe
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        _require(
            self.data.min_tokens <= self.model.max_tokens,
            f"data.min_tokens is {self.data.min_tokens}, expected at most model.max_tokens ({self.model.max_tokens})",
        )
        _require(
            self.model.feedback or not self.diffusion.feedback_share,
            f"diffusion.feedback_share is {self.diffusion.feedback_share}, which needs model.feedback",
        )
        _require(
            self.data.short_share == 0.0 or self.data.min_tokens <= self.data.short_canvas <= self.model.max_tokens,
            f"data.short_canvas is {self.data.short_canvas}, expected data.min_tokens ({self.data.min_tokens}) to "
            f"model.max_tokens ({self.model.max_tokens})",
        )


def load_config(path: str | Path) -> Config:
    """Read a YAML configuration.

    Raises:
        ConfigError: the file is missing, is not YAML, or has an unknown key or impossible value.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    try:
        return config_from_dict(tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def config_from_dict(tree: Any) -> Config:
    """Build a `Config` from nested mappings, as YAML or JSON give them. Raises ConfigError."""
    return typing.cast(Config, _build(Config, tree, ""))


def overridden(tree: Mapping[str, Any], overrides: str) -> dict[str, Any]:
    """A configuration's tree with "section.key=value,section.key=value" put in; values are YAML: 2, [a, b], {a: 2}.

    Raises:
        ConfigError: not of that form, a value that is not YAML, an unknown key, or an impossible value.
    """
    changed: dict[str, Any] = json.loads(json.dumps(tree))
    for override in filter(None, re.split(r",(?![^\[]*\]|[^{]*\})", overrides)):  # not within [] or {}
        name, equals, value = override.partition("=")
        *sections, key = name.strip().split(".")
        place = changed
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else {}
        if not equals or not sections or not isinstance(place, dict):
            raise ConfigError(f"{override!r}: expected section.key=value, such as training.learning_rate=1e-3")
        try:
            place[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{override!r}: {value!r} is not YAML ({' '.join(str(error).split())})") from error
    return config_to_dict(config_from_dict(changed))


def config_to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `config_from_dict`, for any of the dataclasses here; as JSON would give it back."""
    tree: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return tree


def recipe_from_dict(tree: Any) -> Recipe:
    """Build a `Recipe` from a mapping. Raises ConfigError."""
    return typing.cast(Recipe, _build(Recipe, tree, "encoder."))


def _build(cls: type, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{prefix.rstrip('.') or 'the configuration'} is {tree!r}, expected keys and values")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(str(key) for key in tree if key not in fields)
    if unknown:
        raise ConfigError(f"unknown key {prefix}{unknown[0]}, expected one of {', '.join(sorted(fields))}")
    values = {}
    for name, f in fields.items():
        if name in tree:
            values[name] = _convert(hints[name], tree[name], prefix + name)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{name} is missing")
    return cls(**values)


def _convert(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, key + ".")
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None:
            return None
        hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
    if typing.get_origin(hint) is Mapping:
        item = typing.get_args(hint)[1]
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} is {value!r}, expected keys and values")
        return {str(k): _convert(item, v, f"{key}.{k}") for k, v in value.items()}
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{key} is {value!r}, expected a list")
        return tuple(_convert(typing.get_args(hint)[0], item, f"{key}[{place}]") for place, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{key} is {value!r}, expected {hint.__name__}")
    return value
