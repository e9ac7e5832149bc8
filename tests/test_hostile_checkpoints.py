"""Checkpoints and configurations of a few kilobytes that declare gigabytes: refused in one line, with little memory."""

import itertools
import json
import resource
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fakes import taught, tiny_config, tiny_parts, tiny_surrogate
from unembed.config import ModelConfig, load_config
from unembed.errors import CheckpointError, ConfigError
from unembed.storage.checkpoint import build_denoiser, load_inverter, save_inverter, save_pt

MEMORY, SECONDS = 512 << 20, 10.0


@pytest.fixture
def little_memory() -> Iterator[None]:
    """No more than `MEMORY` beside what is there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if Path("/proc/self/statm").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    parts, folder = tiny_parts(), tmp_path / "inverter"
    surrogate = taught(tiny_surrogate())
    save_inverter(folder, parts.denoiser.state_dict(), parts.tokenizer, parts.config, {}, surrogate=surrogate)
    load_inverter(folder)  # as it is, it loads
    return folder


@pytest.fixture
def pt(tmp_path: Path) -> Path:
    parts, path = tiny_parts(), tmp_path / "inverter.pt"
    save_pt(path, parts.denoiser.state_dict(), parts.tokenizer, parts.config, {})
    load_inverter(path)
    return path


def refuse(path: Path, message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=message) as caught:
        load_inverter(path)
    assert time.perf_counter() - start < SECONDS
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


Change = Callable[[Path], Any]


def config(section: str = "model", **values: int) -> Change:
    return edited("config.json", lambda tree: tree["config"][section].update(values))


def edited(name: str, change: Callable[[Any], Any]) -> Change:
    def go(folder: Path) -> None:
        tree = json.loads((folder / name).read_text())
        change(tree)
        (folder / name).write_text(json.dumps(tree))

    return go


def written(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def tensors(name: str, more: dict[str, torch.Tensor]) -> Change:
    return lambda folder: save_file(load_file(folder / name) | more, folder / name)


def header(shape: list[int], end: int, also: bool = False) -> Change:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}
    content = json.dumps({"table.weight": entry} | ({"positions": entry} if also else {})).encode()
    return written("model.safetensors", len(content).to_bytes(8, "little") + content + bytes(40))


def chained(part: str, kind: str, step: dict[str, Any]) -> Change:
    steps = {"type": "Sequence", kind: [step] * 60}
    return edited("tokenizer.json", lambda tree: tree.update({part: steps}))


TWICE = [{"Sequence": {"id": "A", "type_id": 0}}] * 2
TEMPLATE = {"type": "TemplateProcessing", "single": TWICE, "pair": TWICE, "special_tokens": {}}
DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
DEEP = b"[" * 1_000_000
SURROGATE, IDS = "surrogate.safetensors", "tokenizer_ids.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config(blocks=10_000_000), r"tensor blocks\.2\.\S+ is missing"),
        (config(blocks=2**62), r"tensor blocks\.2\.\S+ is missing"),
        (config(width=2**20), r"tensor positions has shape \(16, 32\), expected \(16, 1048576\)"),
        (config(width=2**40, heads=2), "declares a network that cannot be .*overflow"),
        (config(blocks=10**30), "model.blocks is 1000.*, expected less than"),
        (config(max_tokens=10**12), r"tensor positions has shape \(16, 32\)"),
        (config(feed_forward=10**9), r"expected \(1000000000, 32\)"),
        (config(condition_width=10**9), r"expected \(2000000000, 16\)"),
        (config(adaln_rank=10**9), r"expected \(1000000000, 32\)"),
        (config("encoder", dimension=10**9), r"null_embedding has shape \(16,\)"),
        (written("config.json", DEEP), "config.json: is not JSON .maximum recursion"),
        (written("config.json", b'{"config": ' + b"9" * 5_000_000 + b"}"), "config.json: is not JSON .Exceeds"),
        (written(IDS, DEEP), "is not JSON .maximum recursion"),
        (written("tokenizer.json", DEEP), "tokenizer JSON cannot be read"),
        (written("calibration.json", DEEP), "calibration.json: is not JSON"),
        (written("model.safetensors.index.json", DEEP), "index.json: is not JSON"),
        (edited("tokenizer.json", lambda tree: tree["model"]["vocab"].update(x=2**32 - 2)), "has ids up to 4294967294"),
        (chained("normalizer", "normalizers", DOUBLED), r"normalizer may make a text 1\.15e\+18 times as long"),
        (chained("normalizer", "normalizers", {"type": "ByteLevel"}), "normalizer may make a text"),
        (chained("decoder", "decoders", DOUBLED), "decoder may make a text"),
        (chained("post_processor", "processors", TEMPLATE), "post_processor may make a text"),
        (edited(IDS, lambda tree: tree.update(eos_id=10**12)), "special id 1000000000000 is none"),
        (edited(IDS, lambda tree: tree.update(pad_id="a")), "special id 'a' is none, expected a number from 0 to 69"),
        (edited(IDS, lambda tree: tree.update(prompt=[1])), "prompt is list, expected a string"),
        (header([2**40, 2**40], 40), "cannot be read as safetensors .*overflow"),
        (header([10**9], 4 * 10**9), "cannot be read as safetensors"),
        (header([10], 40, also=True), "cannot be read as safetensors .*invalid offset"),
        (written("model.safetensors", (2**62).to_bytes(8, "little") + b"{}"), "header too large"),
        (tensors(SURROGATE, {"student.input.bias": torch.zeros(2**20)}), r"student cannot be read .*1048576"),
        (tensors(SURROGATE, {"student.positions": torch.zeros(())}), "student cannot be read"),
        (
            tensors(SURROGATE, {f"student.blocks.layers.{n}.x": torch.zeros(1) for n in range(5000)}),
            r"student cannot be read .*layers\.2\.\S+ is missing",
        ),
    ],
)  # fmt: skip
def test_a_folder_declares_no_more_than_it_holds(
    folder: Path, request: pytest.FixtureRequest, change: Change, message: str
) -> None:
    change(folder)
    request.getfixturevalue("little_memory")
    refuse(folder, message)


def test_shapes_that_multiply(tmp_path: Path) -> None:
    parts = tiny_parts()
    shape = ModelConfig(
        max_tokens=100_000, width=1, blocks=1, heads=1, feed_forward=1, adaln_rank=1, condition_width=1
    )  # fmt: skip
    wide = replace(tiny_config(), model=shape)
    denoiser = build_denoiser(wide, parts.tokenizer)
    save_inverter(tmp_path / "long", denoiser.state_dict(), parts.tokenizer, wide, {})
    refuse(tmp_path / "long", "one text would take 10,000,000,000 attention scores, expected at most")


class Large:
    """Asks for a terabyte when it is loaded, which torch allows."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (1 << 40,)


def nested(depth: int) -> list[Any]:
    found: list[Any] = ["x"]
    for _ in range(depth):
        found = [found] * 10
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree["state"].update(positions=torch.zeros(1).expand(10**6, 10**6)), "repeat the same numbers"),
        (lambda tree: tree["state"].update(dict.fromkeys(map(str, range(99)), torch.zeros(999))), "repeat the same"),
        (lambda tree: tree.update(more=Large()), "refused, it is a pickle that may want to run code"),
        (lambda tree: tree.update(results={"a": nested(12)}), "its lists repeat each other"),
        (lambda tree: tree["config"]["model"].update(blocks=10_000_000), r"tensor blocks\.2\.\S+ is missing"),
    ],
)
def test_a_pt_file_is_no_larger_than_it_is(
    pt: Path, request: pytest.FixtureRequest, change: Callable[[Any], Any], message: str
) -> None:
    tree = torch.load(pt, weights_only=True)
    change(tree)
    torch.save(tree, pt)
    request.getfixturevalue("little_memory")
    refuse(pt, message)


def test_a_pt_file_that_is_compressed_or_of_an_older_kind(pt: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(pt) as old, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    refuse(tmp_path / "b.pt", "its entries are compressed")
    torch.save(torch.load(pt, weights_only=True), tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    refuse(tmp_path / "c.pt", "refused, it is a pickle")


# --- configurations


def laughs(value: str) -> str:
    """Nine times nine times ... of a value, by aliases."""
    letters = "abcdefghi"
    lines = [f"{one}: &{one} {value % ','.join([f'*{before}'] * 9)}" for before, one in itertools.pairwise(letters)]
    return "a: &a {x: 1}\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs("[%s]"), r"is not YAML \(alias \*a, expected its values"),
        (laughs("{<<: [%s]}"), r"is not YAML \(alias \*a"),
        ("&a [*a]", r"is not YAML \(alias \*a"),
        ("[" * 30_000, "is not YAML .maximum recursion"),
        ("a: " + "9" * 5000, "is not YAML .integer of 5,000 digits"),
        ("a: 0x" + "f" * 5000, "is not YAML .integer of 5,002 digits"),
        ("a: 1" + ":59" * 20_000, "is not YAML .integer of 60,001 digits"),
        ("a: 2020-13-45", "is not YAML .month must be in"),
        ("a: !!int ''", "is not YAML"),
        ("a: !!timestamp x", "is not YAML"),
        ("a: 1\n" * 100_000, "has more than 65,536 characters"),
        (
            "encoder: {encoder: x, dimension: 99999999999999999999}",
            "encoder.dimension is 99999999999999999999, expected",
        ),
    ],
)
def test_small_yaml_takes_little(tmp_path: Path, little_memory: None, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert time.perf_counter() - start < SECONDS
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
