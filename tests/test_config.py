"""A configuration, changed key by key."""

import pytest

from fakes import tiny_config
from unembed.config import config_to_dict, overridden
from unembed.errors import ConfigError


def test_overrides() -> None:
    tree = config_to_dict(tiny_config())
    found = overridden(tree, "training.learning_rate=1e-2,model.causal=true,data.weights.dialogue=2")
    assert found["training"]["learning_rate"] == 0.01
    assert found["model"]["causal"] is True
    assert found["data"]["weights"] == {"dialogue": 2.0}
    found = overridden(tree, "training.freeze=[table, blocks],training.steps=7")
    assert (found["training"]["freeze"], found["training"]["steps"]) == (["table", "blocks"], 7)
    found = overridden(tree, "data.weights={dialogue: 2, questions: 0},training.steps=7")
    assert (found["data"]["weights"], found["training"]["steps"]) == ({"dialogue": 2.0, "questions": 0.0}, 7)
    assert overridden(tree, "") == tree
    for wrong, message in (
        ("training.learning_rate", "expected section.key=value"),
        ("causal=true", "expected section.key=value"),
        ("training.steps=x", "training.steps is 'x', expected a valid integer"),
        ("training.steps.x=1", "expected section.key=value"),
        ("training.freeze=table", "training.freeze is 'table', expected a list"),
        ("training.freeze=[1]", "training.freeze.0 is 1, expected a valid string"),
        ("nothing.x=1", "unknown key nothing"),
        ("data.weights={dialogue: 2", "'{dialogue: 2' is not YAML"),
    ):
        with pytest.raises(ConfigError, match=message):
            overridden(tree, wrong)
