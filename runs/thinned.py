"""A part of some shards, as files to pack: where a transfer or a disk is too small for all of them."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pieces import Member

from unembed.corpus.windows import MANIFEST, SPLITS, Shards
from unembed.errors import ConfigError


def thinned(folder: Path, shares: Mapping[str, float], place: str) -> Iterator[Member]:
    """The files of a shard folder, of which the training passages of some parts are left out from a place on.

    Passages come in their texts' order: where those were shuffled, what stays is a fair sample. What is held out
    stays whole.

    Args:
        shares: of a part's passages to keep, above 0 to 1; a part that is not named stays whole.
        place: where the files go.

    Raises:
        ConfigError: `shares` names a part that there is not, or a share that is none.
        DataError: the shards are damaged.
    """
    shards = Shards.open(folder)
    known = {part.name for part in shards.manifest.parts}
    for name, share in shares.items():
        if name not in known or not 0 < share <= 1:
            expected = f"above 0 to 1 of {', '.join(sorted(known))}"
            raise ConfigError(f"{folder}: no share {share} of {name}, expected {expected}")
    train = SPLITS[0]
    parts, files = [], {}
    for part in shards.manifest.parts:
        shard = next((one for one in shards[train] if one.name == part.name), None)
        kept = round(shares.get(part.name, 1.0) * len(shard)) if shard is not None else 0
        if shard is None or kept == len(shard):
            parts.append(part)
            continue
        tokens, kinds = int(shard.offsets[kept]), {"offsets": shard.offsets[: kept + 1]}
        kinds["tokens"] = shard.tokens[:tokens]
        if shard.embeddings is not None:
            kinds["embeddings"] = shard.embeddings[:kept]
        files |= {f"{train}/{part.name}.{kind}.bin": values.tobytes() for kind, values in kinds.items()}
        counts = {"passages": dict(part.passages) | {train: kept}, "tokens": dict(part.tokens) | {train: tokens}}
        parts.append(dataclasses.replace(part, **counts))
    manifest = dataclasses.replace(shards.manifest, parts=tuple(parts))
    files[MANIFEST] = json.dumps(manifest.to_dict(), indent=1).encode()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            yield Member(f"{place}/{name}", files.get(name, path))


def weighted(tree: dict[str, Any], shares: Mapping[str, float]) -> dict[str, Any]:
    """A configuration (as a dictionary) whose parts are drawn from as often as before, though some were thinned."""
    weights = dict(tree["data"]["weights"])
    for name, share in shares.items():
        weights[name] = weights.get(name, 1.0) / share
    return tree | {"data": tree["data"] | {"weights": weights}}
