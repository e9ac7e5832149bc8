"""What `runs/paired.py` says of two inverters on the same texts."""

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fakes import fake_encoder, tiny_config, tiny_texts
from unembed.decoding.options import Decoding, DecodingTuning
from unembed.errors import InputError
from unembed.search.options import Kernel, Search, SearchTuning

TEXTS = tiny_texts(40, seed=2)


class Forgetful:
    """Finds the text of an embedding among those it knows; forgets the last word of one in so many."""

    def __init__(self, forgets: bool) -> None:
        self.encoder, self.forgets = fake_encoder(), forgets
        self.tokenizer, self.encode = self.encoder.tokenizer, self.encoder.encode
        self.length = tiny_config().model.max_tokens
        self.known = self.encode(TEXTS)

    def invert(self, e: np.ndarray, decoding: Decoding, search: Search | None, **_: object) -> list[SimpleNamespace]:
        found = []
        every = round(2 * decoding.balance / Decoding.balance * decoding.tuning.sharpness / DecodingTuning.sharpness)
        for row in (e @ self.known.T).argmax(1):
            kept = self.tokenizer.encode(TEXTS[row])[: -1 if self.forgets and row % every == 1 else None]
            found.append(
                SimpleNamespace(
                    text=self.tokenizer.decode(kept), ids=self.tokenizer.canvas(kept, self.length), steps=decoding.steps
                )
            )
        return found


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The script with these arguments, "old" and "new" being inverters of which only the first forgets."""
    script = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "runs" / "paired.py")))
    given = SimpleNamespace(from_pretrained=lambda name, **_: Forgetful(name == "old"))
    monkeypatch.setitem(script.main.callback.__globals__, "Inverter", given)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    options = ["--texts", str(tmp_path / "texts.txt"), "--tokens", "natural", "--limit", "40"]
    return lambda *arguments: CliRunner().invoke(script.main, [*arguments, *options])


def rows(table: str) -> dict[str, list[float]]:
    """The three numbers of each row of a table."""
    cells = [line.split("|") for line in table.splitlines()[2:]]
    return {cell[1].strip(): [float(number.split("[")[0]) for number in cell[2:5]] for cell in cells}


def test_the_script_says_by_how_much_the_second_is_better(told: Callable[..., Result]) -> None:
    result = told("old", "new")
    assert result.exit_code == 0, result.output
    head, table = result.stdout.split("\n\n")
    assert head == "40 texts"
    found = rows(table)
    assert found["exact match"] == [0.5, 1.0, 0.5]
    lengths = [len(fake_encoder().tokenizer.encode(text)) for text in TEXTS]
    missing = len(TEXTS) / 2 / sum(lengths)
    assert found["token accuracy"] == pytest.approx([1 - missing, 1.0, missing], abs=1e-3)
    assert found["cosine"][2] == pytest.approx(found["cosine"][1] - found["cosine"][0], abs=2e-3)


def test_settings_are_compared_with_the_inverter_as_it_is(told: Callable[..., Result]) -> None:
    result = told("old", "--set", "balance=1.75", "--set", "decoding.sharpness=2.3", "new")
    assert result.exit_code == 0, result.output
    _, *tables = result.stdout.split("\n\n")
    assert [table.split("|")[3].strip() for table in tables] == ["new", "balance=1.75", "decoding.sharpness=2.3"]
    assert [rows(table)["exact match"] for table in tables] == [[0.5, 1.0, 0.5], [0.5, 0.8, 0.3], [0.5, 0.75, 0.25]]


def test_a_searchs_constants_are_set_where_inversions_are_guided(
    told: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    plain = Forgetful.invert
    monkeypatch.setattr(Forgetful, "invert", lambda self, e, *how, **_: seen.append(how[1]) or plain(self, e, *how))
    result = told("old", "--max-calls", "30", "--set", "search.starts=6", "--set", "seconds=2.5",
                  "--set", "search.kernel.caution=.1")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert seen == [
        Search(max_calls=30), Search(max_calls=30, tuning=SearchTuning(starts=6)), Search(2.5, 30),
        Search(max_calls=30, tuning=SearchTuning(kernel=Kernel(caution=0.1))),
    ]  # fmt: skip
    blind = told("old", "--set", "search.starts=6").exception
    assert isinstance(blind, InputError)
    assert "--set search.starts=6: inversion is blind, expected --seconds or --max-calls beside it" in str(blind)


@pytest.mark.parametrize(
    "setting",
    [
        "search.colour=1",
        "search.starts",
        "balance",
        "colour=1",
        "decoding.colour=1",
        "decoding.tuning=1",
        "decoding.kernel.caution=1",
        "strategy=1",
        "balance=high",
        "balance=-1",
        "nowhere.colour=1",
        "tuning=1",
    ],
)
def test_what_cannot_be_set_is_refused(told: Callable[..., Result], setting: str) -> None:
    result = told("old", "--seconds", "1", "--set", setting)
    assert isinstance(result.exception, InputError)
    assert setting in str(result.exception) or setting == "balance=-1"


def test_a_second_inverter_or_a_setting_is_needed(told: Callable[..., Result]) -> None:
    assert isinstance(told("old").exception, InputError)
