"""Whole audits of stores in memory, by an inverter that knows some texts."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fakes import FakeEncoder, fake_encoder
from memory_store import KnowingInverter, MemoryStore, opening, rows, texts
from unembed.alignment.linear import normalised
from unembed.audit.audit import audit
from unembed.audit.findings import Audited, Report
from unembed.audit.journal import FOLDER
from unembed.audit.options import AuditOptions
from unembed.encoders.remote import RemoteEncoder
from unembed.errors import DataError, EncoderError, InputError
from unembed.stores.store import Rows

STORED = texts(240)
OTHERS = texts(900, seed=4)[400:]
ENCODER = fake_encoder()
VECTORS = ENCODER.encode(STORED)


def turned(x: np.ndarray, seed: int = 2) -> np.ndarray:
    """As of another encoder with the same meaning in other directions."""
    d = x.shape[1]
    return (x @ np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]).astype(np.float32)


@pytest.fixture(scope="module")
def knowing() -> KnowingInverter:
    return KnowingInverter([*STORED, *OTHERS])


@pytest.fixture
def inverter(knowing: KnowingInverter) -> KnowingInverter:
    knowing.stop, knowing.seen = [], []
    return copy.copy(knowing)


def run(inverter: KnowingInverter, *stores: MemoryStore, uris: Sequence[str] = (), **options: Any) -> Report:
    more = {name: options.pop(name) for name in ("output", "progress") if name in options}
    chosen = AuditOptions(**options)
    return audit(uris or [one.location for one in stores], chosen, inverter=inverter, opener=opening(*stores), **more)


def one(inverter: KnowingInverter, found: Rows, described: dict[str, Any] | None = None, **options: Any) -> Audited:
    store = MemoryStore(docs=found).describe("docs", rows=len(found), **(described or {}))
    (audited,) = run(inverter, store, **options).collections
    assert store.closed
    return audited


def above(audited: Audited) -> int:
    """Rows of which something came back."""
    return sum(audited.status_counts.values()) - audited.status_counts["nothing"]


def test_blind_inversion_of_the_inverters_own_encoder(inverter: KnowingInverter) -> None:
    found = one(inverter, rows(VECTORS, STORED), sample=60)
    assert (found.attack, found.encoder, found.encoder_by) == ("blind", "fake", "identified")
    assert (found.rows, found.sampled, found.dimension) == (240, 60, 16)
    assert above(found) > 55
    assert found.status_counts["near"] > 30
    assert found.token_f1 is not None
    assert found.random_f1 is not None
    assert found.chance_f1 is not None
    assert found.token_f1.low > max(found.random_f1.high, found.chance_f1.high)
    assert found.level in ("proved", "near")
    assert found.encoder_calls == 60 + 40  # cosines of the rows' texts and of the random vectors'
    assert found.vectors["unit"]
    row = next(row for row in found.recovered if row.status == "near")
    assert row.truth == STORED[int(row.id[1:])]
    assert 0.7 <= (row.score or 0) < 1
    assert any("guided" in line for line in found.not_tried)


def test_guided_inversion_proves_texts(inverter: KnowingInverter) -> None:
    found = one(inverter, rows(VECTORS, STORED), sample=30, seconds=2.0)
    assert (found.attack, found.status_counts["proved"], found.level) == ("guided", 30, "proved")
    assert found.encoder_calls == 35 + 35 * 7
    assert any("2 s a row" in line for line in found.tried)


def test_without_texts_the_encoder_decides(inverter: KnowingInverter) -> None:
    exact = one(inverter, rows(3 * VECTORS), {"encoder": "fake"}, sample=30, seconds=2.0)  # lengths do not matter
    assert (exact.encoder_by, exact.status_counts["exact"], exact.token_f1) == ("named", 30, None)
    assert exact.random_counts["nothing"] == sum(exact.random_counts.values())


def test_a_hash_is_enough(inverter: KnowingInverter) -> None:
    hashes = [f"sha256:{hashlib.sha256(text.capitalize().encode()).hexdigest()}" for text in STORED]
    found = one(inverter, rows(VECTORS, hashes=hashes), {"encoder": "fake"}, sample=30, seconds=2.0)
    assert found.status_counts["proved"] == 30
    assert all(row.text[0].isupper() for row in found.recovered)


def test_texts_and_hashes_that_are_left_out_decide_nothing(inverter: KnowingInverter) -> None:
    hashes = [f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" for text in STORED]
    stored = rows(VECTORS, STORED, hashes=hashes)
    found = one(inverter, stored, {"encoder": "fake"}, sample=30, seconds=2.0, without_texts=True)
    bare = one(inverter, rows(VECTORS), {"encoder": "fake"}, sample=30, seconds=2.0)
    assert found.status_counts == bare.status_counts
    assert found.status_counts["exact"] == 30
    assert (found.token_f1, found.personal) == (None, bare.personal)
    assert all(row.truth is None for row in found.recovered)
    assert any("--without-texts" in line for line in found.not_tried)
    # Nor are they pairs for an aligner.
    assert one(inverter, rows(turned(VECTORS), STORED), sample=30).attack == "aligned"
    assert one(inverter, rows(turned(VECTORS), STORED), sample=30, encoder="other", without_texts=True).attack == ""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("told", [True, False])
def test_random_vectors_give_nothing(inverter: KnowingInverter, told: bool, seed: int) -> None:
    noise = np.random.default_rng(seed).standard_normal(VECTORS.shape)
    for declared in ("fake", None):
        found = one(inverter, rows(noise, STORED if told else None), encoder=declared, sample=100, seed=seed)
        assert found.level == "nothing"
        assert not found.status_counts or above(found) <= 2


@pytest.mark.parametrize("told", [True, False])
def test_vectors_of_another_encoder_give_nothing(inverter: KnowingInverter, told: bool) -> None:
    found = one(inverter, rows(turned(VECTORS), STORED if told else None), encoder="fake", sample=100)
    assert found.level == "nothing"
    # Even half of the rows are not enough to fit an aligner.
    few = one(inverter, rows(turned(VECTORS)[:80], STORED[:80] if told else None), encoder="other", sample=60)
    assert (few.attack, few.status_counts, few.sampled) == ("", {}, 60)
    assert any("other is not the inverter's" in line for line in few.not_tried)


def test_texts_beside_another_encoders_vectors_are_pairs_for_an_aligner(inverter: KnowingInverter) -> None:
    found = one(inverter, rows(turned(VECTORS), STORED), {"encoder": "someone/other"}, sample=60)
    assert (found.attack, found.encoder, found.encoder_by) == ("aligned", "someone/other", "named")
    assert above(found) > 50
    assert found.level in ("near", "proved")
    assert any("fitted on 180 texts of this collection" in line for line in found.tried)
    assert [row.cosine for row in found.recovered] == [None] * 60  # the other encoder cannot be asked


def test_half_of_a_small_sample_becomes_pairs(inverter: KnowingInverter) -> None:
    found = one(inverter, rows(turned(VECTORS), STORED), sample=240)
    assert (found.attack, found.sampled) == ("aligned", 120)


def test_an_aligner_that_is_given_is_used(inverter: KnowingInverter, tmp_path: Path) -> None:
    from unembed.training.align import Pairs, align

    made = ENCODER.encode(OTHERS)
    align(inverter, Pairs(OTHERS, normalised(turned(made)), True), "other").save(tmp_path / "aligner")
    found = one(inverter, rows(turned(VECTORS), STORED), sample=60, encoder="other", aligner=str(tmp_path / "aligner"))
    assert found.attack == "aligned"
    assert found.level in ("near", "proved")
    wrong = one(inverter, rows(VECTORS[:, :8], STORED), sample=60, aligner=str(tmp_path / "aligner"))
    assert wrong.attack == ""
    assert "the aligner takes 16 dimensions, these vectors have 8" in wrong.not_tried


def test_where_nothing_tells_right_from_wrong_nothing_is_said(
    inverter: KnowingInverter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unembed.training.align import Pairs, align

    align(inverter, Pairs(OTHERS, normalised(turned(ENCODER.encode(OTHERS))), True), "other").save(tmp_path / "aligner")
    found = one(inverter, rows(turned(VECTORS)), sample=30, encoder="other", aligner=str(tmp_path / "aligner"))
    assert (found.attack, found.status_counts) == ("", {})
    assert any("neither texts nor hashes" in line for line in found.not_tried)

    def fail(*_: Any, **__: Any) -> Any:
        raise EncoderError("it is nowhere")

    inverter._encoder = None
    monkeypatch.setattr("unembed.inverter.inverter.load_encoder", fail)
    alone = one(inverter, rows(VECTORS), {"encoder": "fake"}, sample=30)
    assert (alone.attack, alone.status_counts) == ("", {})
    assert any("it is nowhere" in line for line in alone.not_tried)
    words = one(inverter, rows(VECTORS, STORED), {"encoder": "fake"}, sample=30, seconds=1.0)
    assert (words.attack, words.status_counts["near"] > 10) == ("blind", True)


class Turned(FakeEncoder):
    """Another encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.recipe = replace(self.recipe, encoder="turned")

    def encode_tokens(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings (B, 16), as `turned` makes them."""
        return torch.from_numpy(turned(super().encode_tokens(ids, lengths).numpy()))


def test_another_encoder_that_can_be_asked_is_asked(inverter: KnowingInverter, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []
    monkeypatch.setattr("unembed.audit.attack.load_encoder", lambda name, _: named.append(name) or Turned())
    found = one(inverter, rows(turned(VECTORS), STORED), sample=40, encoder="folder/turned", seconds=1.0)
    assert named == ["folder/turned"]
    assert (found.attack, found.encoder, found.encoder_by) == ("aligned", "folder/turned", "declared")
    assert found.status_counts["proved"] > 35
    assert max(row.cosine or 0 for row in found.recovered) > 1 - 1e-6
    assert any("guided inversion, 1 s a row" in line for line in found.tried)


def test_an_address_is_asked_and_told_and_let_go(inverter: KnowingInverter, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Remote(RemoteEncoder):
        def __init__(self, *arguments: Any) -> None:
            asked.append(arguments[0])
            super().__init__(*arguments)

        def encode(self, texts: Sequence[str], *_: Any, **__: Any) -> np.ndarray:
            self.calls += len(texts)
            return ENCODER.encode(texts)

        def close(self) -> None:
            asked.append("closed")
            super().close()

    for module in ("attack", "running"):
        monkeypatch.setattr(f"unembed.audit.{module}.RemoteEncoder", Remote)
    store = MemoryStore(docs=rows(VECTORS)).describe("docs", rows=240, encoder="fake")
    report = run(inverter, store, sample=20, encoder_url="http://127.0.0.1:9/v1/embeddings")
    assert asked == ["http://127.0.0.1:9/v1/embeddings", "closed"]
    assert report.about["asked"] == {"calls": 1 + 20 + 40, "tokens": 0}
    assert "127.0.0.1" not in json.dumps(report.about)  # an address may have a password


def test_rows_that_hold_no_vector_are_left_out_and_counted(inverter: KnowingInverter) -> None:
    broken = VECTORS.copy()
    broken[::2] = np.nan
    found = one(inverter, rows(broken, STORED), sample=200)
    assert found.sampled == 120
    assert found.vectors["unreadable"] == 120
    assert any("120 rows that hold no vector" in line for line in found.tried)
    nothing = one(inverter, rows(np.full((5, 16), np.nan)), sample=20)
    assert (nothing.sampled, nothing.attack, nothing.status_counts) == (0, "", {})


def test_collections_share_the_sample_by_size(inverter: KnowingInverter) -> None:
    store = MemoryStore(large=rows(VECTORS[:200]), small=rows(VECTORS[200:]))
    for name, size in (("large", 200), ("small", 40)):
        store.describe(name, rows=size, encoder="fake")
    report = run(inverter, store, sample=120)
    assert {found.collection: found.sampled for found in report.collections} == {"large": 100, "small": 20}
    (chosen,) = run(inverter, store, uris=["here#small"], sample=120).collections
    assert (chosen.collection, chosen.sampled) == ("small", 40)
    with pytest.raises(DataError, match="no collection 'none', expected one of large, small"):
        run(inverter, store, uris=["here#none"])


def test_a_collection_that_cannot_be_read_is_told(inverter: KnowingInverter) -> None:
    store = MemoryStore(good=rows(VECTORS), bad=DataError("page 7 is damaged"))
    store.notes.append("table x was not read")
    report = run(inverter, store, sample=40, encoder="fake")
    assert [found.collection for found in report.collections] == ["good"]
    assert report.unread == ("here#bad: page 7 is damaged", "here: table x was not read")
    assert report.about["failed"] == 1
    with pytest.raises(DataError, match="page 7"):
        run(inverter, MemoryStore(bad=DataError("page 7 is damaged")))
    report = run(inverter, store, uris=["there", "here#good"], sample=40, encoder="fake")
    assert [found.collection for found in report.collections] == ["good"]
    assert "no such store" in report.unread[0]
    assert report.about["failed"] == 1
    with pytest.raises(DataError, match="no such store"):
        run(inverter, store, uris=["there", "there"])


def test_nothing_is_written_into_a_store(inverter: KnowingInverter, tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    with pytest.raises(InputError, match="lies in .*db, expected a folder elsewhere"):
        audit([f"files:{tmp_path / 'db'}#x"], inverter=inverter, output=tmp_path / "db" / "report")
    assert not any((tmp_path / "db").iterdir())


def test_a_single_row_is_no_evidence(inverter: KnowingInverter) -> None:
    """There is nothing to compare it with: neither near nor a topic, whatever it scores."""
    found = one(inverter, rows(VECTORS[:1], STORED[:1]), sample=20)
    assert found.sampled == 1
    assert not found.status_counts["near"] + found.status_counts["topic"]


def test_no_text_stands_where_it_was_not_asked_for(inverter: KnowingInverter) -> None:
    found = one(inverter, rows(VECTORS, STORED), sample=60, seconds=2.0)
    said = json.dumps([found.vectors, found.tried, found.not_tried])
    assert not any(text in said for text in STORED)


class Killed(BaseException):
    """As if the process were killed."""


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Killed()])
def test_an_interrupted_audit_goes_on_where_it_was(
    inverter: KnowingInverter, tmp_path: Path, stop: BaseException
) -> None:
    store = MemoryStore(a=rows(VECTORS[:120], STORED[:120]), b=rows(VECTORS[120:], STORED[120:]))
    options: dict[str, Any] = {"sample": 100, "seconds": 2.0, "output": tmp_path}
    whole = run(copy.copy(inverter), store, sample=100, seconds=2.0)
    asked: list[int] = []
    # The first collection is done and ten rows of the second, of which the last batch is lost.
    inverter.stop = [(10, stop)]
    inverter.seen = asked
    first = copy.copy(inverter)
    first.stop, first.seen = [], []
    run_one = MemoryStore(a=store.kept["a"][1], b=store.kept["b"][1])
    original = inverter.invert

    def invert(*args: Any, **more: Any) -> Any:
        if run_one.batches <= 8:  # the first collection's
            return first.invert(*args, **more)
        return original(*args, **more)

    inverter.invert = invert  # type: ignore[method-assign]
    if isinstance(stop, KeyboardInterrupt):
        partial = run(inverter, run_one, **options)
        assert partial.about["interrupted"]
        assert [found.sampled for found in partial.collections] == [50, 10]
        assert any("40 of the rows drawn: it was interrupted" in line for line in partial.collections[1].not_tried)
    else:
        with pytest.raises(Killed):
            run(inverter, run_one, **options)
    assert (tmp_path / FOLDER).stat().st_mode & 0o777 == 0o700
    seen = len(asked)
    run_one.batches = 9
    again = run(inverter, run_one, **options)
    assert not again.about["interrupted"]
    assert len(asked) - seen == 40  # rows that were not yet inverted
    assert run_one.batches == 9  # and the store was not read again
    assert [found.recovered for found in again.collections] == [found.recovered for found in whole.collections]
    assert [found.status_counts for found in again.collections] == [found.status_counts for found in whole.collections]
    assert not (tmp_path / FOLDER).exists()


def test_other_options_or_a_damaged_journal_start_anew(inverter: KnowingInverter, tmp_path: Path) -> None:
    store = MemoryStore(docs=rows(VECTORS, STORED))

    def stopped(**options: Any) -> int:
        inverter.stop, inverter.seen = [(20, KeyboardInterrupt())], []
        run(inverter, store, output=tmp_path, sample=100, **options)
        inverter.stop, inverter.seen = [], []
        return 0

    stopped()
    run(inverter, store, output=tmp_path, sample=100, seed=1)
    assert len([row for row in inverter.seen if row < 20]) > 20  # the random vectors, and rows from the first on
    stopped()
    for file in (tmp_path / FOLDER).rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found = run(inverter, store, output=tmp_path, sample=100)
    assert found.collections[0].sampled == 100
    assert not (tmp_path / FOLDER).exists()


def test_a_deadline_ends_the_work_and_says_so(inverter: KnowingInverter, tmp_path: Path) -> None:
    store = MemoryStore(docs=rows(VECTORS, STORED)).describe("docs", rows=240)
    report = run(inverter, store, sample=100, deadline=1e-6, output=tmp_path)
    (found,) = report.collections
    assert report.about["deadline"]
    assert found.sampled == 16  # of the first batch that was read
    assert any("first 16 rows of 240: the time for reading was over" in line for line in found.tried)
    assert (tmp_path / FOLDER).exists()  # the same command goes on
    two = MemoryStore(a=rows(VECTORS[:120]), b=rows(VECTORS[120:]))
    late = run(inverter, two, sample=100, deadline=1e-6, encoder="fake")
    assert [found.collection for found in late.collections] == ["a"]
    assert late.unread == ("here#b: the time was over first",)


def test_progress_is_told(inverter: KnowingInverter) -> None:
    said: list[tuple[str, str, int, int | None]] = []
    store = MemoryStore(docs=rows(VECTORS)).describe("docs", rows=240)
    run(inverter, store, sample=40, encoder="fake", progress=lambda *one: said.append(one))
    assert [one for one in said if one[1] == "read"][-1] == ("here#docs", "read", 240, 240)
    assert said[-1] == ("here#docs", "rows", 40, 40)


def test_a_failing_encoder_is_told(inverter: KnowingInverter, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise EncoderError("the encoder answered with nothing")

    monkeypatch.setattr(KnowingInverter, "invert", fail)
    with pytest.raises(EncoderError, match="answered with nothing"):
        one(inverter, rows(VECTORS), encoder="fake", seconds=1.0)


@pytest.mark.parametrize(
    "options", [{"sample": 0}, {"seconds": 0}, {"seconds": float("nan")}, {"deadline": -1}, {"encoder_model": "x"}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} is"):
        AuditOptions(**options)
