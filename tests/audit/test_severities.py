"""Which findings there are, how severe, what the verdict is, and when a gate is reached."""

import dataclasses

import pytest

from audits import DEFENCES, DELETED, ENCODER, READABLE, SECRET, TEXT, audited, report, untested
from unembed.audit.baseline import LEVELS, compare, reached
from unembed.audit.defence_choice import choose
from unembed.audit.findings import SEVERITIES, STATUSES, share
from unembed.audit.inversion_test import FAILED, OPEN, PASSED, filled
from unembed.audit.rules import MEANINGS, OF_TRACES, RULES, from_statuses, from_traces
from unembed.audit.verdict import verdict
from unembed.errors import DataError
from unembed.stores.store import Collection, Trace


def severities(**counts: int) -> dict[str, str]:
    """By rule, of a collection without chance baselines and personal data."""
    one = audited(counts=counts, traces=(), personal={}, chance_counts={}, random_counts={})
    return {found.rule: found.severity for found in one.findings}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"proved": 1, "nothing": 199}, {"invertible-proved": "high"}),
        ({"proved": 40, "nothing": 160}, {"invertible-proved": "critical"}),
        ({"exact": 1, "nothing": 9}, {"invertible-exact": "high"}),
        ({"exact": 10}, {"invertible-exact": "critical"}),
        ({"near": 2, "nothing": 198}, {"invertible-near": "medium"}),
        ({"near": 40, "nothing": 160}, {"invertible-near": "high"}),
        ({"topic": 2, "nothing": 198}, {"invertible-topic": "low"}),
        ({"topic": 40, "nothing": 160}, {"invertible-topic": "medium"}),
        ({"proved": 40, "near": 2, "nothing": 158}, {"invertible-proved": "critical", "invertible-near": "medium"}),
        ({"nothing": 200}, {"nothing-above-chance": "note"}),
    ],
)
def test_severity_follows_from_status_and_share(counts: dict[str, int], expected: dict[str, str]) -> None:
    assert severities(**counts) == expected


@pytest.mark.parametrize("kind", OF_TRACES)
def test_every_kind_of_trace_is_a_finding(kind: str) -> None:
    (found,) = from_traces("store", Collection("c"), [Trace(kind, "It is so."), Trace(kind, "It is so.", "there", 3)])
    assert found.severity in SEVERITIES
    assert found.message == "It is so."
    assert len(found.evidence["traces"]) == 2


def test_an_unknown_kind_of_trace_is_a_fault_of_its_reader() -> None:
    with pytest.raises(DataError, match="chroma:x: its reader tells of 'smell', expected one of text, encoder"):
        from_traces("chroma:x", Collection("c"), [Trace("smell", "It smells.")])


def test_what_a_store_gives_away_by_itself() -> None:
    one = audited(traces=(TEXT, SECRET, DELETED, READABLE, ENCODER), number="PQ16x8")
    found = {finding.rule: finding.severity for finding in one.findings}
    assert found["text-in-clear"] == found["secret-in-store"] == "critical"
    assert found["deleted-still-there"] == "high"
    assert (found["world-readable"], found["encoder-named"], found["lossy-index"]) == ("medium", "low", "note")


@pytest.mark.parametrize(
    ("chance", "random", "level"),
    [
        ({"nothing": 200}, {"nothing": 200}, "topic"),
        ({"topic": 20, "nothing": 180}, {"nothing": 200}, "nothing"),
        ({"nothing": 200}, {"topic": 20, "nothing": 180}, "nothing"),
        ({"topic": 4, "nothing": 196}, {}, "topic"),
    ],
)
def test_what_chance_gives_as_well_is_no_finding(chance: dict[str, int], random: dict[str, int], level: str) -> None:
    one = audited(
        counts={"topic": 20, "nothing": 180}, traces=(), personal={}, chance_counts=chance, random_counts=random
    )
    assert one.level == level
    assert ("invertible-topic" in {found.rule for found in one.findings}) == (level == "topic")


@pytest.mark.parametrize(
    ("kinds", "severity"),
    [
        ({"email": {"truth": 20, "recovered": 3, "chance": 0}}, "critical"),
        ({"name": {"truth": 20, "recovered": 3, "chance": 0}}, "high"),
        ({"date": {"truth": 20, "recovered": 3, "chance": 0}}, "medium"),
        (
            {"date": {"truth": 20, "recovered": 9, "chance": 0}, "iban": {"truth": 2, "recovered": 1, "chance": 0}},
            "critical",
        ),
        ({"email": {"truth": 20, "recovered": 0, "chance": 0}}, None),
        ({"date": {"truth": 20, "recovered": 6, "chance": 5}}, None),
    ],
)
def test_personal_data_are_as_severe_as_their_worst_kind_above_chance(kinds: dict, severity: str | None) -> None:
    one = audited(personal=kinds, traces=())
    assert [f.severity for f in one.findings if f.rule == "personal-data-recovered"] == ([severity] if severity else [])


def test_rules_are_whole() -> None:
    assert MEANINGS.keys() == SEVERITIES.keys()
    for rule in RULES.values():
        assert {*rule.severities} <= SEVERITIES.keys()
        assert all(text.endswith(".") for text in (rule.meaning, rule.advice))
        assert all(one.url.startswith("https://") for one in rule.references)
    said = " ".join(rule.meaning + rule.advice for rule in RULES.values())
    assert "evidence for a Recital 26 assessment" in said


@pytest.mark.parametrize(
    ("count", "n", "low", "high"), [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (5, 10, 0.237, 0.763)]
)
def test_shares_have_wilson_intervals(count: int, n: int, low: float, high: float) -> None:
    found = share(count, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)


@pytest.mark.parametrize(
    ("collections", "level"),
    [
        ((audited(counts={"nothing": 50}, traces=()),), "nothing"),
        ((audited(counts={"nothing": 50}, traces=()), untested()), "untested"),
        ((untested(), audited(counts={"topic": 30, "nothing": 20}, traces=())), "topic"),
        (
            (audited(counts={"near": 30}, traces=()), audited("b", counts={"exact": 1, "nothing": 99}, traces=())),
            "exact",
        ),
        ((audited(traces=(TEXT,)), audited("b", counts={"proved": 9})), "clear"),
        ((audited(counts={}, attack="", traces=(TEXT,)),), "clear"),
        ((), "untested"),
    ],
)
def test_the_worst_collection_decides_and_what_was_not_tested_is_not_safe(collections: tuple, level: str) -> None:
    final = verdict(dataclasses.replace(report(), collections=collections))
    assert final.level == level
    if level == "nothing":
        assert "no proof" in " ".join(final.basis)


def gate(status: str, level: str) -> bool:
    return bool(reached(report(audited(counts={status: 100}, traces=(), personal={})), level))


@pytest.mark.parametrize("level", LEVELS[:-1])
@pytest.mark.parametrize("status", STATUSES)
def test_a_gate_is_reached_by_its_level_and_worse(status: str, level: str) -> None:
    assert gate(status, level) == (STATUSES.index(status) <= STATUSES.index(level))


@pytest.mark.parametrize(
    ("traces", "expected"), [((), False), ((ENCODER,), True), ((READABLE,), True), ((TEXT,), True)]
)
def test_the_widest_gate_is_reached_by_any_finding_but_notes(traces: tuple, expected: bool) -> None:
    whole = report(audited(counts={"nothing": 100}, traces=traces, personal={}))
    assert bool(reached(whole, "any")) == expected
    assert not reached(whole, "topic")


def test_chance_reaches_no_gate() -> None:
    one = audited(counts={"topic": 6, "nothing": 194}, traces=(), personal={})
    assert not reached(report(one), "topic")


def test_with_a_baseline_only_new_and_worse_findings_count() -> None:
    def of(name: str = "tickets", **counts: int) -> object:
        return audited(name, counts=counts, traces=(ENCODER,), personal={})

    before = report(of(exact=2, nothing=198))
    assert not reached(before, "any", before)
    assert {*compare(before, before).values()} == {"unchanged"}

    similar = report(of(exact=4, nothing=196))
    assert not reached(similar, "exact", before)
    more = report(of(exact=18, nothing=182))
    (found,) = reached(more, "exact", before)
    assert (found.severity, compare(more, before)[found.fingerprint]) == ("high", "worse")
    severe = report(of(exact=60, nothing=140))
    assert [one.severity for one in reached(severe, "exact", before)] == ["critical"]
    assert not reached(before, "any", severe), "it became better"

    other = report(of(exact=2, nothing=198), of("second", exact=2, nothing=198))
    assert {one.collection for one in reached(other, "any", before)} == {"second"}


def test_the_inversion_test_is_filled_in() -> None:
    def results(one: object) -> list[str]:
        return [result for _, result, _ in filled(report(one)).criteria]

    assert results(audited(traces=())) == [FAILED, FAILED, FAILED, FAILED, OPEN]
    quiet = audited(counts={"nothing": 99}, traces=(), personal={"email": {"truth": 3, "recovered": 0, "chance": 0}})
    assert results(quiet) == [PASSED, PASSED, FAILED, PASSED, OPEN]
    assert results(untested()) == [OPEN, OPEN, FAILED, OPEN, OPEN]
    steps = dict(filled(report(audited(traces=()))).steps)
    assert "12,400 rows" in steps["Identify embeddings that are likely sensitive"]
    assert "61 exact (30.5 %)" in steps["Reconstruct the texts"]
    assert all(filled(report(untested())).steps)


def priced(name: str, leak: float, recall: float) -> dict:
    return {"name": name, "leak": {"value": leak}, "recall": {"value": recall}}


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        (DEFENCES, "noise 0.01"),
        (DEFENCES[:2], None),
        ([DEFENCES[0], priced("cheap", 0.1, 0.5)], None),
        ([priced("raw", 0.5, 1.0), priced("x", 0.4, 0.99)], "x"),
        ([priced("x", 0.4, 0.99), priced("none", 0.5, 1.0)], "x"),
    ],
)
def test_a_defence_is_recommended_that_lowers_the_leak_and_keeps_retrieval(rows: list, chosen: str | None) -> None:
    number, why = choose(rows)
    assert (None if number is None else rows[number]["name"]) == chosen
    assert why.endswith(".")


def test_a_finding_keeps_its_fingerprint_whatever_its_figures() -> None:
    few, many = (audited(counts={"exact": n, "nothing": 100 - n}, traces=()) for n in (1, 90))
    prints = [{f.rule: f.fingerprint for f in one.findings}["invertible-exact"] for one in (few, many)]
    assert prints[0] == prints[1]
    assert from_statuses(few) != from_statuses(many)
