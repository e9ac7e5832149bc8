"""Audits as an audit would make them, for tests of how they are said."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from unembed.audit.findings import Audited, Rate, Recovered, Report
from unembed.audit.rules import from_statuses, from_traces
from unembed.stores.store import Collection, Trace

TEXT = Trace("text", "500 of 500 rows have their text beside the vector.", "chroma.sqlite3: embedding_metadata", 500)
ENCODER = Trace("encoder", "It names all-MiniLM-L6-v2.", "chroma.sqlite3: collections")
SECRET = Trace("secret", "A column holds what looks like an API key.", "config: openai_key", 1)
DELETED = Trace("deleted", "17 deleted rows can be read in data_level0.bin.", "data_level0.bin", 17)
READABLE = Trace("readable", "Every user of the machine can read chroma.sqlite3.", "chroma.sqlite3")
TRUTHS = (
    "Dr. Okafor moved Mrs. Lindqvist's biopsy to 14 March 2024; write to anna.lindqvist@example.com.",
    "The library opens at nine and closes when the last reader goes home.",
    "Invoice 2291 over 1,250 EUR is due; IBAN DE89 3704 0044 0532 0130 00.",
)
RECOVERED = (
    "dr. okafor moved mrs. lindqvist's biopsy to 14 march 2024 ; write to anna. lindqvist @ example. com.",
    "the library opens at nine and closes when the last reader goes home.",
    "invoice 2219 over 1, 250 eur is due ; iban de89 3704 0044 0532.",
)


def audited(
    collection: str = "tickets",
    traces: Sequence[Trace] = (ENCODER,),
    store: str = "/srv/rag/chroma",
    counts: dict[str, int] | None = None,
    **changes: Any,
) -> Audited:
    """One collection with its findings; 200 rows were sampled unless `counts` says otherwise."""
    counts = {"proved": 0, "exact": 61, "near": 54, "topic": 40, "nothing": 45} if counts is None else counts
    n = sum(counts.values())
    values: dict[str, Any] = {
        "store": store, "kind": "chroma", "collection": collection, "rows": 12_400, "dimension": 384,
        "number": "float32", "encoder": "all-MiniLM-L6-v2", "encoder_by": "named", "sampled": n, "attack": "guided",
        "status_counts": counts, "chance_counts": {"topic": 6, "nothing": 194},
        "random_counts": {"topic": 2, "nothing": 98}, "token_f1": Rate(0.62, 0.58, 0.66, n),
        "chance_f1": Rate(0.11, 0.1, 0.12, n), "random_f1": Rate(0.08, 0.07, 0.09, 100),
        "vectors": {"norm": {"mean": 1.0, "deviation": 2e-8}, "duplicates": 3, "constant_direction": 0.31},
        "personal": {
            "email": {"truth": 31, "recovered": 12, "chance": 0},
            "iban": {"truth": 9, "recovered": 0, "chance": 0},
            "date": {"truth": 64, "recovered": 22, "chance": 1},
        },
        "findings": (),
        "recovered": (
            Recovered("ticket-0", "exact", RECOVERED[0], TRUTHS[0], 1.0, 1.0, {"email": 1, "date": 1}),
            Recovered("ticket-1", "near", RECOVERED[1], TRUTHS[1], 0.991, 0.98),
            Recovered("ticket-2", "near", RECOVERED[2], TRUTHS[2], 0.962, 0.81),
        ),
        "tried": ("Guided inversion, 30 seconds a row.",),
        "not_tried": ("Names of persons and places were not looked for.",),
        "seconds": 6_120.4, "encoder_calls": 2_412_000,
    }  # fmt: skip
    one = Audited(**(values | changes))
    found = from_traces(
        one.store, Collection(one.collection, lossy=one.number.startswith("PQ"), number=one.number), traces
    )
    return dataclasses.replace(one, findings=(*found, *from_statuses(one)))


def untested(collection: str = "images", **changes: Any) -> Audited:
    """A collection whose encoder nobody knows."""
    values: dict[str, Any] = {
        "encoder": "", "encoder_by": "unknown", "attack": "", "token_f1": None, "chance_f1": None, "random_f1": None,
        "personal": {}, "recovered": (), "tried": (), "not_tried": ("No encoder is known.",), "seconds": 0.4,
        "encoder_calls": 0, "chance_counts": {}, "random_counts": {}, "sampled": 0,
    }  # fmt: skip
    return audited(collection, (), counts={}, **(values | changes))


def report(*collections: Audited, **changes: Any) -> Report:
    """A whole audit."""
    about = {
        "version": "0.1.0", "date": "2026-11-29", "seed": 0, "machine": {"cpu": "AMD EPYC, 2 cores", "device": "cpu"},
        "options": {"sample": 200, "seconds": 30, "fail_on": "near"},
    }  # fmt: skip
    return Report(collections or (audited(),), about, **changes)


def rate(value: float, half: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half)}


DEFENCES = (
    {"name": "none", "leak": rate(0.62), "recall": rate(1.0, 0.0), "ndcg": 0.58, "bytes": 1536},
    {"name": "float16", "leak": rate(0.62), "recall": rate(0.999, 0.001), "ndcg": 0.58, "bytes": 768},
    {"name": "int8", "leak": rate(0.55), "recall": rate(0.985, 0.004), "ndcg": 0.57, "bytes": 384},
    {"name": "noise 0.01", "leak": rate(0.41), "recall": rate(0.962, 0.006), "ndcg": 0.56, "bytes": 1536},
    {"name": "noise 0.05", "leak": rate(0.18), "recall": rate(0.71), "ndcg": 0.44, "bytes": 1536},
    {"name": "binary", "leak": rate(0.33), "recall": rate(0.80), "ndcg": 0.53, "bytes": 48},
    {
        "name": "secret rotation", "leak": rate(0.61), "recall": rate(1.0, 0.0), "ndcg": 0.58, "bytes": 1536,
        "note": "the attacker has 400 pairs",
    },
)  # fmt: skip
