"""The rounds of a guided search on disk, so that a killed search goes on after the last one that it finished.

One file holds all rows of one batch: what each knows of its hypotheses, whom it has asked, and the state of its random
numbers. A search that goes on from it equals one that was never stopped. Only numbers and text are stored, no pickles.
"""

import hashlib
import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from unembed.edits import Choices
from unembed.errors import InputError
from unembed.files import atomic_file
from unembed.forecast import Answers
from unembed.guidance import Guide
from unembed.search import Hypothesis

FORMAT = 6


def save_rounds(path: Path, guide: Guide) -> None:
    """Write what a search has reached, whole or not at all. Raises OutputError."""
    arrays: dict[str, Any] = {}
    rows = []
    for number, row in enumerate(guide.rows):
        beam = []
        for place, h in enumerate(row.beam):
            beam.append(
                {"text": h.text, "ids": h.ids, "cosine": h.cosine, "doubts": h.doubts.tolist(), "score": h.score}
            )
            arrays[f"{number}.{place}.e_hat"] = h.e_hat
            if h.choices is not None:
                arrays[f"{number}.{place}.tokens"], arrays[f"{number}.{place}.gains"] = h.choices
            if h.text in row.gradients:
                arrays[f"{number}.{place}.gradient"] = row.gradients[h.text].cpu().numpy()
        arrays[f"{number}.answers"] = row.answers.e_ND
        if row.answers.told_ND is not None:
            arrays[f"{number}.told"] = row.answers.told_ND
        rows.append({
            "noise": row.noise.bit_generator.state, "beam": beam, "seen": sorted(row.seen),
            "calls": row.calls, "passes": row.passes, "rounds": row.rounds, "idle": row.idle,
            "answers": row.answers.texts,
        })  # fmt: skip
    tree = {"format": FORMAT, "search": _key(guide), "rows": rows}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, tree=np.frombuffer(json.dumps(tree).encode(), np.uint8), allow_pickle=False, **arrays)


def load_rounds(path: Path, guide: Guide) -> None:
    """Put a search where the file says it was; without one, or with that of another search or version, it starts anew.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:  # a damaged one would stay open
            arrays = dict(file)
        tree = json.loads(arrays.pop("tree").tobytes())
        if (tree["format"], tree["search"]) != (FORMAT, _key(guide)):
            return
        rows = [_row(row, arrays, number) for number, row in enumerate(tree["rows"])]
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as the rounds of a search; delete it to search anew") from error
    for row, (noise, values) in zip(guide.rows, rows, strict=True):
        row.noise.bit_generator.state = noise
        for name, value in values.items():
            setattr(row, name, value)


def _row(tree: dict[str, Any], arrays: dict[str, Any], number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    beam, gradients = [], {}
    for place, h in enumerate(tree["beam"]):
        e_hat = arrays[f"{number}.{place}.e_hat"]
        tokens, gains, gradient = (arrays.get(f"{number}.{place}.{name}") for name in ("tokens", "gains", "gradient"))
        choices = Choices(tokens, gains) if tokens is not None and gains is not None else None
        doubts = np.array(h["doubts"])
        beam.append(Hypothesis(h["text"], tuple(h["ids"]), h["cosine"], doubts, h["score"], e_hat, choices))
        if gradient is not None:
            gradients[h["text"]] = torch.from_numpy(gradient)
    answers = Answers()
    if tree["answers"]:
        texts = [tuple(ids) for ids in tree["answers"]]
        answers.take(texts, arrays[f"{number}.answers"], arrays.get(f"{number}.told"))
    values = {name: tree[name] for name in ("calls", "passes", "rounds", "idle")}
    return tree["noise"], values | {"beam": beam, "gradients": gradients, "answers": answers, "seen": set(tree["seen"])}


def _key(guide: Guide) -> str:
    """Says whether two searches are the same: embeddings, starts, options, and where the random numbers began."""
    digest = hashlib.sha256(repr((guide.search, guide.first_row, guide.starts)).encode())
    if guide.surrogate is not None:
        digest.update(guide.surrogate.fitted.weight.numpy().tobytes())
    for row in guide.rows:
        digest.update(row.e.tobytes())
    return digest.hexdigest()
