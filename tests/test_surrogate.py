"""The surrogate against encoders that are linear, and its file."""

import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fakes import fake_encoder, tiny_texts
from unembed.errors import CheckpointError
from unembed.surrogate.bag import FILE, RIDGE, Fitted, Own, Surrogate, directions, fit

V, H, D = 40, 6, 8
GENERATOR = torch.Generator().manual_seed(1)
TABLE = torch.randn(V, H, generator=GENERATOR) + 3.0  # a mean that says nothing
LINEAR = Fitted(torch.randn(H, D, generator=GENERATOR), torch.randn(D, generator=GENERATOR))
OWN = Own(
    torch.rand(V, generator=GENERATOR) + 0.5,
    torch.randn(V, 3, generator=GENERATOR),
    torch.randn(3, D, generator=GENERATOR),
)
NOISES = np.random.default_rng(2)
TEXTS = [NOISES.integers(V, size=NOISES.integers(1, 9)).tolist() for _ in range(300)]


def linear(ids: list[int]) -> np.ndarray:
    """An encoder that is what the surrogate takes it for, before normalisation."""
    return (directions(TABLE)[ids].mean(0) @ LINEAR.weight + LINEAR.bias).numpy()


def unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def test_directions_have_length_one_and_no_mean_in_common() -> None:
    u_VH = directions(TABLE.double())
    assert u_VH.dtype == torch.float32
    torch.testing.assert_close(u_VH.norm(dim=-1), torch.ones(V))
    torch.testing.assert_close(u_VH, directions(TABLE + torch.arange(H)))


def test_it_is_ridge_regression() -> None:
    """By least squares with one more observation of 0 for each weight."""
    e_ND = torch.randn(len(TEXTS), D, generator=torch.Generator().manual_seed(3))
    features = np.stack([np.append(directions(TABLE)[ids].mean(0), 1) for ids in TEXTS])
    penalty = RIDGE * (features**2).sum(0).mean()
    above, below = np.sqrt(penalty) * np.eye(H + 1), np.zeros((H + 1, D))
    expected, *_ = np.linalg.lstsq(np.vstack([features, above]), np.vstack([e_ND, below]), rcond=None)
    found = fit(TABLE, TEXTS, e_ND)
    np.testing.assert_allclose(found.weight, expected[:-1], atol=1e-5)
    np.testing.assert_allclose(found.bias, expected[-1], atol=1e-5)


def test_tokens_contribute_by_their_direction_and_what_is_their_own() -> None:
    x_VD = Surrogate(TABLE, LINEAR._replace(own=OWN)).x_VD
    u_VH = directions(TABLE)
    for token in range(V):
        own_D = sum(OWN.code[token, number] * OWN.basis[number] for number in range(3))
        torch.testing.assert_close(
            torch.from_numpy(x_VD[token]), OWN.loudness[token] * (u_VH[token] @ LINEAR.weight) + own_D
        )


def test_its_bag_is_kept_as_tensors() -> None:
    surrogate = Surrogate(TABLE, LINEAR)
    x_VD, bias_D = surrogate.bag(torch.device("cpu"))
    np.testing.assert_array_equal(x_VD, surrogate.x_VD)
    assert torch.equal(bias_D, LINEAR.bias)
    assert surrogate.bag(torch.device("cpu"))[0] is x_VD


def test_cosines_are_those_of_a_linear_encoder() -> None:
    surrogate = Surrogate(TABLE, LINEAR)
    e_D = unit(linear(TEXTS[1]))
    found = surrogate.cosines([TEXTS[0], [], TEXTS[1]], 3 * e_D)
    np.testing.assert_allclose(found, [unit(linear(TEXTS[0])) @ e_D, -1, 1], atol=1e-5)
    assert surrogate.cosines([[]], e_D).tolist() == [-1]


def test_of_a_linear_encoder_it_knows_every_exchange() -> None:
    fitted = fit(TABLE, TEXTS, torch.from_numpy(np.stack([linear(ids) for ids in TEXTS])))
    surrogate = Surrogate(TABLE, fitted)
    ids = TEXTS[0]
    changed = [7, *ids[1:]]
    start_D = surrogate.unnormalised(ids, unit(linear(ids)))
    foreseen_D = start_D + (surrogate.x_VD[7] - surrogate.x_VD[ids[0]]) / len(ids)
    assert float(unit(foreseen_D) @ unit(linear(changed))) > 0.999
    np.testing.assert_allclose(start_D, linear(ids), atol=0.1)
    np.testing.assert_allclose(unit(start_D), unit(linear(ids)), atol=1e-6)
    # An encoder that does not normalise may answer with any length.
    np.testing.assert_allclose(surrogate.unnormalised(ids, 7 * unit(linear(ids))), start_D, rtol=1e-5)


def test_an_encoder_is_foreseen_in_part() -> None:
    encoder, texts = fake_encoder(), tiny_texts(500)
    table_VH = encoder.network.table.weight  # from which denoisers start
    ids = encoder.tokenizer.encode_batch(texts)
    surrogate = Surrogate(table_VH, fit(table_VH, ids[:400], torch.from_numpy(encoder.encode(texts[:400]))))
    measured, foreseen = [], []
    noise = np.random.default_rng(0)
    for row, e_D in zip(ids[400:], encoder.encode(texts[400:]), strict=True):
        changed = list(row)
        changed[noise.integers(len(row))] = int(noise.integers(12, encoder.tokenizer.vocab_size))
        after = encoder.encode_tokens(torch.tensor([changed]), torch.tensor([len(row)]))[0].numpy()
        measured.append(after @ e_D)
        start_D = surrogate.unnormalised(row, e_D)
        foreseen.append(unit(start_D + surrogate.x_VD[changed].mean(0) - surrogate.x_VD[row].mean(0)) @ e_D)
    assert np.corrcoef(measured, foreseen)[0, 1] > 0.2


# --- files


def test_saved_and_loaded(tmp_path: Path) -> None:
    assert Fitted.load(tmp_path, V, H, D) is None
    LINEAR.save(tmp_path / FILE)
    found = Fitted.load(tmp_path, V, H, D)
    assert found is not None
    assert torch.equal(found.weight, LINEAR.weight)
    assert torch.equal(found.bias, LINEAR.bias)
    (tmp_path / "other").touch()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_codes_are_saved_in_8_bits_and_the_same_when_saved_again(tmp_path: Path) -> None:
    LINEAR._replace(own=OWN).save(tmp_path / FILE)
    found = Fitted.load(tmp_path, V, H, D)
    assert found is not None
    assert found.own is not None
    assert torch.equal(found.own.basis, OWN.basis)
    torch.testing.assert_close(found.own.loudness, OWN.loudness, rtol=1e-3, atol=0)
    steps_V1 = OWN.code.abs().amax(1, keepdim=True) / 127
    assert ((found.own.code - OWN.code).abs() <= 0.51 * steps_V1 * 1.01).all()
    found.save(tmp_path / FILE)
    again = Fitted.load(tmp_path, V, H, D)
    assert again is not None
    assert again.own is not None
    for one, other in zip(again.own, found.own, strict=True):
        assert torch.equal(one, other)


def test_codes_for_another_vocabulary_or_without_their_basis_are_refused(tmp_path: Path) -> None:
    LINEAR._replace(own=OWN).save(tmp_path / FILE)
    with pytest.raises(CheckpointError, match=r"holds .*'code': \(40, 3\).*, expected .*'code': \(41, 3\)"):
        Fitted.load(tmp_path, V + 1, H, D)
    tensors = load_file(tmp_path / FILE)
    for name in ("basis", "loudness", "code.scale", "code"):
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, tmp_path / FILE)
        with pytest.raises(CheckpointError, match="surrogate"):
            Fitted.load(tmp_path, V, H, D)


def test_one_that_does_not_fit_or_is_damaged_is_refused(tmp_path: Path) -> None:
    LINEAR.save(tmp_path / FILE)
    with pytest.raises(CheckpointError, match=r"surrogate.safetensors: holds .*\(6, 8\).*, expected .*\(7, 8\)"):
        Fitted.load(tmp_path, V, 7, D)
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"surrogate.safetensors: cannot be read as safetensors"):
        Fitted.load(tmp_path, V, H, D)
