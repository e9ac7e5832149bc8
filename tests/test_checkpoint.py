"""Inverter files and training checkpoints: round trips, damage, code in pickles, full disks; and the model card."""

import json
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from fakes import tiny_config, tiny_denoiser, tiny_surrogate, tiny_tokenizer
from unembed.config import Config, Recipe, config_to_dict
from unembed.denoiser.model import Denoiser, count_parameters
from unembed.errors import CheckpointError, OutputError
from unembed.inverter import Inverter
from unembed.storage import checkpoint
from unembed.storage.card import model_card
from unembed.storage.checkpoint import (
    INDEX,
    TrainingCheckpoint,
    build_denoiser,
    load_inverter,
    load_training,
    save_inverter,
    save_pt,
    save_training,
    training_checkpoints,
)
from unembed.storage.corpus_licences import CORPUS_LICENCES
from unembed.training.optimizers import make_optimizers

RESULTS = {
    "steps": 1200,
    "sequences": 300_000,
    "training_seconds": 5400,
    "parts": {"dialogue": 12, "of my own": 3},
    "validation": {"token_accuracy": 0.25, "cosine": 0.75, "accuracy_10": 0.5},
}


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return tiny_denoiser(0.1)


@pytest.fixture
def folder(tmp_path: Path, denoiser: Denoiser) -> Path:
    """A saved inverter."""
    save_inverter(
        tmp_path / "inverter", denoiser.state_dict(), tiny_tokenizer(), tiny_config(), RESULTS,
        surrogate=tiny_surrogate(),
    )  # fmt: skip
    return tmp_path / "inverter"


@pytest.fixture
def pt(tmp_path: Path, denoiser: Denoiser) -> Path:
    """The same inverter as a `.pt` file."""
    path = tmp_path / "checkpoints" / "inverter.pt"
    save_pt(path, denoiser.state_dict(), tiny_tokenizer(), tiny_config(), RESULTS)
    return path


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """Call it, and no file can grow past 4 kB until the test ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_refused(path: Path, pattern: str) -> None:
    with pytest.raises(CheckpointError, match=pattern) as caught:
        load_inverter(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path)[: len(str(path.parent))])


# --- round trips


def assert_whole(path: Path, denoiser: Denoiser) -> None:
    parts = load_inverter(path)
    assert same(parts.denoiser.state_dict(), denoiser.state_dict())
    assert parts.config == tiny_config()
    assert parts.tokenizer.fingerprint == tiny_tokenizer().fingerprint
    for name in ("mask_id", "eos_id", "pad_id", "vocab_size", "prefix_ids", "suffix_ids"):
        assert getattr(parts.tokenizer, name) == getattr(tiny_tokenizer(), name)
    assert parts.results == RESULTS
    assert not parts.denoiser.training
    assert not any(parameter.requires_grad for parameter in parts.denoiser.parameters())


def test_a_folder_comes_back_as_it_was(folder: Path, denoiser: Denoiser) -> None:
    assert_whole(folder, denoiser)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "surrogate.safetensors",
        "tokenizer.json",
        "tokenizer_ids.json",
    ]


def test_a_folder_keeps_what_was_fitted(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the second time as an inverter writes it
        found = load_inverter(folder).surrogate
        assert found is not None
        assert found.student is None
        assert all(torch.equal(one, other) for one, other in zip(found[:2], tiny_surrogate()[:2], strict=True))
        Inverter.from_pretrained(folder).save_pretrained(tmp_path / "again")
        folder = tmp_path / "again"
    (folder / "surrogate.safetensors").write_bytes(b"nothing")
    assert_refused(folder, "surrogate.safetensors: cannot be read as safetensors")


def test_a_pt_file_comes_back_as_it_was(pt: Path, denoiser: Denoiser) -> None:
    assert_whole(pt, denoiser)


def test_shards_come_back_as_they_were(tmp_path: Path, denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_SIZE", "20KB")
    path = tmp_path / "inverter"
    save_inverter(path, denoiser.state_dict(), tiny_tokenizer(), tiny_config(), RESULTS)
    shards = sorted(path.glob("*.safetensors"))
    assert len(shards) > 2
    names = [name for shard in shards for name in load_file(shard)]
    assert sorted(names) == sorted(denoiser.state_dict())
    assert_whole(path, denoiser)
    (path / shards[1].name).unlink()
    assert_refused(path, rf"{shards[1].name}: cannot be read as safetensors")


def test_shards_of_the_packaged_size_fit_a_repository() -> None:
    from huggingface_hub import split_torch_state_dict_into_shards

    state = {name: torch.zeros(30_522 * 384, dtype=torch.bfloat16) for name in ("table.weight", "a", "b")}
    split = split_torch_state_dict_into_shards(state, max_shard_size=checkpoint.SHARD_SIZE)
    sizes = [sum(state[name].nbytes for name in names) for names in split.filename_to_tensors.values()]
    assert max(sizes) < 49e6


def test_weights_can_be_stored_in_half_the_space(tmp_path: Path, denoiser: Denoiser) -> None:
    path = tmp_path / "inverter"
    save_inverter(path, denoiser.state_dict(), tiny_tokenizer(), tiny_config(), RESULTS, torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(path / "model.safetensors").values()} == {torch.bfloat16}
    found = load_inverter(path).denoiser.state_dict()
    assert same(found, {name: tensor.bfloat16().float() for name, tensor in denoiser.state_dict().items()})


# --- damage


def test_what_is_not_there(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing", "there is no such inverter")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", r"config\.json: cannot be read \(No such file or directory\)")


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(change(tree) or tree))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda tree: tree.pop("config") and None, "key 'config' is missing"),
        ("config.json", lambda tree: [1, 2], "holds list, expected keys and values"),
        ("config.json", lambda tree: tree["config"]["model"].update(depth=3), r"unknown key model\.depth"),
        ("config.json", lambda tree: tree["config"]["model"].update(heads=5), r"model\.width is 32, expected a mult"),
        ("config.json", lambda tree: tree["config"]["model"].update(width=64), "tensor .* has shape .*, expected"),
        ("config.json", lambda tree: tree["config"]["model"].update(blocks=3), r"tensor blocks\.2\..* is missing"),
        ("config.json", lambda tree: tree["config"]["model"].update(blocks=1), r"tensor blocks\.1\..* is not part"),
        ("config.json", lambda tree: tree["config"]["encoder"].update(dimension=8), "tensor .* has shape"),
        ("tokenizer_ids.json", lambda tree: tree.pop("eos_id") and None, "expected the keys eos_id"),
    ],
)
def test_a_folder_whose_files_do_not_fit_together(
    folder: Path, file: str, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(folder / file, change)
    assert_refused(folder, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("positions"), "tensor positions is missing"),
        (lambda state: state.update(more=torch.ones(2)), "tensor more is not part of this denoiser"),
        (lambda state: state.update(output_bias=torch.ones(3)), r"output_bias has shape \(3,\), expected \(69,\)"),
        (
            lambda state: state.update(positions=torch.ones(32, 16)),
            r"positions has shape \(32, 16\), expected \(16, 32",
        ),
    ],
)
def test_missing_extra_and_misshaped_tensors(
    folder: Path, pt: Path, change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    assert_refused(folder, message)
    tree = torch.load(pt, weights_only=True)
    change(tree["state"])
    torch.save(tree, pt)
    assert_refused(pt, message)


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_truncated_weights(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert_refused(folder, r"model\.safetensors: cannot be read as safetensors \(.+\)$")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_ids.json"])
def test_truncated_text(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-20])
    assert_refused(folder, name.replace(".", r"\."))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "has no weight_map"),
        ('{"weight_map": [1]}', "has no weight_map"),
        ('{"weight_map": {"table.weight": "../../secret.safetensors"}}', "lies outside the folder"),
        ('{"weight_map": {"table.weight": 3}}', "3: cannot be read as safetensors"),
    ],
)
def test_a_damaged_index(folder: Path, index: str, message: str) -> None:
    (folder / INDEX).write_text(index)
    assert_refused(folder, message)


# --- .pt files


class Evil:
    """Runs a command when a pickle of it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 4, "torch"])
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, protocol: Any) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    if protocol == "torch":
        torch.save({"state": {}, "evil": Evil(trace)}, path)
    else:
        path.write_bytes(pickle.dumps({"state": {}, "evil": Evil(trace)}, protocol=protocol))
    assert_refused(path, r"evil\.pt: refused, it is a pickle that may want to run code")
    assert not trace.exists()
    pickle.loads(path.read_bytes()) if protocol != "torch" else torch.load(path, weights_only=False)  # it was armed
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a PyTorch file"),
        (b"a few words\n", "cannot be read as a PyTorch file"),
        (b"\x00" * 64, r"cannot be read as a PyTorch file|refused"),
    ],
)
def test_a_file_that_is_no_pt_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "inverter.pt"
    path.write_bytes(content)
    assert_refused(path, message)


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_pt_file(pt: Path, kept: float) -> None:
    whole = pt.read_bytes()
    pt.write_bytes(whole[: int(kept * len(whole))])
    assert_refused(pt, "cannot be read as a PyTorch file")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([1, 2], "holds list, expected an unembed inverter"),
        ({}, r"is not an unembed inverter \('tokenizer' is missing\)"),
        ({"tokenizer": "{", "tokenizer_ids": {"eos_id": 0}, "state": {}}, "tokenizer JSON cannot be read"),
        ({"tokenizer": "{", "tokenizer_ids": {"no": 0}, "state": {}}, "is not an unembed inverter"),
        ({"tokenizer": "{", "tokenizer_ids": [0], "state": {}}, "is not an unembed inverter"),
        (torch.ones(3), "holds Tensor, expected an unembed inverter"),
    ],
)
def test_a_pt_file_of_something_else(tmp_path: Path, tree: Any, message: str) -> None:
    path = tmp_path / "other.pt"
    torch.save(tree, path)
    assert_refused(path, message)


@pytest.mark.parametrize("state", [[1], torch.ones(3), {"table.weight": "text"}])
def test_a_pt_file_without_tensors(pt: Path, state: Any) -> None:
    tree = torch.load(pt, weights_only=True)
    torch.save(tree | {"state": state}, pt)
    assert_refused(pt, "inverter.pt: ")


# --- interrupted writes


def test_a_write_that_fails_leaves_the_old_inverter(
    folder: Path, pt: Path, denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    other = {name: tensor + 1 for name, tensor in denoiser.state_dict().items()}
    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OutputError, match="inverter: cannot be written"):
        save_inverter(folder, other, tiny_tokenizer(), tiny_config(), RESULTS)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match=r"inverter\.pt: cannot be written"):
        save_pt(pt, other, tiny_tokenizer(), tiny_config(), RESULTS)
    monkeypatch.undo()
    assert_whole(folder, denoiser)
    assert_whole(pt, denoiser)
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_a_full_disk_leaves_the_old_inverter(
    folder: Path, pt: Path, denoiser: Denoiser, full_disk: Callable[[], None]
) -> None:
    full_disk()
    with pytest.raises(OutputError, match="cannot be written") as caught:
        save_inverter(folder, denoiser.state_dict(), tiny_tokenizer(), tiny_config(), {})
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match=r"inverter\.pt: cannot be written") as caught:
        save_pt(pt, denoiser.state_dict(), tiny_tokenizer(), tiny_config(), {})
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match="cannot be written"):
        save_training(folder.parent, training_state(denoiser, step=1))
    assert_whole(folder, denoiser)
    assert_whole(pt, denoiser)
    assert not training_checkpoints(folder.parent)


# --- training checkpoints


def training_state(denoiser: Denoiser, step: int, optimizers: Any = ()) -> TrainingCheckpoint:
    state = {"step": step, "progress": {"step": step}, "config": config_to_dict(tiny_config())}
    weights = denoiser.state_dict()
    return TrainingCheckpoint(
        weights, {k: v / 2 for k, v in weights.items()}, [o.state_dict() for o in optimizers], state
    )


def take_steps(denoiser: Denoiser, optimizers: list[torch.optim.Optimizer], first: int, count: int) -> None:
    generator = torch.Generator().manual_seed(first)
    for _ in range(count):
        ids = torch.randint(69, (4, 16), generator=generator)
        hidden = denoiser.hidden(ids, denoiser.condition(torch.randn(4, 16, generator=generator)))
        (hidden.square().mean() + denoiser.output_bias.square().sum()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_optimizers_go_on_as_if_never_saved(tmp_path: Path, optimizer: str) -> None:
    tree = config_to_dict(tiny_config())
    settings = checkpoint.config_from_dict(tree | {"training": tree["training"] | {"optimizer": optimizer}}).training
    torch.manual_seed(0)
    one = build_denoiser(tiny_config(), tiny_tokenizer())
    optimizers = make_optimizers(one, settings)
    take_steps(one, optimizers, 0, 3)
    path = save_training(tmp_path, training_state(one, 3, optimizers))
    loaded = load_training(path)
    assert same(loaded.weights, one.state_dict())
    assert same(loaded.average, {name: tensor / 2 for name, tensor in one.state_dict().items()})
    assert loaded.state == training_state(one, 3).state
    other = build_denoiser(tiny_config(), tiny_tokenizer())
    other.load_state_dict(loaded.weights)
    others = make_optimizers(other, settings)
    for new, state in zip(others, loaded.optimizers, strict=True):
        new.load_state_dict(state)
    take_steps(one, optimizers, 5, 3)
    take_steps(other, others, 5, 3)
    assert same(one.state_dict(), other.state_dict())


def test_only_the_newest_checkpoint_of_a_kind_is_kept(tmp_path: Path, denoiser: Denoiser) -> None:
    for step in (1, 2, 10):
        save_training(tmp_path, training_state(denoiser, step))
    save_training(tmp_path, training_state(denoiser, 7), "stable")
    assert [path.name for path in training_checkpoints(tmp_path)] == ["checkpoint-00000010"]
    assert [path.name for path in training_checkpoints(tmp_path, "stable")] == ["stable-00000007"]


def test_an_unfinished_checkpoint_is_not_one(
    tmp_path: Path, denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_training(tmp_path, training_state(denoiser, 1))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        save_training(tmp_path, training_state(denoiser, 2))
    monkeypatch.undo()
    (tmp_path / "checkpoint-00000003").mkdir()  # a folder without its last file
    (tmp_path / ".checkpoint-00000004.77.tmp").mkdir()  # what a kill leaves
    assert [path.name for path in training_checkpoints(tmp_path)] == ["checkpoint-00000001"]
    assert load_training(training_checkpoints(tmp_path)[0]).state["step"] == 1


# --- the card


def card(config: Config, denoiser: Denoiser, results: dict[str, Any]) -> tuple[dict[str, Any], str]:
    text = model_card(config, denoiser.state_dict(), results)
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_shows_an_evaluation_that_was_handed_in(denoiser: Denoiser) -> None:
    found = {
        "n": 1000, "tokens": 32, "strategy": "confidence", "steps": 8, "encoder_calls": 0.0, "seed": 0,
        "token_accuracy": 0.049, "bleu": 3.14, "exact_match": 0.0,
        "intervals": {"token_accuracy": [0.046, 0.052], "bleu": [2.7, 3.4], "exact_match": [0.0, 0.0]},
        "baselines": {"random_vector": {"token_accuracy": 0.01}, "shuffled_pairs": None},
    }  # fmt: skip
    _, body = card(tiny_config(), denoiser, RESULTS | {"evaluation": found})
    section = body.partition("## Evaluation")[2].partition("## Validation")[0]
    assert (
        "1,000 held-out texts of 32 tokens, from all masks, the length not given, `confidence` in 8 passes" in section
    )
    assert "| token accuracy | 0.049 | 0.046 to 0.052 | 0.010 |" in section
    assert "| bleu | 3.1 | 2.7 to 3.4 |  |" in section
    assert "## Evaluation" not in card(tiny_config(), denoiser, RESULTS)[1]


def test_weights_are_as_readable_as_the_rest(folder: Path) -> None:
    assert len({path.stat().st_mode for path in folder.iterdir() if path.is_file()}) == 1


def test_the_card_says_what_the_files_know(folder: Path, denoiser: Denoiser) -> None:
    front, body = card(tiny_config(), denoiser, RESULTS)
    assert (folder / "README.md").read_text().endswith(body)
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "unembed"
    assert "base_model" not in front  # "fake" is no Hub id
    total = sum(parameter.numel() for parameter in denoiser.parameters())
    assert f"| parameters | {total:,} |" in body
    assert f"| without the token table | {count_parameters(denoiser):,} |" in body
    assert "| stored as | float32 |" in body
    assert "1,200 steps, 300,000 sequences, 1.5 hours" in body
    dialogue = CORPUS_LICENCES["dialogue"]
    assert f"| dialogue | 12 | {dialogue.licence} | {dialogue.attribution} |" in body
    assert "| of my own | 3 |  |  |  |" in body
    validation = body.partition("## Validation")[2].partition("## Use")[0]
    assert "0.250" in validation
    assert "validation figure" in validation


def test_the_card_names_the_base_encoder(denoiser: Denoiser) -> None:
    config = tiny_config()
    for encoder, base in (
        ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("someone/encoder", "someone/encoder"),
        ("/a/folder/of/mine", None),
    ):
        recipe = Recipe(**(vars(config.encoder) | {"encoder": encoder}))
        front, _ = card(Config(recipe, config.model), denoiser, {})
        assert front.get("base_model") == base


def test_names_cannot_break_the_card(denoiser: Denoiser) -> None:
    front, body = card(tiny_config(), denoiser, {"parts": {"a | b\n<script>": 1}})
    assert front["license"] == "apache-2.0"
    assert "| a \\| b &lt;script> | 1 |" in body


def test_a_card_without_results_claims_nothing(denoiser: Denoiser) -> None:
    _, body = card(tiny_config(), denoiser, {})
    assert "## Validation" not in body
    assert "licence" not in body


def test_no_licence_was_forgotten() -> None:
    assert len(CORPUS_LICENCES) == 14
    assert all(all(entry) for entry in CORPUS_LICENCES.values())


def test_the_card_says_what_a_confidence_is(denoiser: Denoiser) -> None:
    arguments = (tiny_config(), denoiser.state_dict(), RESULTS)
    assert "not a calibrated chance" in model_card(*arguments)
    assert "the calibrated chance that it is right at its place" in model_card(*arguments, calibrated=True)
