"""What travels, gathered in a folder: there what a training needs, back what it has made so far."""

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
import yaml
from remote.job import ENCODER

from unembed.config import Recipe, config_to_dict, load_config
from unembed.corpus.windows import MANIFEST, SPLITS, Shards
from unembed.encoders.recipes import locate, verify
from unembed.errors import CheckpointError, ConfigError
from unembed.files.tensors import load_tensors, save_tensors
from unembed.storage.checkpoint import Parts, load_inverter, save_inverter

CODE = Path(__file__).resolve().parents[2]
ENCODER_FILES = (".json", ".txt", ".model", ".safetensors")


def add_training(folder: Path, config: Path, data: Path, shares: Mapping[str, float], wheels: Path | None) -> None:
    """Put code, configuration, shards, encoder and wheels into `folder`.

    A part of which a share is sent is drawn from as often as if it were whole.

    Raises:
        ConfigError: `shares` names a part that there is not, or a share that is none.
        DataError: the shards are damaged.
        EncoderError: the encoder is not here, or not the recipe's.
    """
    settings = load_config(config)
    add_shards(folder / "shards", data, shares)
    add_encoder(folder / "encoders" / ENCODER, settings.encoder)
    tree = config_to_dict(settings)
    weights = tree["data"]["weights"]
    weights |= {name: weights.get(name, 1.0) / share for name, share in shares.items()}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    for name in ("src", "runs"):
        shutil.copytree(CODE / name, folder / "code" / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    for wheel in sorted(wheels.glob("*.whl")) if wheels else ():  # it need not be installed, only lie on the path
        shutil.unpack_archive(wheel, folder / "site", "zip")


def add_shards(folder: Path, data: Path, shares: Mapping[str, float]) -> None:
    """Copy shards without their test texts; of some parts the first passages, a fair sample if they were shuffled."""
    shards, train = Shards.open(data), SPLITS[0]
    found, manifest = {shard.name: shard for shard in shards[train]}, shards.manifest.to_dict()
    for name, share in shares.items():
        if name not in found or not 0 < share <= 1:
            raise ConfigError(f"{data}: no share {share} of {name}, expected 0 to 1 of {', '.join(sorted(found))}")
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("*.txt"), copy_function=shutil.copyfile)
    shutil.copyfile(data / "validation.txt", folder / "validation.txt")
    for part in manifest["parts"]:
        if (name := part["name"]) in shares:
            shard = found[name]
            kept = max(1, round(shares[name] * len(shard)))
            tokens = int(shard.offsets[kept])
            arrays = {"offsets": shard.offsets[: kept + 1], "tokens": shard.tokens[:tokens]}
            if shard.embeddings is not None:
                arrays["embeddings"] = shard.embeddings[:kept]
            for kind, array in arrays.items():
                array.tofile(folder / train / f"{name}.{kind}.bin")
            part["passages"][train], part["tokens"][train] = kept, tokens
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def add_encoder(folder: Path, recipe: Recipe) -> None:
    """Copy an encoder with its weights in bfloat16, in which windows are embedded anyway."""
    source = locate([recipe.encoder], recipe.revision)
    for name, digest in recipe.sha256.items():
        verify(source / name, digest)
    for path in [found for found in source.rglob("*") if found.suffix in ENCODER_FILES]:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            tensors = load_tensors(path).items()
            save_tensors({name: x.bfloat16() if x.is_floating_point() else x for name, x in tensors}, target)
        else:
            shutil.copyfile(path, target)


def add_result(folder: Path, run: Path) -> None:
    """Copy a run's log and its inverter so far, or, before the first checkpoint, the surrogate that it starts with."""
    for name in ("job.json", "first.json", "log.txt", "log.jsonl"):
        if (run / name).exists():
            shutil.copy(run / name, folder)
    if (run / "inverter").is_dir():
        denoiser, tokenizer, config, results, _, fitted = newest(run / "inverter")
        state, target = denoiser.state_dict(), folder / "inverter"
        save_inverter(target, state, tokenizer, config, results, torch.int8, surrogate=fitted)
    elif (surrogate := run.parent / "start" / "surrogate.safetensors").exists():
        shutil.copy(surrogate, folder)


def newest(inverter: Path) -> Parts:
    """Load an inverter that a run may be renewing at this moment."""
    for _ in range(2):
        with suppress(OSError, CheckpointError):
            return load_inverter(inverter, causal=None)
        time.sleep(2)
    return load_inverter(inverter, causal=None)
