"""Correction by steps, with the fake encoder: what is asked, what is kept, when it ends."""

import runpy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fakes import FakeEncoder, fake_encoder, perturbed, tiny_config, tiny_texts
from unembed.decoding.guesses import Guesser
from unembed.denoiser.model import Denoiser
from unembed.inverter import Inverter
from unembed.search import correction
from unembed.search.correction import Corrector
from unembed.search.encoder_calls import EncoderCalls
from unembed.search.options import Search
from unembed.search.state import Hypothesis
from unembed.storage.checkpoint import Parts, build_denoiser

TOKENIZER = fake_encoder().tokenizer
CONFIG = replace(tiny_config(), model=replace(tiny_config().model, feedback=True))
TEXT = "the old cat watched the river"


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    found = perturbed(build_denoiser(CONFIG, TOKENIZER), 0.2).requires_grad_(False)
    found.output_bias[list(found.end_ids)] -= 3.0
    return found


class Recorded(FakeEncoder):
    """The fake encoder, and the texts of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
        self.asked.append(list(texts))
        return super().encode(texts)


def corrector(denoiser: Denoiser, beam: int, calls: int, encoder: FakeEncoder, seed: int = 0) -> Corrector:
    e_D = fake_encoder().encode([TEXT])[0]
    return Corrector(
        denoiser, TOKENIZER, EncoderCalls(encoder, None, TOKENIZER, Search(max_calls=calls), 16), e_D, beam, seed
    )


def ids(*texts: str) -> list[tuple[int, ...]]:
    return [tuple(one) for one in TOKENIZER.encode_batch(list(texts))]


@pytest.mark.parametrize(("beam", "calls"), [(1, 7), (3, 10)])
def test_the_nearest_of_all_that_was_asked_are_kept(denoiser: Denoiser, beam: int, calls: int) -> None:
    encoder = Recorded()
    several = list(corrector(denoiser, beam, calls, encoder).run(ids(*tiny_texts(beam, seed=3))))
    asked = [text for texts in encoder.asked for text in texts]
    assert len(asked) == len(set(asked)) == calls
    assert max(map(len, encoder.asked)) == beam
    cosines = fake_encoder().encode(asked) @ fake_encoder().encode([TEXT])[0]
    so_far = 0
    for kept, texts in zip(several, encoder.asked, strict=True):
        so_far += len(texts)
        nearest = np.argsort(-cosines[:so_far], kind="stable")[:beam]
        assert [TOKENIZER.decode(one.ids) for one in kept] == [asked[place] for place in nearest]
        np.testing.assert_allclose([one.cosine for one in kept], cosines[nearest], atol=1e-6)


def test_it_ends_at_the_very_text(denoiser: Denoiser) -> None:
    encoder = Recorded()
    (only,) = corrector(denoiser, 2, 50, encoder).run(ids(TEXT, "a red dog"))
    assert TOKENIZER.decode(only[0].ids) == TEXT
    assert encoder.calls == 2


def test_the_likeliest_revision_is_the_denoisers_with_feedback(denoiser: Denoiser) -> None:
    start = ids("a small dog guards the house")[0]
    e_hat = fake_encoder().encode([TOKENIZER.decode(start)])
    one = corrector(denoiser, 1, 5, fake_encoder())
    found, *_ = one.revisions([Hypothesis(start, e_hat[0], 0.5)])
    canvas = torch.tensor([TOKENIZER.canvas(start, denoiser.config.max_tokens)])
    told = denoiser.condition(torch.from_numpy(one.e_D[None]), hypothesis_BD=torch.from_numpy(e_hat))
    logits = denoiser.logits(denoiser.hidden(canvas, told))[0]
    ending = logits.softmax(-1)[:, list(denoiser.end_ids)].sum(-1)
    logits[:, list(denoiser.end_ids)] = -torch.inf
    stop = next((place for place in range(1, len(ending)) if ending[place] > 0.5), len(ending))
    assert list(found) == logits.argmax(-1)[:stop].tolist()


def test_it_ends_where_there_is_nothing_new(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guesser, "revised", lambda self, ids_BL, *others: ids_BL)
    encoder = fake_encoder()
    one = corrector(denoiser, 1, 50, encoder)
    assert len(list(one.run(ids("a red dog")))) == 1
    assert encoder.calls == 1
    assert one.passes == correction.FRUITLESS * correction.TRIES
    assert list(corrector(denoiser, 1, 50, encoder).run([()])) == []


def test_the_seed_decides(denoiser: Denoiser) -> None:
    def texts(seed: int) -> list[str]:
        encoder = Recorded()
        list(corrector(denoiser, 3, 20, encoder, seed).run(ids("a red dog", "no king", "the letter")))
        return [text for several in encoder.asked for text in several]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_the_script_tells_what_calls_gain(denoiser: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inverter = Inverter(Parts(denoiser, TOKENIZER, CONFIG, {}), fake_encoder())
    script = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "runs" / "correction_table.py")))
    given = SimpleNamespace(from_pretrained=lambda name, **_: inverter)
    monkeypatch.setitem(script.main.callback.__globals__, "Inverter", given)
    (tmp_path / "texts.txt").write_text("\n".join(tiny_texts(8)), encoding="utf-8")
    options = ["--texts", tmp_path / "texts.txt", "--tokens", "natural", "--calls", 1, "--calls", 9]
    result = CliRunner().invoke(script.main, [*map(str, options), "--beam", "1", "--beam", "2"])
    assert result.exit_code == 0, result.output
    head, table = result.stdout.split("\n\n")
    assert head == "8 texts"
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    cosines = {tuple(cell[:3]): float(cell[-1].split()[0]) for cell in cells}
    assert [(beam, calls) for beam, calls, text in cosines if text == "asked about"] == [
        ("1", "1"), ("1", "9"), ("2", "9")
    ]  # fmt: skip
    assert cosines["1", "1", "asked about"] < cosines["1", "9", "asked about"]
