"""Files of an inverter and of a training run.

An inverter is a folder: `config.json` (recipe included), `tokenizer.json` with `tokenizer_ids.json`,
`model.safetensors` (or shards of it with an index), `README.md` (its model card), where it has been calibrated
`calibration.json`, and where the encoder has been fitted `surrogate.safetensors`. Large matrices may be in 8 bits,
beside their scales (`quantised`). A `.pt` file holds the same, but for the last two, as one dictionary of whole tensors
and text. Tensors are loaded strictly and never by running a pickle.

A training run keeps `checkpoint-<step>` folders: fp32 weights, their moving average, the optimizers'
state and one JSON with everything else.
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unembed.config import Config, config_from_dict, config_to_dict
from unembed.decoding.calibration import FILE, Calibration
from unembed.denoiser.model import Denoiser
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import CheckpointError, ConfigError, OutputError
from unembed.files.atomic import atomic_file, atomic_folder
from unembed.files.json_files import read_json
from unembed.files.quantised import quantised, restored
from unembed.files.shapes import check_declared, check_shape
from unembed.files.tensors import load_tensors, save_tensors
from unembed.storage.pt_files import read_pt
from unembed.surrogate.bag import FILE as SURROGATE
from unembed.surrogate.bag import Fitted

SHARD_SIZE = "48MB"
INDEX = "model.safetensors.index.json"
# What a pass or a surrogate makes for one text: so many numbers, or so many for each number of the inverter. Shapes of
# a few numbers multiply: a table of 1,000,000 x 1 and as many positions ask for 10^12 logits. The packaged inverter
# makes 0.2 for each of its own.
SMALL_STEP, LARGEST_STEP = 1 << 26, 16


class Parts(NamedTuple):
    """What an inverter is made of."""

    denoiser: Denoiser
    tokenizer: Tokenizer
    config: Config
    results: dict[str, Any]  # how it was trained and what it reached, for the model card
    calibration: Calibration | None = None  # of its confidences
    surrogate: Fitted | None = None  # of its encoder


def build_denoiser(config: Config, tokenizer: Tokenizer) -> Denoiser:
    """A freshly initialised denoiser for the tokenizer's vocabulary and the recipe's embeddings."""
    ends = (tokenizer.eos_id, tokenizer.pad_id)
    return Denoiser(tokenizer.vocab_size, config.encoder.dimension, tokenizer.mask_id, config.model, ends)


def save_inverter(
    folder: str | Path,
    state: dict[str, Tensor],
    tokenizer: Tokenizer,
    config: Config,
    results: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    calibration: Calibration | None = None,
    surrogate: Fitted | None = None,
) -> None:
    """Write an inverter's folder, whole or not at all.

    Args:
        dtype: how weights are stored. `torch.int8` means large matrices in 8 bits with a scale for each row, but for
            the token table, and all else in bfloat16 (`quantised`).

    Raises:
        OutputError: the folder cannot be written, or 8 bits cannot hold a weight because it is not finite.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    from unembed.storage.card import model_card

    if dtype == torch.int8:
        state = quantised(state)
    else:
        state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    with atomic_folder(folder) as temporary:
        split = split_torch_state_dict_into_shards(state, max_shard_size=SHARD_SIZE)
        for file, names in split.filename_to_tensors.items():
            save_tensors({name: state[name] for name in names}, temporary / file)
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            (temporary / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        tokenizer.save(temporary)
        tree = {"format": 1, "config": config_to_dict(config), "results": results}
        (temporary / "config.json").write_text(json.dumps(tree, indent=1), encoding="utf-8")
        if calibration is not None:
            (temporary / FILE).write_text(json.dumps(calibration.to_dict(), indent=1), encoding="utf-8")
        if surrogate is not None:
            surrogate.save(temporary / SURROGATE)
        (temporary / "README.md").write_text(
            model_card(config, state, results, calibration is not None), encoding="utf-8"
        )


def save_surrogate(folder: Path, surrogate: Fitted) -> None:
    """Put a surrogate into an inverter's folder, in the place of what is there. Raises OutputError."""
    with atomic_file(folder / SURROGATE) as temporary:
        surrogate.save(temporary)


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Put a calibration into an inverter's folder, and onto its model card. Raises OutputError."""
    from unembed.storage.card import with_calibration

    with atomic_file(folder / FILE) as temporary:
        temporary.write_text(json.dumps(calibration.to_dict(), indent=1), encoding="utf-8")
    card = folder / "README.md"
    if card.exists():
        text = card.read_text(encoding="utf-8", errors="surrogateescape")  # it may be the user's own
        with atomic_file(card) as temporary:
            temporary.write_text(with_calibration(text), encoding="utf-8", errors="surrogateescape")


def load_inverter(path: str | Path, causal: bool | None = False) -> Parts:
    """Load a folder written by `save_inverter`, or a `.pt` file written by `save_pt`.

    Args:
        causal: whether an autoregressive twin is expected, whose tensors are those of an inverter; None takes either.

    Raises:
        CheckpointError: a file is missing or damaged, a tensor is missing, of the wrong shape or not
            expected, its scales do not fit it, a `.pt` file wants to run code, or it is a twin where an inverter is
            expected.
    """
    path = Path(path)
    if path.is_dir():
        tree = _read_json(path / "config.json")
        tokenizer = Tokenizer.load(path)
        state = restored(_read_tensors(path), path)
        source = path / "config.json"
    elif path.is_file():
        tree = read_pt(path)
        try:
            tokenizer = Tokenizer.from_json(tree["tokenizer"], **tree["tokenizer_ids"])
            state = dict(tree["state"])
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(f"{path}: is not an unembed inverter ({reason})") from error
        source = path
    else:
        raise CheckpointError(f"{path}: there is no such inverter (expected a folder with config.json, or a .pt file)")
    try:
        config = config_from_dict(tree["config"])
    except KeyError as error:
        raise CheckpointError(f"{source}: is not an unembed inverter, key {error} is missing") from error
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error
    if causal is not None and config.model.causal != causal:
        kinds = {False: "an inverter by masked diffusion", True: "an autoregressive twin"}
        raise CheckpointError(
            f"{source}: model.causal is {config.model.causal}: {kinds[config.model.causal]}, expected {kinds[causal]}"
        )
    _check_size(config, tokenizer, state, path)
    denoiser = build_denoiser(config, tokenizer)
    load_strictly(denoiser, state, path)
    parts = Parts(denoiser.eval().requires_grad_(False), tokenizer, config, tree.get("results", {}))
    if path.is_dir():
        fitted = Fitted.load(path, len(denoiser.table.weight), config.model.width, config.encoder.dimension)
        parts = parts._replace(calibration=Calibration.load(path), surrogate=fitted)
    return parts


def _check_size(config: Config, tokenizer: Tokenizer, state: dict[str, Tensor], source: Path) -> None:
    """Refuse what would be larger than the file, before any of it is made. Raises CheckpointError."""
    model = config.model
    one = replace(config, model=replace(model, blocks=1))
    try:
        check_declared(lambda: build_denoiser(one, tokenizer), "blocks.", model.blocks, state)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error
    held = sum(tensor.numel() for tensor in state.values())
    for what, count in (
        ("logits", model.max_tokens * tokenizer.vocab_size),
        ("attention scores", model.heads * model.max_tokens**2),
        ("contributions of tokens", tokenizer.vocab_size * config.encoder.dimension),
    ):
        if count > (most := max(SMALL_STEP, LARGEST_STEP * held)):
            raise CheckpointError(
                f"{source}: one text would take {count:,} {what}, expected at most {most:,} with {held:,} parameters"
            )


def save_pt(
    path: str | Path, state: dict[str, Tensor], tokenizer: Tokenizer, config: Config, results: dict[str, Any]
) -> None:
    """Write an inverter as one `.pt` file of tensors and text (loadable with `weights_only=True`)."""
    ids = {
        "eos_id": tokenizer.eos_id,
        "mask_id": tokenizer.mask_id,
        "pad_id": tokenizer.pad_id,
        "prompt": tokenizer.prompt,
    }
    tree = {
        "format": 1,
        "config": config_to_dict(config),
        "results": results,
        "tokenizer": tokenizer.backend_json(),
        "tokenizer_ids": ids,
        "state": {name: tensor.detach().cpu() for name, tensor in state.items()},
    }
    with atomic_file(path) as temporary:
        try:
            torch.save(tree, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OutputError(f"{path}: cannot be written ({str(error).splitlines()[0]})") from error


def load_strictly(denoiser: Denoiser, state: dict[str, Tensor], source: Path) -> None:
    """Copy `state` into the denoiser; every tensor must be there, none more, all floats of the right shape."""
    expected = denoiser.state_dict()
    try:
        for name in expected:
            check_shape(name, tuple(expected[name].shape), state)
            if not state[name].is_floating_point():
                kind = str(state[name].dtype).removeprefix("torch.")
                raise ValueError(f"tensor {name} holds {kind}, expected floating-point numbers")
        for name in sorted(state.keys() - expected.keys()):
            raise ValueError(f"tensor {name} is not part of this denoiser")
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error
    denoiser.load_state_dict(state)


class TrainingCheckpoint(NamedTuple):
    """All resumable state of a run."""

    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizers: list[dict[str, Any]]
    state: dict[str, Any]  # step, seconds, ...: JSON


def save_training(out: Path, checkpoint: TrainingCheckpoint, prefix: str = "checkpoint") -> Path:
    """Write `out/<prefix>-<step>` and delete the older ones of that prefix."""
    folder = out / f"{prefix}-{checkpoint.state['step']:08d}"
    with atomic_folder(folder) as temporary:
        save_tensors(_contiguous(checkpoint.weights), temporary / "weights.safetensors")
        save_tensors(_contiguous(checkpoint.average), temporary / "average.safetensors")
        groups = []
        for number, optimizer in enumerate(checkpoint.optimizers):
            tensors = {
                f"{parameter}.{name}": torch.as_tensor(value)
                for parameter, values in optimizer["state"].items()
                for name, value in values.items()
            }
            save_tensors(_contiguous(tensors), temporary / f"optimizer-{number}.safetensors")
            groups.append(optimizer["param_groups"])
        tree = checkpoint.state | {"param_groups": groups}
        (temporary / "state.json").write_text(json.dumps(tree), encoding="utf-8")
    for older in training_checkpoints(out, prefix)[:-1]:
        for file in older.iterdir():
            file.unlink()
        older.rmdir()
    return folder


def training_checkpoints(out: Path, prefix: str = "checkpoint") -> list[Path]:
    """Complete checkpoints of a run, oldest first. An unfinished one has another name."""
    pattern = re.compile(rf"{prefix}-\d{{8}}")
    return sorted(p for p in out.glob(f"{prefix}-*") if pattern.fullmatch(p.name) and (p / "state.json").exists())


def load_training(folder: Path) -> TrainingCheckpoint:
    """The inverse of `save_training`. Raises CheckpointError."""
    state = _read_json(folder / "state.json")
    optimizers = []
    for number, groups in enumerate(state.pop("param_groups")):
        values: dict[int, dict[str, Tensor]] = {}
        for key, tensor in load_tensors(folder / f"optimizer-{number}.safetensors").items():
            parameter, name = key.split(".", 1)
            values.setdefault(int(parameter), {})[name] = tensor
        optimizers.append({"state": values, "param_groups": groups})
    weights, average = (load_tensors(folder / f"{name}.safetensors") for name in ("weights", "average"))
    return TrainingCheckpoint(weights, average, optimizers, state)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _read_json(path: Path) -> dict[str, Any]:
    tree = read_json(path, CheckpointError)
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: holds {type(tree).__name__}, expected keys and values")
    return tree


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    if not (folder / INDEX).exists():
        return load_tensors(folder / "model.safetensors")
    shards = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict):
        raise CheckpointError(f"{folder / INDEX}: has no weight_map of tensor to shard")
    state: dict[str, Tensor] = {}
    for name in sorted({str(name) for name in shards.values()}):
        if os.path.basename(name) != name:
            raise CheckpointError(f"{folder / INDEX}: shard {name!r} lies outside the folder")
        state |= load_tensors(folder / name)
    return state
