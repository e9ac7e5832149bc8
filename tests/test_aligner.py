"""Aligners: ridge against its definition, folders against damage, inversion of another encoder's vectors."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from fakes import FakeEncoder, fake_encoder, save_tiny_inverter, tiny_parts, tiny_surrogate, tiny_texts
from unembed.alignment.aligner import FILE, TENSORS, Aligner
from unembed.alignment.linear import Linear, normalised, procrustes, ridge
from unembed.alignment.local import LocalMap
from unembed.alignment.residuals import NOISE, WIDTH, Residuals
from unembed.alignment.words import Added, Words, fit_bag
from unembed.cli.main import main
from unembed.config import Recipe
from unembed.errors import CheckpointError, DataError, RecipeError, UnembedError
from unembed.evaluation.evaluate import evaluate
from unembed.files.tensors import load_tensors, save_tensors
from unembed.inverter import Inverter
from unembed.search.options import Search
from unembed.training.align import Pairs, align, align_unpaired, asked_words, read_pairs

RNG = np.random.default_rng(0)
S, D = 24, 16


class Turned(FakeEncoder):
    """The fake encoder in another basis of more dimensions, shifted a little."""

    def __init__(self) -> None:
        super().__init__()
        basis, _ = np.linalg.qr(np.random.default_rng(7).standard_normal((S, D)))
        self.basis = basis.T.astype(np.float32)
        self.recipe = replace(self.recipe, encoder="turned", dimension=S)

    def encode(self, texts: Sequence[str], batch_size: int = 32, show_progress_bar: bool = False) -> NDArray[Any]:
        return normalised(super().encode(texts, batch_size) @ self.basis + 0.01)


@pytest.fixture(scope="module")
def inverter() -> Inverter:
    return Inverter(tiny_parts()._replace(surrogate=tiny_surrogate()), fake_encoder())


@pytest.fixture(scope="module")
def turned() -> Turned:
    return Turned()


@pytest.fixture(scope="module")
def aligner(inverter: Inverter, turned: Turned) -> Aligner:
    texts = tiny_texts(200, 1)
    return align(inverter, Pairs(texts, turned.encode(texts), True), turned.recipe)


@pytest.mark.parametrize("n", [6, 24, 25, 60])
def test_ridge_is_that_of_least_generalised_cross_validation(n: int) -> None:
    """Against the hat matrix, for fewer pairs than dimensions and for more."""
    x, noise = RNG.standard_normal((n, S)), RNG.standard_normal((n, D))
    y = x @ RNG.standard_normal((S, D)) + 2 * noise + 1
    found = ridge(x, y)
    xc, yc = x - x.mean(0), y - y.mean(0)
    scale = (xc**2).mean()

    def judged(penalty: float) -> tuple[float, NDArray[Any]]:
        weight = np.linalg.solve(xc.T @ xc + n * penalty * scale * np.eye(S), xc.T @ yc)
        hat = xc @ np.linalg.solve(xc.T @ xc + n * penalty * scale * np.eye(S), xc.T)
        return n * ((yc - xc @ weight) ** 2).sum() / (n - 1 - np.trace(hat)) ** 2, weight

    best, weight = judged(found.penalty)
    for penalty in (found.penalty * 1.4, found.penalty / 1.4):
        if 1e-4 < penalty < 100:
            assert best <= judged(penalty)[0] * (1 + 1e-6)
    np.testing.assert_allclose(found.linear.weight, weight, atol=1e-4)
    np.testing.assert_allclose(found.linear(x), normalised(xc @ weight + y.mean(0)), atol=1e-4)


def test_ridge_does_not_break_down_where_pairs_are_as_many_as_dimensions() -> None:
    """As a pseudo-inverse does (double descent)."""
    w, held = RNG.standard_normal((S, D)), RNG.standard_normal((500, S))
    x = RNG.standard_normal((S, S))
    y = x @ w + 2 * RNG.standard_normal((S, D))
    truth = normalised(held @ w)
    by_ridge = (ridge(x, y).linear(held) * truth).sum(1).mean()
    by_inverse = (normalised(held @ (np.linalg.pinv(x) @ y)) * truth).sum(1).mean()
    assert by_ridge > by_inverse + 0.05


def test_a_prior_counts_where_pairs_are_few() -> None:
    """A multiple of the true map, but for an error of half its size. With many pairs it does not matter."""
    w, held = RNG.standard_normal((S, D)), RNG.standard_normal((500, S))
    prior = 3 * (w + 0.5 * RNG.standard_normal((S, D)))

    def cosine(n: int, told: NDArray[Any] | None) -> float:
        x = np.random.default_rng(n).standard_normal((n, S)) + 1
        y = x @ w + np.random.default_rng(n + 1).standard_normal((n, D))
        found = ridge(x, y, prior_SD=told).linear.before_length(held)
        return float((normalised(found) * normalised(held @ w)).sum(1).mean())

    assert cosine(8, prior) > cosine(8, None) + 0.2
    assert cosine(2000, prior) == pytest.approx(cosine(2000, None), abs=1e-3)
    assert cosine(2000, np.zeros((S, D))) == pytest.approx(cosine(2000, None), abs=1e-9)


def test_a_bag_is_found_again() -> None:
    """One that is linear in its tokens' contributions and words, of texts that were not among the pairs."""
    size = 60
    c, w = RNG.standard_normal((size, D)).astype(np.float32), normalised(RNG.standard_normal((size - 5, S)))
    b = RNG.standard_normal(D).astype(np.float32)
    loud = np.linalg.norm(c, axis=1) / np.linalg.norm(c, axis=1).mean()
    tokens = np.arange(5, size)  # the first five have no word
    own, added = RNG.standard_normal((D, S)), np.zeros((size, S))
    added[5:] = loud[5:, None] * (w - w.mean(0))
    x_VS = c @ own + added @ (np.eye(S) + 0.3 * RNG.standard_normal((S, S)))
    texts = [tuple(RNG.integers(0, size, 8).tolist()) for _ in range(400)]
    x = np.stack([x_VS[list(ids)].mean(0) for ids in texts]) + 2
    y = np.stack([c[list(ids)].mean(0) for ids in texts])
    told = Words(tokens, w, RNG.standard_normal((size - 5, D)).astype(np.float32))
    linear, more = fit_bag(c, b, texts[:300], x[:300], y[:300], told)
    assert more is not None
    bags = np.stack([(c[list(ids)].mean(0) + b) for ids in texts[300:]])
    of_words = np.stack([(more.code @ more.basis)[list(ids)].mean(0) for ids in texts[300:]])
    np.testing.assert_allclose(linear.before_length(bags) + of_words, x[300:], atol=0.02)
    alone, nothing = fit_bag(c, b, texts[:300], x[:300], y[:300])
    assert nothing is None
    error = np.abs(alone.before_length(bags) - x[300:]).mean()
    assert error > 10 * np.abs(linear.before_length(bags) + of_words - x[300:]).mean()


def test_procrustes_is_scipys() -> None:
    x, y = RNG.standard_normal((40, D)), RNG.standard_normal((40, D))
    expected, _ = orthogonal_procrustes(x - x.mean(0), y - y.mean(0))
    np.testing.assert_allclose(procrustes(x, y).weight, expected, atol=1e-5)


def test_a_local_map_learns_what_a_linear_one_cannot() -> None:
    def true(x: NDArray[Any]) -> NDArray[Any]:
        return normalised(np.tanh(3 * x[:, :D]) + x[:, S - D :] ** 2)

    x = normalised(RNG.standard_normal((800, S)))
    recipe = Recipe("other", S)
    linear = ridge(x, true(x)).linear
    mapped = Aligner(recipe, Recipe("own", D), linear, linear)
    goal = x[:1]
    near = normalised(goal + 0.1 * RNG.standard_normal((300, S)).astype(np.float32))
    rows = {(number,): true(one[None])[0] for number, one in enumerate(near)}
    local = LocalMap(mapped, goal[0], lambda asked: np.stack([rows[ids] for ids in asked]))
    before = float((local(goal) * true(goal)).sum())
    for start in range(0, 300, 100):
        local.learn(list(rows)[start : start + 100], near[start : start + 100])
    after = float((local(goal) * true(goal)).sum())
    assert 1 - after < (1 - before) / 3


def test_what_the_nearest_pairs_add_is_kernel_ridge_regression() -> None:
    vectors, rest = normalised(RNG.standard_normal((40, S))), RNG.standard_normal((40, D)).astype(np.float32)
    asked = normalised(RNG.standard_normal((3, S)))

    def kernel(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        return np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / (2 * WIDTH**2))

    expected = kernel(asked, vectors) @ np.linalg.inv(kernel(vectors, vectors) + NOISE * np.eye(40)) @ rest
    np.testing.assert_allclose(Residuals(vectors, rest).at(asked), expected, atol=1e-4)


def test_the_nearest_pairs_mend_what_a_linear_map_gets_wrong(inverter: Inverter) -> None:
    """Of an encoder that is another function of the same texts."""
    texts, held, mixed = tiny_texts(600, 1), tiny_texts(100, 9), RNG.standard_normal((D, S))

    def other(several: Sequence[str]) -> NDArray[np.float32]:
        return normalised(np.sin(2 * inverter.encode(several) @ mixed))

    fitted = align(inverter, Pairs(texts, other(texts), True), "other")
    assert fitted.about["method"] == "ridge and nearest pairs"
    true, mended = inverter.encode(held), fitted(other(held))
    linear = fitted.forth(other(held))
    assert (mended * true).sum(1).mean() > (linear * true).sum(1).mean() + 0.03


def test_the_nearest_pairs_are_left_out_where_they_tell_nothing_but_noise(inverter: Inverter, turned: Turned) -> None:
    texts = tiny_texts(300, 1)
    noisy = normalised(turned.encode(texts) + 0.1 * RNG.standard_normal((300, S)))
    fitted = align(inverter, Pairs(texts, noisy, True), "other")
    assert fitted.about["method"] == "ridge"
    np.testing.assert_array_equal(fitted(noisy), fitted.forth(noisy))


def test_the_map_is_judged_by_pairs_that_it_has_not_seen(aligner: Aligner, inverter: Inverter, turned: Turned) -> None:
    texts = tiny_texts(100, 99)
    true = (aligner(turned.encode(texts)) * inverter.encode(texts)).sum(1).mean()
    about = aligner.about
    assert about["pairs"] == 200
    assert about["cosine"]["value"] == pytest.approx(true, abs=0.02)
    assert about["cosine"]["interval"][0] <= about["cosine"]["value"] <= about["cosine"]["interval"][1]
    assert about["nearest"] > 0.9
    assert about["recovered"] == 40
    assert 0 <= about["token_f1"]["value"] <= 1


def test_texts_without_vectors_help_where_pairs_are_few(inverter: Inverter, turned: Turned) -> None:
    texts, held = tiny_texts(10, 1), tiny_texts(100, 50)
    pairs = Pairs(texts, turned.encode(texts), True)
    true = inverter.encode(held)

    def cosine(more: Sequence[str]) -> float:
        fitted = align(inverter, pairs, turned.recipe, more_texts=more)
        return float((fitted(turned.encode(held)) * true).sum(1).mean())

    assert cosine(tiny_texts(200, 60)) > cosine([]) + 0.005


def test_words_help_where_pairs_are_few(inverter: Inverter, turned: Turned) -> None:
    texts, held = tiny_texts(10, 1), tiny_texts(100, 50)
    words = asked_words(inverter, turned, 30_000)
    names = [inverter.tokenizer.token(int(token)) for token in words.tokens]
    assert len(set(names)) == len(names) > 50
    assert not {"[MASK]", "[PAD]", "[CLS]"} & set(names)
    np.testing.assert_allclose(words.vectors, turned.encode([name.removeprefix("##") for name in names]), atol=1e-6)
    assert len(asked_words(inverter, turned, 20).tokens) == 20

    def cosine(told: Words | None) -> float:
        fitted = align(inverter, Pairs(texts, turned.encode(texts), True), turned.recipe, words=told)
        assert fitted.about["words"] == (0 if told is None else len(words.tokens))
        return float((fitted(turned.encode(held)) * inverter.encode(held)).sum(1).mean())

    assert cosine(words) > cosine(None) + 0.02


def test_passes_are_steered_in_the_space_of_the_vectors(inverter: Inverter, turned: Turned) -> None:
    """By a bag that foresees the other encoder's vectors as well as the inverter's foresees its own."""
    texts, held = tiny_texts(300, 1), tiny_texts(100, 50)
    fitted = align(
        inverter, Pairs(texts, turned.encode(texts), True), turned.recipe, words=asked_words(inverter, turned, 99)
    )
    aligned = inverter.aligned(fitted, turned)
    ids = inverter.tokenizer.encode_batch(held)

    def foreseen(by: Inverter, vectors: NDArray[Any]) -> float:
        assert by.outer_surrogate is not None
        return float((by.outer_surrogate.embed(ids) * vectors).sum(1).mean())

    assert foreseen(aligned, turned.encode(held)) > foreseen(inverter, inverter.encode(held)) - 0.02
    steering = aligned.steering(torch.from_numpy(turned.encode(held[:2])), 3)
    assert steering is not None
    np.testing.assert_allclose(steering.e_BD, turned.encode(held[:2]).repeat(3, 0), atol=1e-6)


def test_another_encoders_vectors_come_back_as_ones_own(aligner: Aligner, inverter: Inverter, turned: Turned) -> None:
    texts = tiny_texts(12, 5)
    aligned = inverter.aligned(aligner, turned)
    assert (aligned.recipe.encoder, aligned.recipe.dimension) == ("turned", S)
    own = inverter.invert(
        inverter.encode(texts), steps=6, steering=0
    )  # which is by another bag of tokens in each space
    other = aligned.invert(turned.encode(texts), steps=6, steering=0)
    assert sum(one.text == two.text for one, two in zip(own, other, strict=True)) >= 6
    for text, one in zip(texts, other, strict=True):
        expected = float((turned.encode([one.text]) @ turned.encode([text])[0])[0])
        assert one.cosine == pytest.approx(expected, abs=1e-5)
    assert aligned.asking(turned).recipe == aligned.recipe
    with pytest.raises(RecipeError, match="is 'fake', expected 'turned'"):
        inverter.aligned(aligner, fake_encoder())
    with pytest.raises(ValueError, match="16 dimensions, this inverter takes 24"):
        aligned.invert(inverter.encode(texts))


def test_what_comes_back_of_another_encoder_is_measured(aligner: Aligner, inverter: Inverter, turned: Turned) -> None:
    report = evaluate(inverter.aligned(aligner, turned), tiny_texts(12, 9), tokens="natural", steps=2)
    assert report.n == 12
    assert -1 <= report.cosine <= 1


@pytest.mark.slow
def test_a_search_asks_the_other_encoder(aligner: Aligner, inverter: Inverter, turned: Turned, tmp_path: Path) -> None:
    aligned = inverter.aligned(aligner, turned)
    for text in ("a young king.", "no river is quiet."):
        *_, last = aligned.search(turned.encode([text])[0], max_calls=400)
        first = next(aligned.search(turned.encode([text])[0], max_calls=400))
        assert last.cosine == pytest.approx(float((turned.encode([last.text]) @ turned.encode([text])[0])[0]), abs=1e-5)
        assert last.cosine > first.cosine or last.exact
    started = aligned.search(turned.encode(["a child."])[0], search=Search(max_calls=200, journal_folder=tmp_path))
    *_, one = aligned.search(turned.encode(["a child."])[0], max_calls=200)
    for _ in range(3):
        next(started)
    *_, other = aligned.search(turned.encode(["a child."])[0], search=Search(max_calls=200, journal_folder=tmp_path))
    assert (other.text, other.encoder_calls) == (one.text, one.encoder_calls)  # it goes on where it stopped
    again = aligned.invert(turned.encode(["a young king."]), max_calls=100, seed=3)
    assert again[0].text == aligned.invert(turned.encode(["a young king."]), max_calls=100, seed=3)[0].text


def test_a_folder_comes_back_and_damage_is_told(aligner: Aligner, inverter: Inverter, tmp_path: Path) -> None:
    halves = (RNG.standard_normal((9, n)).astype(np.float16).astype(np.float32) for n in (S, D))
    of_pairs, rest = halves
    of_pairs = normalised(of_pairs).astype(np.float16).astype(np.float32)
    size = inverter.denoiser.table.num_embeddings
    code = RNG.standard_normal((size, 300)).astype(np.float32)  # enough for eight bits to differ
    added = Added(code, RNG.standard_normal((300, S)).astype(np.float32))
    aligner = replace(aligner, residuals=Residuals(of_pairs, rest), words=added)
    aligner.save(tmp_path / "a")
    found = Aligner.load(tmp_path / "a")
    assert (found.source, found.target, dict(found.about)) == (aligner.source, aligner.target, dict(aligner.about))
    assert found.fingerprint == aligner.fingerprint
    x = RNG.standard_normal((3, S))
    np.testing.assert_array_equal(found(x), aligner(x))
    assert inverter.aligned(tmp_path / "a").denoiser is inverter.denoiser

    def refused(reason: str) -> None:
        with pytest.raises(CheckpointError, match=reason):
            inverter.aligned(tmp_path / "a")

    tensors, text = load_tensors(tmp_path / "a" / TENSORS), (tmp_path / "a" / FILE).read_text()
    for name, change, reason in (
        ("forth.weight", lambda t: t[:, :3], "holds other tensors"),
        ("back.mean_source", lambda t: t * float("nan"), "not finite"),
        ("pairs.vectors", lambda t: t[1:], "holds other tensors"),
        ("pairs.residuals", lambda t: t[:, 0], "holds other tensors"),
        ("pairs.vectors", lambda t: t * 1000, "longer than 1"),
        ("words.code", lambda t: t[:, :3], "holds other tensors"),
        ("words.code", lambda t: t[0], "expected one for each row"),
        ("words.code", lambda t: t.float()[0], "scales words.code.scale are there"),
        ("words.code.scale", lambda t: -t, "not all finite numbers above zero"),
        ("words.basis", lambda t: t[:, :3], "holds other tensors"),
        ("words.basis", lambda t: t * float("inf"), "not finite"),
    ):
        save_tensors(tensors | {name: change(tensors[name]).contiguous()}, tmp_path / "a" / TENSORS)
        refused(reason)
    save_tensors({name: t for name, t in tensors.items() if name != "pairs.vectors"}, tmp_path / "a" / TENSORS)
    refused("holds other tensors")
    fewer = {name: t for name, t in tensors.items() if name.startswith("words.")}
    fewer = {name: t[:-1] if "code" in name else t for name, t in fewer.items()}
    save_tensors(tensors | fewer, tmp_path / "a" / TENSORS)
    with pytest.raises(RecipeError, match="of another vocabulary"):
        inverter.aligned(tmp_path / "a")
    linear = {name: t for name, t in tensors.items() if name[:6] not in ("pairs.", "words.")}  # as at first
    save_tensors(linear, tmp_path / "a" / TENSORS)
    np.testing.assert_array_equal(Aligner.load(tmp_path / "a")(x), aligner.forth(x))
    save_tensors(tensors, tmp_path / "a" / TENSORS)
    for damaged in ("{", "[]", text.replace('"dimension": 24', '"dimension": 10000000'), "[" * 100_000):
        (tmp_path / "a" / FILE).write_text(damaged)
        refused("aligner|holds other tensors")
    (tmp_path / "a" / FILE).unlink()
    refused("is no aligner, such as `unembed align` writes")


def test_a_map_and_its_transpose_are_saved(aligner: Aligner, tmp_path: Path) -> None:
    """As without pairs, where both share their means."""
    there = aligner.forth
    back = Linear.of(there.mean_target, there.mean_source, there.weight.T)
    replace(aligner, back=back).save(tmp_path / "a")
    np.testing.assert_array_equal(Aligner.load(tmp_path / "a").back.weight, there.weight.T)


def test_pairs_that_cannot_be_used() -> None:
    good = [(text, RNG.standard_normal(S)) for text in tiny_texts(9, 2)]
    bad: list[Any] = [("", good[0][1]), ("a", None), ("a", np.zeros(S)), ("a", np.full(S, np.nan))]
    found = read_pairs([*bad, *good], 100)
    assert (len(found.texts), found.skipped, found.normalized) == (9, 4, False)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    with pytest.raises(DataError, match="7 rows have a text and a vector, expected at least 8"):
        read_pairs(good[:7], 100)
    with pytest.raises(DataError, match="vectors have 24 and 3 dimensions"):
        read_pairs([*good, ("a", np.ones(3))], 100)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(
        "unembed.inverter.inverter.load_encoder",
        lambda recipe, *_, **__: {"fake": fake_encoder, "turned": Turned}[recipe.encoder](),
    )
    return str(save_tiny_inverter(tmp_path / "model"))


def test_two_commands(model: str, tmp_path: Path, turned: Turned, inverter: Inverter) -> None:
    texts, out = tiny_texts(60, 1), tmp_path / "aligner"
    pairs = tmp_path / "pairs.jsonl"
    rows = zip(texts, turned.encode(texts).tolist(), strict=True)
    pairs.write_text("".join(json.dumps({"text": text, "embedding": row}) + "\n" for text, row in rows))
    np.save(tmp_path / "v.npy", turned.encode(texts[:3]))
    run = CliRunner().invoke
    call = ["align", "--pairs", str(pairs), "--encoder", "turned", "--model", model, "-o", str(out)]
    done = run(main, call)
    assert done.exit_code == 0, done.output
    assert "60 pairs of turned" in done.stdout
    assert "cosine to the true vectors" in done.stdout
    told = json.loads(run(main, [*call, "--json"]).stdout)
    assert (told["pairs"], told["encoder"]) == (60, "turned")
    found = run(
        main, ["invert", "--embeddings", str(tmp_path / "v.npy"), "--aligner", str(out), "--model", model, "--json"]
    )
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout)
    assert answer["encoder"] == "turned"
    assert all(-1 <= one["cosine"] <= 1 for one in answer["results"])
    bulk = ["invert", "--embeddings", str(tmp_path / "v.npy"), "--model", model, "-o", str(tmp_path / "out.jsonl")]
    assert run(main, [*bulk, "--aligner", str(out)]).exit_code == 0
    (tmp_path / "out.jsonl").rename(tmp_path / "out.jsonl.part")  # as if it had been stopped
    assert (
        "60 pairs" in run(main, ["align", *call[1:-1], str(tmp_path / "other"), "--limit", "60", "--seed", "1"]).stdout
    )
    assert run(main, [*bulk, "--aligner", str(tmp_path / "other")]).exit_code == 0  # the seed decides no map
    run(main, ["align", *call[1:-1], str(tmp_path / "less"), "--limit", "40"])
    (tmp_path / "out.jsonl").rename(tmp_path / "out.jsonl.part")
    refused = run(main, [*bulk, "--aligner", str(tmp_path / "less")])
    assert refused.exit_code == 2
    assert "was made with inverter aligner" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected --pairs"),
        (["--vectors", "a.npy"], "expected --pairs"),
        (["--pairs", "a.jsonl", "--vectors", "b.npy", "--texts", "b.txt"], "--vectors are for where there are no"),
        (["--texts", "b.txt"], "--texts need vectors"),
        (["--texts", "b.txt", "--encoder-url", "http://127.0.0.1:9/"], "--encoder-url needs --dimension"),
        (["--pairs", "a.jsonl", "--encoder-url", "http://127.0.0.1:9/"], "--encoder-url is for --texts"),
        (["--pairs", "nowhere.jsonl"], "no such file"),
        (["--pairs", "a.jsonl", "--words", "9"], "--words are asked of --encoder"),
        (["--vectors", "a.npy", "--texts", "b.txt", "--encoder", "x", "--words", "9"], "--words are asked of"),
        (["--pairs", "a.jsonl", "--encoder", "x", "--words", "3"], "--words is 3, expected 0, or at least 8"),
    ],
)
def test_calls_that_cannot_be_meant(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["align", *arguments, "-o", str(tmp_path / "o")])
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_map_of_unit_vectors_is_one_too() -> None:
    linear = Linear.of(np.zeros(2), np.zeros(2), np.eye(2))
    np.testing.assert_allclose(linear(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]], atol=1e-6)


@pytest.mark.slow
def test_no_map_is_made_of_vectors_that_match_nothing(inverter: Inverter) -> None:
    vectors = RNG.standard_normal((450, S)).astype(np.float32)
    with pytest.raises(UnembedError, match="no map was found between 450 vectors and 450 texts"):
        align_unpaired(inverter, vectors, tiny_texts(450), "theirs")


def test_few_pairs_and_other_texts_by_the_command(model: str, tmp_path: Path, turned: Turned) -> None:
    """A blank line among the other texts is passed over."""
    texts = tiny_texts(10, 1)
    rows = zip(texts, turned.encode(texts).tolist(), strict=True)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"text": text, "embedding": row}) + "\n" for text, row in rows))
    (tmp_path / "more.txt").write_text("\n\n".join(tiny_texts(30, 2)) + "\n")
    call = ["align", "--pairs", str(pairs), "--encoder", "turned", "--model", model, "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*call, "--texts", str(tmp_path / "more.txt")])
    assert done.exit_code == 0, done.output
    assert "10 pairs of turned" in done.stdout


@pytest.mark.parametrize(("asked", "told"), [([], True), (["--words", "0"], False), (["--words", "30"], True)])
def test_an_encoder_at_hand_is_asked_about_words(
    asked: list[str], told: bool, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unembed.encoders.encoder.load_encoder", lambda *_, **__: Turned())
    (tmp_path / "texts.txt").write_text("\n".join(tiny_texts(30, 2)) + "\n")
    call = ["align", "--texts", str(tmp_path / "texts.txt"), "--encoder", "turned", "--model", model]
    done = CliRunner().invoke(main, [*call, *asked, "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert ("words of turned" in done.stdout) is told
    every = len(asked_words(Inverter.from_pretrained(model), Turned(), 30_000).tokens)
    assert Aligner.load(tmp_path / "out").about["words"] == (int(asked[1]) if asked else every)
