"""`--encoder-url` from the outside: one probe first, nothing lost when the endpoint fails, nothing hostile shown."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fakes import fake_encoder, tiny_parts, tiny_surrogate, tiny_texts
from unembed.cli import main as cli
from unembed.cli.command_group import say
from unembed.encoders.endpoint import KEY
from unembed.encoders.remote import PROBE
from unembed.inverter import Inverter

TEXTS = tiny_texts(3)
Run = Callable[..., Result]


class Service:
    """An endpoint with a model of its own name, which answers so many texts and then refuses."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sizes: list[int] = []
        self.most = 10**9
        self.name = "fake"
        self.refusal = "quota"
        self.url = ""

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        texts = body["input"]
        if body["model"] != self.name or len(self.asked) + len(texts) > self.most:
            return 403, {"error": {"message": self.refusal}}
        self.asked += texts
        self.sizes.append(len(texts))
        return 200, {"data": [{"embedding": row.tolist()} for row in fake_encoder().encode(texts)]}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.delenv(KEY, raising=False)
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, tree = service.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        service.url = f"http://127.0.0.1:{server.server_port}/v1/embeddings"
        yield service
        server.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inverter") / "model"
    Inverter(tiny_parts()._replace(surrogate=tiny_surrogate())).save_pretrained(folder)
    np.save(folder.parent / "e.npy", fake_encoder().encode(TEXTS))
    return folder


@pytest.fixture
def invert(model: Path, service: Service) -> Run:
    """`unembed invert` of the three embeddings with the endpoint as encoder."""

    def call(*more: object, code: int = 0, url: str | None = None) -> Result:
        words = ["invert", "--model", model, "--embeddings", model.parent / "e.npy", "--encoder-url"]
        words += [url or service.url, *more]
        result = CliRunner().invoke(cli.main, [str(word) for word in words], prog_name="unembed")
        assert result.exit_code == code, result.output
        return result

    return call


def test_the_model_and_the_batch_are_chosen(invert: Run, service: Service, model: Path) -> None:
    service.name = "all-minilm:l6-v2"
    found = invert("--encoder-model", service.name, "--encoder-batch", 2)
    assert service.asked[0] == PROBE
    assert service.sizes == [1, 2, 1]
    assert f"{service.url}: asked for 4 texts" in found.stderr  # the probe's too
    texts = model.parent / "texts.txt"
    texts.write_text("\n".join(TEXTS), encoding="utf-8")
    words = ["evaluate", "--texts", str(texts), "--tokens", "natural", "--model", str(model)]
    chosen = ["--encoder-model", service.name, "--encoder-batch", "1"]
    service.sizes.clear()
    done = CliRunner().invoke(cli.main, [*words, "--encoder-url", service.url, *chosen], prog_name="unembed")
    assert done.exit_code == 0, done.output
    assert {*service.sizes} == {1}
    alone = CliRunner().invoke(cli.main, [*words, *chosen], prog_name="unembed")
    assert alone.exit_code == 2
    assert "--encoder-model and --encoder-batch are for an encoder behind an address" in alone.stderr


def test_a_wrong_model_is_found_before_anything_is_written(invert: Run, service: Service, tmp_path: Path) -> None:
    service.refusal = "no such model"
    found = invert("--encoder-model", "other", "-o", tmp_path / "out.jsonl", code=1)
    assert found.stderr.startswith(f"unembed: {service.url}: refused with status 403 (no such model)")
    assert found.stderr.count("\n") == 1  # nothing was paid for
    assert [*tmp_path.iterdir()] == []


def test_a_search_goes_on_where_the_endpoint_failed(invert: Run, service: Service, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    invert("-o", whole, "--max-calls", 60)
    answered, asked = [*service.asked], len(service.asked)
    service.asked.clear()
    service.most = asked // 2
    found = invert("-o", part, "--max-calls", 60, code=1)
    assert (
        f"(quota); its key is read from {KEY}; the same command again goes on from the rows in {part}" in found.stderr
    )
    assert f"asked for {len(service.asked)} texts" in found.stderr
    assert len((tmp_path / "part.jsonl.part").read_text(encoding="utf-8").splitlines()) == 1
    assert [file.name for file in (tmp_path / "part.jsonl.journal").iterdir()] == ["1.npz"]
    before, service.most = len(service.asked), 10**9
    invert("-o", part, "--max-calls", 60)
    assert len(service.asked) - before < asked  # not from the beginning
    assert {*answered} <= {*service.asked}
    lines = [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in (whole, part)]
    for one, other in zip(*lines, strict=True):
        assert {**one, "seconds": 0, "passes": 0} == {**other, "seconds": 0, "passes": 0}


def test_no_secret_and_no_escape_reaches_the_terminal_or_a_file(
    invert: Run, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "sesame-key")
    url = service.url.replace("http://", "http://me:sesame-password@") + "?api_key=sesame-query"
    said = invert("-o", tmp_path / "out.jsonl", "--json", "--max-calls", 20, url=url).output
    said += invert("--json", url=url).output
    service.most, service.refusal = 0, "\x1b]0;sesame-key\x07\u202e sesame-query \x9b2J"
    said += invert("--max-calls", 20, code=1, url=url).output
    said += "".join(file.read_text(encoding="utf-8") for file in tmp_path.iterdir())
    assert "]0;***" in said
    assert "sesame" not in said
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & {*said}


def test_what_is_said_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert say("a\x1b[31m\n\u202eb\x85c\x9b \udc80 नमस्ते \u2066d", 7) == 7
    assert capsys.readouterr().err == "unembed: a\ufffd[31m \ufffdb c\ufffd \ufffd नमस्ते \ufffdd\n"


def test_an_aligner_is_made_by_asking(
    service: Service, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pairs are what the endpoint answers; guided inversion then asks the endpoint for the other encoder."""
    for name in ("inverter", "aligned"):  # the inverter's own encoder
        monkeypatch.setattr(f"unembed.inverter.{name}.load_encoder", lambda *_, **__: fake_encoder())

    def run(*words: object) -> Result:
        done = CliRunner().invoke(cli.main, [str(word) for word in words], prog_name="unembed")
        assert done.exit_code == 0, done.output
        return done

    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(tiny_texts(30, 4)))
    call = ["align", "--texts", texts, "--encoder-url", service.url, "--encoder", "fake", "--dimension", 16]
    done = run(*call, "--model", model, "-o", tmp_path / "aligner")
    assert "30 pairs of fake" in done.stdout
    assert "asked for 31 texts" in done.stderr
    service.asked.clear()
    e = tmp_path / "e.npy"
    np.save(e, fake_encoder().encode(TEXTS[:1]))
    guided = ["--aligner", tmp_path / "aligner", "--encoder-url", service.url, "--max-calls", 20, "--json"]
    found = json.loads(run("invert", "--model", model, "--embeddings", e, *guided).stdout)["results"][0]
    assert 0 < found["encoder_calls"] <= 20
    assert 0 < len(service.asked) <= 21
