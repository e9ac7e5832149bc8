"""Training: one visible loop, the same on two CPU cores and on a large GPU.

Unusual here: a step is a pure function of (weights, optimizer state, seed, step). Windows and corruption are
drawn from generators seeded with the step, so a checkpoint holds no random state and a resumed run
equals the uninterrupted one. (With a time box the learning rate follows the clock, which no resume repeats.)

The learning rate warms up, stays, and decays at the end (arXiv 2404.06395). The last weights before the decay are
kept as `stable-<step>`: the place from which a longer run continues.
"""

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unembed.alignment.aligner import Aligner
from unembed.config import Config, Format, TrainingConfig, config_from_dict, config_to_dict
from unembed.corpus.windows import Manifest, Shards, Windows
from unembed.denoiser.model import Denoiser
from unembed.denoiser.precision import granted
from unembed.encoders.checks import check_recipe
from unembed.encoders.encoder import Encoder, load_encoder
from unembed.errors import ConfigError, InputError, TrainingError, extra
from unembed.files.atomic import remove_leftovers
from unembed.objective.autoregressive import validate_twin
from unembed.objective.diffusion import Loss
from unembed.storage.checkpoint import (
    TrainingCheckpoint,
    build_denoiser,
    load_inverter,
    load_strictly,
    load_training,
    save_inverter,
    save_training,
    training_checkpoints,
)
from unembed.storage.packaged_inverters import DEFAULT, locate
from unembed.surrogate.bag import Fitted
from unembed.training.fit import fit_trained, forget
from unembed.training.from_aligner import start_from_aligner
from unembed.training.initialise import deepened, start_from_encoder, start_from_frequencies
from unembed.training.log import SilentLog, TrainingLog
from unembed.training.optimizers import freeze, make_optimizers, rate_factor, set_rates
from unembed.training.step import TrainingStep, autocast, embedded
from unembed.training.throughput import flops_per_sequence, peak_flops
from unembed.training.validate import validate

with extra("train", "training"):
    from accelerate import Accelerator
    from accelerate.utils import broadcast, broadcast_object_list

TOTALS = ("steps", "sequences", "training_seconds")  # of a model card's results
NOTHING: Mapping[str, Any] = dict.fromkeys(TOTALS, 0) | {"parts": {}}


@dataclass
class Progress:
    """How far a run is: what the schedule needs and a checkpoint keeps."""

    step: int = 0
    seconds: float = 0.0  # spent training, validating and saving, over all sessions of the run
    sequences: int = 0

    def fraction(self, config: TrainingConfig, minutes: float | None) -> float:
        """Share of the run that is over, by steps or by the clock, whichever is further."""
        by_clock = self.seconds / (60 * minutes) if minutes else 0.0
        return max(self.step / config.steps, by_clock)


def train(
    config: Config,
    data: str | Path,
    out: str | Path,
    *,
    encoder: Encoder | None = None,
    resume: bool = False,
    start_from: str | Path | None = None,
    aligner: str | Path | None = None,
    minutes: float | None = None,
    fit: bool = False,
    show_progress_bar: bool = True,
) -> Path:
    """Train an inverter on prepared shards; returns the folder `out/inverter`.

    Args:
        data: folder written by `prepare`.
        out: folder of the run: checkpoints, logs, the inverter.
        encoder: the frozen encoder; loaded from the recipe where none is given.
        resume: continue the run in `out` from its newest checkpoint.
        start_from: an inverter's folder, or a `stable-*` checkpoint of another run, whose weights to start from.
        aligner: folder of an aligner, where `start_from` is an inverter of another encoder (`from_aligner`).
        minutes: time box for training, over all sessions of the run; the decay ends with it.
        fit: when it is over, fit surrogate and calibration to the inverter (`fit_trained`), beyond the time box.

    Raises:
        InputError: `out` holds a run and `resume` is false, or the run was made with another configuration or shards.
        TrainingError: the loss is not finite.
        OutputError: `out` cannot be written.
    """
    settings, out = config.training, Path(out)
    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError(f"minutes is {minutes}, expected more than 0")
    accelerator = Accelerator()  # its own mixed precision cannot change within a process, so `autocast` is ours
    device = accelerator.device
    settings = dataclasses.replace(settings, precision=granted_to_all(settings.precision, accelerator))
    if encoder is None:
        # Windows are embedded at the training precision, which is several times faster; evaluation keeps the recipe's.
        encoder = load_encoder(dataclasses.replace(config.encoder, precision=settings.precision))
    encoder.to(device)
    shards = Shards.open(data)
    windows = Windows(
        shards, config.data, encoder.tokenizer, config.model.max_tokens, settings.batch_size, settings.seed
    )
    full = dataclasses.replace(config.data, short_share=0.0)  # validation is on the canvas that inversion uses
    held_out = Windows(
        shards, full, encoder.tokenizer, config.model.max_tokens, settings.validation_texts, split="validation"
    )

    if accelerator.is_main_process:
        remove_leftovers(out)
    checkpoints = training_checkpoints(out)
    if checkpoints and not resume:
        raise InputError(f"{out}: holds a run already; continue it with --resume or choose another folder")
    torch.manual_seed(settings.seed)
    denoiser = build_denoiser(config, encoder.tokenizer)
    progress = Progress()
    before = dict(NOTHING)  # what the weights that this run starts from had cost and seen
    saved: TrainingCheckpoint | None = None
    surrogate: Fitted | None = None
    if checkpoints:
        saved = load_training(checkpoints[-1])
        _same_run(config, shards, saved.state, out)
        load_strictly(denoiser, saved.weights, checkpoints[-1])
        progress = Progress(**saved.state["progress"])
        before |= saved.state.get("before", {})
        if (out / "inverter").is_dir() and "table" in settings.freeze:
            surrogate = Fitted.load(
                out / "inverter", len(denoiser.table.weight), config.model.width, config.encoder.dimension
            )
    elif aligner is not None:
        vectors_BS = embedded(windows.batch(0), encoder, device)[1].float().cpu()
        before |= _load_aligned(denoiser, start_from, Aligner.load(aligner), encoder, vectors_BS)
    elif start_from is not None:
        cost, found = _load_start(denoiser, Path(start_from))
        before |= cost
        surrogate = found if "table" in settings.freeze else None  # it belongs to the table
    else:
        start_from_encoder(denoiser, encoder, settings.start_from_encoder)
        start_from_frequencies(denoiser, windows)

    freeze(denoiser, settings.freeze)
    step_module = TrainingStep(denoiser, dataclasses.replace(config, training=settings), encoder).to(device)
    average = {name: tensor.detach().clone().float() for name, tensor in denoiser.state_dict().items()}
    optimizers = make_optimizers(denoiser, settings)
    if saved is not None:
        average = {name: tensor.to(device) for name, tensor in saved.average.items()}
        for optimizer, state in zip(optimizers, saved.optimizers, strict=True):
            optimizer.load_state_dict(state)
    if settings.compile:
        step_module.compile_parts()
    module = accelerator.prepare_model(step_module)
    optimizers = [accelerator.prepare_optimizer(optimizer) for optimizer in optimizers]

    rank, world_size = accelerator.process_index, accelerator.num_processes
    flops = flops_per_sequence(denoiser, encoder, config)
    log: TrainingLog = SilentLog()
    if accelerator.is_main_process:
        log = TrainingLog(out, progress.step, peak_flops(device), flops, show_progress_bar)

    def checkpoint(prefix: str = "checkpoint") -> None:
        if accelerator.is_main_process:
            state = {"step": progress.step, "progress": dataclasses.asdict(progress), "config": config_to_dict(config)}
            state |= {"before": before, "shards": shards.manifest.to_dict()}
            states = [optimizer.state_dict() for optimizer in optimizers]
            save_training(out, TrainingCheckpoint(denoiser.state_dict(), average, states, state), prefix)

    def over() -> bool:
        return progress.fraction(settings, minutes) >= 1.0

    aside = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
    last_checkpoint = time.monotonic()
    decaying = progress.fraction(settings, minutes) > 1 - settings.decay_share
    decaying = decaying and bool(training_checkpoints(out, "stable"))  # a kill may have come just before it
    batches = windows.ahead(itertools.count(progress.step), rank, world_size, pin=device.type == "cuda")
    with log, closing(batches):
        counted = time.monotonic()
        while not over():
            fraction = progress.fraction(settings, minutes)
            if not decaying and fraction > 1 - settings.decay_share:
                decaying = True
                checkpoint("stable")
            factor = rate_factor(progress.step, fraction, settings)
            set_rates(optimizers, factor)

            canvas_BL, e_BD = embedded(next(batches), encoder, device, aside)
            generator = torch.Generator(device).manual_seed(_step_seed(settings.seed, progress.step, rank))
            loss: Loss = module(canvas_BL, e_BD, generator)
            accelerator.backward(loss.loss)
            norm = accelerator.clip_grad_norm_(denoiser.parameters(), settings.gradient_clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            update_average(average, denoiser, settings.ema, progress.step)

            progress.step += 1
            progress.sequences += settings.batch_size
            now = time.monotonic()
            progress.seconds, counted = progress.seconds + now - counted, now
            if minutes and world_size > 1:  # all processes must see the same rate and end together
                progress.seconds = broadcast(torch.tensor(progress.seconds, dtype=torch.float64, device=device)).item()
            log.step(loss, norm, settings.batch_size)
            if progress.step % settings.log_every == 0 or over():
                fraction = progress.fraction(settings, minutes)
                mean = log.flush(progress.step, progress.seconds, progress.sequences, fraction, factor)
                if not math.isfinite(mean):
                    raise TrainingError(f"{out}: the loss is {mean} at step {progress.step}")
            if progress.step % settings.validate_every == 0 or over():
                if accelerator.is_main_process:
                    # What is compiled is so for a training step's shapes.
                    eagerly = torch.compiler.set_stance("force_eager")
                    with averaged(denoiser, average), autocast(device, settings), eagerly:
                        look = validate_twin if config.model.causal else validate
                        log.validation(progress.step, look(denoiser, encoder, held_out.batch(0), settings.seed))
                accelerator.wait_for_everyone()
            if time.monotonic() - last_checkpoint > 60 * settings.checkpoint_minutes or over():
                if not (loss.loss.isfinite() and norm.isfinite()):  # the last good checkpoint must stay
                    raise TrainingError(f"{out}: the loss or its gradient is not finite at step {progress.step}")
                # The inverter first: a run killed between the two then still has steps to do, and writes it again.
                if accelerator.is_main_process:
                    reached = results(progress, before, shards, log)
                    forget(out / "inverter")
                    save_inverter(out / "inverter", average, encoder.tokenizer, config, reached, surrogate=surrogate)
                checkpoint()
                last_checkpoint = time.monotonic()
    if fit and accelerator.is_main_process and not config.model.causal:
        fit_trained(out / "inverter", data, encoder, device, show_progress_bar)
    return out / "inverter"


def granted_to_all(precision: Format, accelerator: Accelerator) -> Format:
    """The format that the main process finds to be `granted`: each for itself may find another one."""
    found = [granted(precision, accelerator.device) if accelerator.is_main_process else precision]
    agreed: list[Format] = broadcast_object_list(found)
    return agreed[0]


@torch.no_grad()
def update_average(average: dict[str, Tensor], denoiser: nn.Module, decay: float, step: int) -> None:
    """Move the fp32 average towards the weights; it forgets faster in the first steps, so that it never lags."""
    decay = min(decay, (1 + step) / (10 + step))
    weights = denoiser.state_dict()
    torch._foreach_lerp_(list(average.values()), [weights[name].float() for name in average], 1 - decay)


@contextmanager
def averaged(denoiser: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """Within this context the denoiser has the average's weights."""
    weights = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    denoiser.load_state_dict(average)
    try:
        yield
    finally:
        denoiser.load_state_dict(weights)


def totals(progress: Progress, before: Mapping[str, Any], parts: Mapping[str, int]) -> dict[str, Any]:
    """What the weights have cost and seen, over this run and those that it went on from.

    Args:
        parts: passages of each part that this run draws from; what counts is the most that any run had of it.
    """
    spent = zip(TOTALS, (progress.step, progress.sequences, round(progress.seconds)), strict=True)
    seen = {name: max(before["parts"].get(name, 0), parts.get(name, 0)) for name in {**before["parts"], **parts}}
    return {name: before[name] + value for name, value in spent} | {"parts": seen}


def results(progress: Progress, before: Mapping[str, Any], shards: Shards, log: TrainingLog) -> dict[str, Any]:
    """What the model card says of the run."""
    return totals(progress, before, passages(shards.manifest)) | {"validation": log.last_validation}


def passages(manifest: Manifest) -> dict[str, int]:
    """How many passages of each part there are to train on."""
    return {part.name: part.passages["train"] for part in manifest.parts}


def _step_seed(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step) * 1_009 + rank


def _load_start(denoiser: Denoiser, source: Path) -> tuple[dict[str, Any], Fitted | None]:
    """Take over the weights; returns what they had cost and seen, as far as it is known, and their surrogate."""
    if (source / "state.json").exists():
        saved = load_training(source)
        if config_from_dict(saved.state["config"]).model.causal != denoiser.config.causal:
            raise ConfigError(f"{source}: is from a run with model.causal {not denoiser.config.causal}")
        load_strictly(denoiser, _fitting(denoiser, saved.weights), source)
        parts = passages(Manifest.from_dict(saved.state["shards"])) if "shards" in saved.state else {}
        return totals(Progress(**saved.state["progress"]), {**NOTHING, **saved.state.get("before", {})}, parts), None
    inverter = load_inverter(source, denoiser.config.causal)
    load_strictly(denoiser, _fitting(denoiser, inverter.denoiser.state_dict()), source)
    return {name: inverter.results.get(name, nothing) for name, nothing in NOTHING.items()}, inverter.surrogate


def _load_aligned(
    denoiser: Denoiser, source: str | Path | None, aligner: Aligner, encoder: Encoder, vectors_BS: Tensor
) -> dict[str, Any]:
    """Take over the weights of another encoder's inverter behind an aligner; returns what they had cost and seen."""
    inverter = load_inverter(locate(str(source or DEFAULT)))
    check_recipe(aligner.target, inverter.config.encoder)
    check_recipe(aligner.source, replace(encoder.recipe, precision=aligner.source.precision))
    weights = start_from_aligner(
        denoiser, inverter.denoiser.state_dict(), inverter.tokenizer, encoder.tokenizer, aligner, vectors_BS
    )
    load_strictly(denoiser, _fitting(denoiser, weights), Path(source or DEFAULT))
    return {name: inverter.results.get(name, nothing) for name, nothing in NOTHING.items()}


def _fitting(denoiser: Denoiser, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Feedback and blocks may be added to weights that were trained without: they change nothing at first."""
    weights = deepened(weights, denoiser.config.blocks)
    return weights if denoiser.feedback is None else {"feedback.weight": denoiser.feedback.weight.detach()} | weights


def _same_run(config: Config, shards: Shards, state: dict[str, Any], out: Path) -> None:
    """A resumed run may be longer and log otherwise; what decides a step must be the same."""
    manifest = json.loads(json.dumps(shards.manifest.to_dict()))
    if state.get("shards", manifest) != manifest:  # checkpoints of earlier versions do not tell
        raise InputError(f"{out}: the run was trained on other shards than those in {shards.folder}")
    free = {"steps", "log_every", "validate_every", "validation_texts", "checkpoint_minutes", "compile"}
    now = config_to_dict(config)
    saved = config_to_dict(config_from_dict(state["config"]))  # a key it was made without has its default
    for section, values in now.items():
        for key, value in values.items():
            if section == "training" and key in free:
                continue
            if saved[section].get(key) != value:
                raise ConfigError(
                    f"{out}: the run has {section}.{key} {saved[section].get(key)!r}, the configuration {value!r}"
                )
