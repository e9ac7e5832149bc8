"""The configuration: one frozen dataclass per component, one YAML file per encoder.

Unknown keys and impossible values are refused wherever a section is made, with one line that names the key, what was
found and what was expected. The description of each field is its documentation.
"""

import dataclasses
import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from unembed.errors import ConfigError

STRICT = ConfigDict(extra="forbid")
LARGEST = 1 << 16  # characters of a configuration, which the parser reads in two seconds; ours have two thousand
DIGITS = 40  # of an integer in it; Python takes any number of them in base 16 and 60

MOST = 2**63  # beyond what torch takes for a size or a seed
Count = Annotated[StrictInt, Field(gt=0, lt=MOST)]
Natural = Annotated[StrictInt, Field(ge=0, lt=MOST)]
# Text that reads as a number is one: YAML 1.1 takes 1e-3 for text. True and False are none.
Float = Annotated[float, BeforeValidator(lambda value: str(value) if isinstance(value, bool) else value)]
Positive = Annotated[Float, Field(gt=0)]
Weight = Annotated[Float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[Float, Field(ge=0, le=1)]
Rate = Annotated[Float, Field(ge=0, lt=1)]
Format = Literal["float32", "bfloat16"]
Name = Annotated[str, BeforeValidator(str)]  # YAML reads the key 2020 as a number


def _key(doc: str, default: Any = ..., **limits: Any) -> Any:
    return Field(default, description=doc, **limits)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@contextmanager
def _refusing(cls: type) -> Iterator[None]:
    """Raise ConfigError of what pydantic refuses first, or of an unknown key, which may be why another is missing."""
    unknown = ("unexpected_keyword_argument", "invalid_key")
    try:
        yield
    except ValidationError as error:
        found = min(error.errors(include_url=False), key=lambda one: one["type"] not in unknown)
        kind, path, hints = found["type"], list(found["loc"]), get_type_hints(cls)
        if path and isinstance(path[0], int) and kind not in unknown:  # an argument given by its place
            path[:1] = [*hints][path[0] : path[0] + 1]
        section = [name for name, hint in get_type_hints(Config).items() if hint is cls]
        key = ".".join(repr(str(part))[1:-1] for part in section + path) or "the configuration"
        if kind in unknown:
            known = hints if len(path) == 1 else get_type_hints(hints[str(path[0])])
            line = f"unknown key {key}, expected one of {', '.join(sorted(known))}"
        elif kind == "missing":
            line = f"{key} is missing"
        elif kind == "value_error":
            line = str(found["ctx"]["error"])
        else:
            expected = re.sub("^Input should be | or an instance of .*", "", found["msg"])
            line = f"{key} is {reprlib.repr(found['input'])}, expected {expected.replace('a valid tuple', 'a list')}"
        raise ConfigError(line) from error


class _Checked(type):
    """What makes a section: also with arguments it raises ConfigError."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        with _refusing(cls):
            return super().__call__(*args, **values)


@dataclass(frozen=True, config=STRICT)
class Recipe(metaclass=_Checked):
    """Everything that decides an embedding besides the text."""

    encoder: StrictStr = _key("encoder id: a packaged name, a local folder or a Hub id", max_length=4096)
    dimension: Count = _key("length d of an embedding")
    pooling: Literal["mean", "last", "cls"] = _key("how token vectors become one", "mean")
    normalize: StrictBool = _key("whether embeddings have unit length", True)
    prompt: StrictStr = _key("text put in front of every text before it is embedded", "")
    max_length: StrictInt = _key(
        "the encoder truncates to this many tokens, its special ones included", 256, gt=2, lt=MOST
    )
    precision: Literal["float32", "bfloat16", "float16"] = _key("number format in which the encoder runs", "float32")
    revision: StrictStr | None = _key("Hub revision, where the encoder comes from the Hub", None)
    sha256: Mapping[Name, StrictStr] = _key("file name -> SHA-256 that the encoder's files must have", {})


@dataclass(frozen=True, config=STRICT)
class ModelConfig(metaclass=_Checked):
    """The denoiser's shape. `vocab_size` and the embedding's dimension come from the encoder."""

    max_tokens: Count = _key("positions L of the canvas: the longest text that can come back", 32)
    width: Count = _key("hidden width h", 384)
    blocks: Count = _key("transformer blocks", 6)
    heads: Count = _key("attention heads", 12)
    feed_forward: Count = _key("hidden width of the feed-forward layers", 1536)
    condition_width: Natural = _key("width of what the network that reads the embedding makes of it; 0 means 2 h", 0)
    adaln_rank: Natural = _key("rank of the AdaLN layer of each block; 0 means a full matrix", 128)
    causal: StrictBool = _key("the autoregressive twin: each position sees only those before it; a comparison", False)
    feedback: StrictBool = _key("whether a hypothesis's own embedding can enter beside the one to invert", False)

    def __post_init__(self) -> None:
        width, heads = self.width, self.heads
        _require(width % heads == 0, f"model.width is {width}, expected a multiple of model.heads ({heads})")
        _require(not (self.causal and self.feedback), "model.feedback needs a network that sees all of a hypothesis")


@dataclass(frozen=True, config=STRICT)
class DiffusionConfig(metaclass=_Checked):
    """Corruption and loss."""

    weighting: Literal["plain", "elbo"] = _key(
        "plain: mean cross-entropy of the masked; elbo: by 1/t, the bound", "plain"
    )
    time_skew: Positive = _key("density of the mask probability is k t^(k-1); 1 is uniform, more favours t near 1", 1.0)
    condition_dropout: Rate = _key("share of embeddings replaced by the learned null embedding", 0.1)
    # Each text draws its own from 0 to this, so that an inverter can read noisy vectors too.
    embedding_noise: Weight = _key(
        "largest standard deviation of Gaussian noise on a unit embedding's coordinates, hypotheses' excepted", 0.0
    )
    corrupt_visible: Rate = _key("share of visible tokens replaced by random ones and trained on", 0.0)
    keep_visible: Rate = _key("share of visible tokens left right and trained on, so that not all are doubted", 0.0)
    feedback_share: Rate = _key("share of rows that are trained on a hypothesis and its embedding, in sixes", 0.0)
    vocabulary_sample: Natural = _key(
        "tokens drawn to estimate the softmax's normaliser besides the batch's own targets; 0: all of them", 0
    )

    def __post_init__(self) -> None:
        trained = self.corrupt_visible + self.keep_visible
        _require(trained <= 1.0, f"diffusion.corrupt_visible and keep_visible add up to {trained}, expected at most 1")
        _require(
            self.weighting != "elbo" or trained + self.feedback_share == 0,
            "diffusion.corrupt_visible, keep_visible and feedback_share must be 0 with diffusion.weighting elbo: the "
            "bound knows masks only",
        )


@dataclass(frozen=True, config=STRICT)
class DataConfig(metaclass=_Checked):
    """How texts become token shards, and shards become training windows."""

    embeddings: Literal["fly", "stored"] = _key("fly: computed while training; stored: by prepare, in float16", "fly")
    held_out: Positive = _key("share of texts kept out of training, by hash: half validation, half test", 0.01, lt=0.5)
    min_tokens: Count = _key("shortest window", 4)
    full_windows: Share = _key("share of windows of exactly max_tokens, where the passage is long enough", 0.5)
    any_word_start: Share = _key("share of windows that start at any word, not at a passage's or sentence's start", 0.1)
    short_canvas: StrictInt = _key("positions of the short canvas; only texts that fit are drawn for it", 12)
    short_share: Share = _key("share of training steps on the short canvas: cheaper, and more signal per token", 0.0)
    weights: Mapping[Name, Weight] = _key("part (file stem) -> share in training relative to its size; else 1", {})

    def __post_init__(self) -> None:
        _require(
            self.short_share == 0.0 or self.embeddings == "fly",
            "data.short_share needs data.embeddings: fly; a stored embedding covers its whole passage",
        )


@dataclass(frozen=True, config=STRICT)
class TrainingConfig(metaclass=_Checked):
    """One training run: warm-up, stable, decay."""

    steps: Count = _key("optimiser steps, decay included; --minutes may end the run earlier", 100_000)
    batch_size: Count = _key("sequences per step, over all processes", 256)
    optimizer: Literal["muon", "adamw"] = _key(
        "muon: of the blocks' matrices, and AdamW for the rest; adamw: for all", "muon"
    )
    learning_rate: Positive = _key("peak rate of AdamW", 1e-3)
    muon_learning_rate: Positive = _key("peak rate of Muon", 6e-3)
    final_learning_rate: Weight = _key(
        "peak rate of AdamW for the last norm's AdaLN, which says what words a text has; 0 means learning_rate", 0.0
    )
    table_learning_rate: Weight = _key(
        "peak rate of AdamW for the token table, whose rare rows see mostly noise; 0 means learning_rate", 0.0
    )
    freeze: tuple[StrictStr, ...] = _key(
        "parts of the denoiser that keep the weights they start with, by their names there, such as [table, blocks]", ()
    )
    weight_decay: Float = _key("decoupled weight decay of matrices", 0.01)
    warmup_steps: Natural = _key("steps over which the rate rises from 0", 200)
    decay_share: Share = _key("share of the run over which the rate falls to 0 at the end", 0.2)
    gradient_clip: Positive = _key("largest gradient norm", 1.0)
    ema: Rate = _key("decay of the fp32 moving average of the weights, which is what is released", 0.999)
    precision: Format = _key("autocast format: float32, or bfloat16 where that is not slower", "bfloat16")
    compile: StrictBool = _key("torch.compile the denoiser", False)
    start_from_encoder: Literal["none", "table", "blocks"] = _key("what starts from it; blocks: and the table", "table")
    log_every: Count = _key("steps between log lines", 20)
    validate_every: Count = _key("steps between validations", 500)
    validation_texts: Count = _key("held-out texts for each validation", 256)
    checkpoint_minutes: Positive = _key("minutes between checkpoints", 5.0)
    seed: StrictInt = _key("seed of initialisation, windows and corruption", 0, gt=-MOST, lt=MOST)


@dataclass(frozen=True, config=STRICT)
class Config(metaclass=_Checked):
    """One inverter: the encoder's recipe, the denoiser, and how it is trained."""

    encoder: Recipe
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    def __post_init__(self) -> None:
        least, short, most = self.data.min_tokens, self.data.short_canvas, self.model.max_tokens
        share, span = self.diffusion.feedback_share, f"data.min_tokens ({least}) to model.max_tokens ({most})"
        _require(least <= most, f"data.min_tokens is {least}, expected at most model.max_tokens ({most})")
        _require(
            self.data.short_share == 0.0 or least <= short <= most, f"data.short_canvas is {short}, expected {span}"
        )
        _require(self.model.feedback or not share, f"diffusion.feedback_share is {share}, which needs model.feedback")


def load_config(path: str | Path) -> Config:
    """Read a YAML configuration.

    Raises:
        ConfigError: the file is missing, is not YAML, or has an unknown key or impossible value.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    try:
        return config_from_dict(_parsed(text))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


class _Loader(yaml.SafeLoader):
    """Without aliases: by those, and by keys merged from them, a few lines become any number of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem=f"alias *{alias.anchor}, expected its values", problem_mark=alias.start_mark
            )
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: Any) -> Any:
        if len(node.value) > DIGITS:
            raise yaml.MarkedYAMLError(problem=f"integer of {len(node.value):,} digits", problem_mark=node.start_mark)
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _parsed(text: str) -> Any:
    """YAML's values. Raises ConfigError."""
    if len(text) > LARGEST:
        raise ConfigError(f"has more than {LARGEST:,} characters, expected a configuration")
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        # Not all are YAML's own: an integer may have too many digits, a date no such month.
        raise ConfigError(f"is not YAML ({' '.join(str(error).split())[:300]})") from error


def config_from_dict(tree: Any) -> Config:
    """Build a `Config` from nested mappings, as YAML or JSON give them. Raises ConfigError."""
    with _refusing(Config):
        return TypeAdapter(Config).validate_python(tree)


def recipe_from_dict(tree: Any) -> Recipe:
    """Build a `Recipe` from a mapping. Raises ConfigError."""
    with _refusing(Recipe):
        return TypeAdapter(Recipe).validate_python(tree)


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
            place[key] = _parsed(value)
        except ConfigError as error:
            raise ConfigError(f"{override!r}: {value!r} {error}") from error
    return config_to_dict(config_from_dict(changed))


def config_to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `config_from_dict`, for any of the dataclasses here; as JSON would give it back."""
    tree: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return tree
