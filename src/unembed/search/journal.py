"""A search on disk, so that a killed one goes on after the last round that it finished.

One file holds what is known of one embedding's search. Where calls are counted, a search that goes on equals one that
was never stopped, but for passes that it makes again; where time is, it has the time that was left. Only numbers are
stored, no pickles.
"""

import hashlib
import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from unembed.errors import InputError
from unembed.files.atomic import atomic_file
from unembed.search.gaussian_process import Answers
from unembed.search.loop import Searcher
from unembed.search.state import Hypothesis

FORMAT = 12


def save_search(path: Path, searcher: Searcher) -> None:
    """Write how far a search has come, whole or not at all. Raises OutputError."""
    state = searcher.state
    tree = {
        "format": FORMAT, "search": _key(searcher),
        "pool": [_told(h) for h in state.pool], "found": [_told(h) for h in state.found],
        "rounds": state.rounds, "idle": state.idle, "begun": state.begun,
        "calls": searcher.encoder.calls, "seconds": searcher.encoder.seconds, "passes": searcher.denoiser.passes,
        "answers": state.answers.texts,
    }  # fmt: skip
    arrays = {
        "tree": np.frombuffer(json.dumps(tree).encode(), np.uint8),
        "pool": np.array([h.e_hat for h in state.pool]),
        "found": np.array([h.e_hat for h in state.found]),
        "answers": state.answers.e_ND,
        "seen": np.fromiter(state.seen, np.int64, len(state.seen)),
    }
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_search(path: Path, searcher: Searcher) -> None:
    """Put a search where the file says it was; without one, or with that of another search or version, it starts anew.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:  # a damaged one would stay open
            arrays = dict(file)
        tree = json.loads(arrays["tree"].tobytes())
        if (tree["format"], tree["search"]) != (FORMAT, _key(searcher)):
            return
        pool, found = (
            [_hypothesis(told, e) for told, e in zip(tree[name], arrays[name], strict=True)]
            for name in ("pool", "found")
        )
        answers = Answers(searcher.search.tuning.kernel)
        answers.take([tuple(ids) for ids in tree["answers"]], arrays["answers"])
        values = {name: int(tree[name]) for name in ("rounds", "idle", "begun")}
        calls, passes, seconds = int(tree["calls"]), int(tree["passes"]), float(tree["seconds"])
        seen = set(arrays["seen"].tolist())
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a search; delete it to search anew") from error
    state = searcher.state
    state.pool, state.answers, state.seen = pool, answers, seen
    known = {h.ids: h for h in pool}
    state.found = [known.get(h.ids, h) for h in found]
    for name, value in values.items():
        setattr(state, name, value)
    searcher.denoiser.passes = passes
    searcher.encoder.calls, searcher.encoder.seconds = calls, seconds


def _told(h: Hypothesis) -> list[Any]:
    return [h.ids, h.cosine, h.nats, h.changed, h.explored, h.confidence]


def _hypothesis(told: list[Any], e_hat: Any) -> Hypothesis:
    ids, cosine, nats, changed, explored, confidence = told
    return Hypothesis(
        tuple(ids), e_hat, float(cosine), float(nats), bool(changed), int(explored), confidence=confidence
    )


def _key(searcher: Searcher) -> str:
    """Says whether two searches are the same: embedding, options, and where the random numbers began."""
    digest = hashlib.sha256(repr((searcher.search, searcher.decoding, searcher.row)).encode())
    digest.update(searcher.denoiser.denoiser.output_bias.detach().float().cpu().numpy().tobytes())
    digest.update(searcher.surrogate.fitted.weight.numpy().tobytes())
    digest.update(searcher.e_D.tobytes())
    return digest.hexdigest()
