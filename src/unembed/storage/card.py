"""The model card that fills itself in: what an inverter's own files know of it, as Markdown with YAML metadata.

Nothing is claimed here that was not handed in. The training run's validation figures are called so; what
`unembed evaluate` measured stands in a section of its own, where it was handed in.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from unembed.config import Config, Recipe
from unembed.corpus.held_out import NATURAL
from unembed.encoders.recipes import aliases
from unembed.files.quantised import scale_names
from unembed.storage.corpus_licences import CORPUS_LICENCES

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TAGS = ("embedding-inversion", "masked-diffusion", "text-generation", "privacy", "security")
_VALIDATION = {
    "token_accuracy": "token accuracy, decoded from all masks in 8 passes",
    "cosine": "cosine of the text so decoded",
    "accuracy_100": "one pass, everything masked: share of tokens right",
    "accuracy_50": "one pass, 50 % masked: share of the masked tokens right",
    "accuracy_10": "one pass, 10 % masked (a cloze, not an inversion): share of the masked tokens right",
}
_RAW = "its probability when committed, not a calibrated chance of being right."
_CALIBRATED = (
    "the calibrated chance that it is right at its place, in a blind inversion (`calibration.json`). Frames of a "
    "stream and guided inversions keep the denoiser's own probability."
)


def model_card(config: Config, state: dict[str, Tensor], results: dict[str, Any], calibrated: bool = False) -> str:
    """Markdown with YAML metadata, as the Hub shows it.

    Args:
        state: the denoiser's tensors as they are stored.
        results: what `train.results` gives; what is missing is left out.
        calibrated: whether the folder has a calibration.
    """
    encoder = _cell(config.encoder.encoder)
    sections = [
        _metadata(config.encoder),
        f"# unembed: texts from embeddings of {encoder}\n\n"
        f"A conditional masked diffusion language model that recovers text from embeddings of **{encoder}**. Given an "
        f"embedding it starts from a row of {config.model.max_tokens} masks and fills them in over a few passes. "
        "Inversion is blind unless `seconds` or `max_calls` are given: the encoder is not needed to recover a text.",
        "## Recipe\n\nEmbeddings must have been made exactly so; others are refused, or invert to nonsense.\n\n"
        + _table(("", "value"), _recipe_rows(config.encoder)),
        _network(config, state),
        _training(results),
        _evaluation(results),
        _validation(results),
        _USE.format(encoder=encoder),
        _limits(config, calibrated),
        _RESPONSIBLE,
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def with_calibration(card: str) -> str:
    """The card of a folder that has been given a calibration, whatever else stands on it."""
    return card.replace(_RAW, _CALIBRATED)


def _metadata(recipe: Recipe) -> str:
    lines = ["license: apache-2.0", "library_name: unembed"]
    base = _base_model(recipe.encoder)
    lines += [f"base_model: {base}"] if base else []
    lines += ["tags:", *(f"- {tag}" for tag in _TAGS)]
    return "\n".join(["---", *lines, "---"])


def _base_model(encoder: str) -> str | None:
    """The encoder's Hub id, where it has one: a known name stands for the longest name of its recipe."""
    return next((name for name in aliases(encoder) if _HUB_ID.fullmatch(name)), None)


def _recipe_rows(recipe: Recipe) -> list[tuple[str, str]]:
    rows = [
        ("encoder", recipe.encoder),
        ("dimension", str(recipe.dimension)),
        ("pooling", recipe.pooling),
        ("normalised", "yes" if recipe.normalize else "no"),
        ("prompt", repr(recipe.prompt) if recipe.prompt else "none"),
        ("truncated to", f"{recipe.max_length} tokens"),
        ("precision", recipe.precision),
    ]
    rows += [("revision", recipe.revision)] if recipe.revision else []
    return rows + [(f"SHA-256 of {name}", digest) for name, digest in sorted(recipe.sha256.items())]


def _network(config: Config, state: dict[str, Tensor]) -> str:
    model = config.model
    parameters = {name: tensor for name, tensor in state.items() if name not in scale_names(state)}
    total = sum(tensor.numel() for tensor in parameters.values())
    vocabulary = sum(state[name].numel() for name in ("table.weight", "output_bias") if name in state)
    rank = f"rank {model.adaln_rank}" if model.adaln_rank else "full rank"
    rows = [
        ("parameters", f"{total:,}"),
        ("without the token table", f"{total - vocabulary:,}"),
        ("stored as", _formats(parameters)),
        ("length", f"{model.max_tokens} tokens"),
        ("blocks x width", f"{model.blocks} x {model.width}"),
        ("attention heads", str(model.heads)),
        ("feed-forward", str(model.feed_forward)),
        (
            "projection of the embedding",
            f"{state['projection.0.weight'].shape[0]}, {state['projection.2.weight'].shape[0]}",
        ),
        ("AdaLN", f"{rank} in blocks, full rank at the last norm"),
    ]
    return (
        "## Network\n\nA bidirectional pre-norm transformer. The embedding enters through adaptive layer norms alone "
        "(shift, scale and gate of every block, AdaLN-Zero), computed once per inversion; there is no time "
        "conditioning; input and output share the token table; the vocabulary is the encoder's own.\n\n"
        + _table(("", "value"), rows)
    )


def _formats(parameters: dict[str, Tensor]) -> str:
    """How weights are stored. Of a matrix in 8 bits each row has a scale."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in parameters.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
    names = {dtype: str(dtype).removeprefix("torch.") for dtype in sizes}
    if torch.int8 not in sizes:
        return " and ".join(sorted(names.values()))
    share = sizes.pop(torch.int8)
    others = ", ".join(f"{size:,} in {names[dtype]}" for dtype, size in sizes.items())
    return f"{share:,} of them in 8 bits, with a scale for each row of their matrices; {others}"


def _training(results: dict[str, Any]) -> str:
    facts = []
    if "steps" in results:
        facts.append(f"{results['steps']:,} steps")
    if "sequences" in results:
        facts.append(f"{results['sequences']:,} sequences")
    if "training_seconds" in results:
        facts.append(f"{results['training_seconds'] / 3600:.1f} hours")
    text = "## Training\n\nThe weights are a moving average over the run"
    text += f" of {', '.join(facts)}." if facts else "."
    parts = results.get("parts")
    if not parts:
        return text
    rows = []
    for name, passages in parts.items():
        known = CORPUS_LICENCES.get(name)
        terms = (known.licence, known.attribution, known.source) if known else ("", "", "")
        rows.append((name, f"{passages:,}", *terms))
    text += "\n\nTraining text by part, in passages:\n\n"
    text += _table(("part", "passages", "licence", "attribution", "source"), rows)
    if any(name in CORPUS_LICENCES for name in parts):
        text += (
            "\n\nLicences are those of the parts of unembed's own corpus that have these names. The texts keep them: "
            "CC BY and CC BY-SA parts need the attribution above, and text derived from CC BY-SA parts stays under "
            "CC BY-SA. What is public domain in the United States may not be elsewhere."
        )
    if not all(name in CORPUS_LICENCES for name in parts):
        text += "\n\nParts shown without a licence are not known to unembed."
    return text


def _validation(results: dict[str, Any]) -> str:
    found = results.get("validation")
    if not found:
        return ""
    rows = [(words, f"{found[name]:.3f}") for name, words in _VALIDATION.items() if name in found]
    rows += [(name, f"{value:.3f}") for name, value in found.items() if name not in _VALIDATION]
    return (
        "## Validation\n\nMeasured by the training run itself, on a few hundred held-out windows of its own corpus. "
        "These are validation figures: `unembed evaluate` measures an inverter, with intervals and baselines.\n\n"
        + _table(("validation figure", "value"), rows)
    )


def _evaluation(results: dict[str, Any]) -> str:
    """The row of `Report.to_dict` that was handed in: every rate with its interval, and the level of chance."""
    found = results.get("evaluation")
    if not found:
        return ""
    chance = found["baselines"].get("random_vector") or {}
    rows = []
    for name, (low, high) in found["intervals"].items():
        digits = 1 if name == "bleu" else 3
        value, interval = f"{found[name]:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"
        rows.append((name.replace("_", " "), value, interval, f"{chance[name]:.{digits}f}" if name in chance else ""))
    texts = "whole texts" if found["tokens"] == NATURAL else f"texts of {found['tokens']} tokens"
    return (
        f"## Evaluation\n\n{found['n']:,} held-out {texts}, from all masks, the length not given, "
        f"`{found['strategy']}` in {found['steps']} passes, {found['encoder_calls']:.0f} encoder calls, "
        f"seed {found['seed']}.\n\n" + _table(("metric", "value", "95 % interval", "random vectors"), rows)
    )


def _limits(config: Config, calibrated: bool) -> str:
    length, confidence = config.model.max_tokens, _CALIBRATED if calibrated else _RAW
    return (
        "## Limits\n\n"
        f"- At most {length} tokens come back; of a longer text the embedding says more than this inverter can write.\n"
        "- Other languages and kinds of text than those listed under training come back badly, and so do rare names.\n"
        "- Fluent and wrong text is normal. Names, numbers and negations are lost first, word order next.\n"
        f"- The confidence of a token is {confidence}\n"
        "- Embeddings of any other recipe, also of the same encoder with another prompt or pooling, do not work.\n"
        "- A text that does not come back is no proof that its embedding is anonymous."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    """Names come from users' files: nothing in them may break a line, a table or the page."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


_USE = """## Use

```python
from unembed import Inverter

inverter = Inverter.from_pretrained(".")  # this folder, or its id on the Hub
result = inverter.invert(embeddings)[0]  # embeddings (n, d) of {encoder}
print(result.text, result.cosine)
```

On the command line: `unembed invert --model . --embeddings vectors.npy`."""

_RESPONSIBLE = """## Responsible use

Invert embeddings that are yours, or that you were asked in writing to test. Treat embeddings of personal text as
personal data, and recovered text as a disclosure. A recovered text is a guess with a confidence: do not act against a
person on it. If you find a product that exposes embeddings of its users' text, tell its makers before you publish."""
