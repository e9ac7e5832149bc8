"""What an inverter gets after its training: the encoder's surrogate, its student, and a calibration.

Each step writes its file into the inverter's folder when it is done. What took long, the embeddings of texts and the
student's training, is kept in a work folder, from which the same call goes on after a kill. All figures are from the
validation split.
"""

import collections
import dataclasses
import hashlib
import json
import math
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from unembed.config import Config, DataConfig, config_to_dict
from unembed.corpus.prepare import prepare
from unembed.corpus.sources import read_texts
from unembed.corpus.windows import Shards, Windows
from unembed.decoding.calibration import FILE as CALIBRATION
from unembed.denoiser.precision import granted
from unembed.encoders.encoder import Encoder
from unembed.errors import CheckpointError, DataError, InputError
from unembed.evaluation.calibrate import LEAST, calibrate
from unembed.evaluation.evaluate import fingerprint
from unembed.files.atomic import atomic_file, output_errors, remove_leftovers
from unembed.inverter import Inverter
from unembed.storage.checkpoint import save_calibration, save_surrogate
from unembed.surrogate import bag
from unembed.surrogate.bag import Fitted, Surrogate
from unembed.surrogate.contributions import refine
from unembed.surrogate.distillation import CARD, LATER, Batches, Settings, Tokens, distil, judge
from unembed.surrogate.edits import Editor
from unembed.surrogate.pairs import Chunks, Texts, kept, streamed
from unembed.surrogate.student import Student
from unembed.training.step import training_encoder

STEPS = ("surrogate", "student", "calibration")
RIDGE_TEXTS = 4096  # that the surrogate's linear map is fitted to, before its tokens' contributions
WINDOWS, GROUPS, HELD_OUT = 2048, 1024, 256  # in a chunk of windows, of windows with edits, of held-out ones with edits
FULL = 0.4  # share of the windows that fill the canvas, the others being of every length
EPOCHS = 8  # over the surrogate's windows
AFTER_TRAINING = 0.1  # of a training's windows, as many as `fit_trained` embeds
FEWEST = 8192  # windows that it embeds all the same
WORK = "work.json"


@dataclass(frozen=True)
class FitOptions:
    """What is fitted, and how much of it.

    Attributes:
        only: steps to do, of `STEPS`.
        limit: texts that the encoder embeds for the surrogate, and as many for the student, rounded up to whole chunks.
        minutes: the student's training, over all calls.
        stream: embed texts for the student as they are needed, on the device, and keep none of them: for a GPU.
        go_on: train the student that the inverter has, not a new one.
    """

    only: tuple[str, ...] = STEPS
    limit: int = 245_760
    minutes: float = 60.0
    stream: bool = False
    go_on: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for step in self.only:
            if step not in STEPS:
                raise InputError(f"only is {step!r}, expected {', '.join(STEPS)}")
        if self.limit < 1:
            raise InputError(f"limit is {self.limit}, expected at least 1")
        if not (0 < self.minutes < math.inf or (self.go_on and self.minutes == 0)):
            raise InputError(f"minutes is {self.minutes}, expected more than 0")
        if self.go_on and "surrogate" in self.only:
            raise InputError(f"a new surrogate has no student to go on with, expected only {STEPS[1]!r}")


def fit(
    model: str | Path,
    texts: Sequence[str] = (),
    data: str | Path | None = None,
    options: FitOptions | None = None,
    *,
    work: str | Path | None = None,
    encoder: Encoder | str | None = None,
    settings: Settings | None = None,
    device: str | torch.device = "cpu",
    show_progress_bar: bool = False,
) -> dict[str, dict[str, float]]:
    """Fit what is asked for and write it into the inverter's folder; returns figures of each step.

    Args:
        model: folder of an inverter.
        texts: files or folders of texts, which are split as `prepare` does; or
        data: folder that `prepare` wrote.
        work: folder for what takes long; by default `<model>.fit`.
        encoder: asked in the place of the recipe's own, of whatever precision; or the folder of its files.
        settings: of the student's training.

    Raises:
        CheckpointError: `model` is no folder of an inverter, or a file of the work folder is damaged.
        InputError: an option is impossible, there are too few texts, or the work folder is another inverter's.
        EncoderError, DataError, TrainingError, OutputError: the encoder fails, texts or shards cannot be read, the
            student's loss is not finite, a folder cannot be written.
    """
    options, folder = options or FitOptions(), Path(model).absolute()
    if bool(texts) == (data is not None):
        raise InputError("texts and data are both given, or neither is, expected one of them")
    if not folder.is_dir():
        raise CheckpointError(f"{model}: is no folder, expected one of an inverter, such as `unembed train` writes")
    inverter = Inverter.from_pretrained(folder, device)
    with output_errors(folder), tempfile.TemporaryFile(dir=folder):
        pass  # before hours of work
    shards = None if data is None else _opened(data, inverter)
    if isinstance(encoder, str):
        encoder = training_encoder(inverter.config, granted(inverter.config.training.precision, device), encoder)
    asked = (encoder or inverter.encoder).to(device)
    place = Path(work) if work is not None else work_folder(folder)
    belongs = {"inverter": fingerprint(inverter.denoiser), "encoder": _digest(config_to_dict(asked.recipe))}
    belongs |= {"texts": _digest(shards.manifest.to_dict()) if shards else "files", "seed": str(options.seed)}
    _claim(place, belongs)
    if shards is None:
        config = dataclasses.replace(inverter.config, data=_fitting(inverter.config, "fly"))
        prepare(config, texts, place / "texts", asked, options.seed, show_progress_bar)
        shards = _opened(place / "texts", inverter)
    run = _Fit(folder, inverter, asked, shards, place, options, settings, show_progress_bar)
    figures: dict[str, dict[str, float]] = {}
    for step in (step for step in STEPS if step in options.only):
        figures |= getattr(run, step)()
    return figures


class _Fit:
    """The steps, each of which writes its file and returns figures by name."""

    def __init__(
        self, folder: Path, inverter: Inverter, encoder: Encoder, shards: Shards, work: Path, options: FitOptions,
        settings: Settings | None, show_progress_bar: bool,
    ) -> None:  # fmt: skip
        self.folder, self.inverter, self.encoder, self.shards = folder, inverter, encoder, shards
        self.work, self.options, self.show_progress_bar = work, options, show_progress_bar
        self.settings = settings or (CARD if options.stream else Settings())
        self.table_VH = inverter.denoiser.table.weight

    def surrogate(self) -> dict[str, dict[str, float]]:
        """Linear map and contributions, in the place of a surrogate that is there; a student goes with its bag."""
        made = self.work / f"surrogate-{self.options.limit}"
        if not (made / bag.FILE).exists():
            chunks = Chunks(self._windows("train", WINDOWS), self.inverter.tokenizer)
            texts = chunks.load(self._kept(chunks, "windows"))
            linear = bag.fit(
                self.table_VH, Texts(*(part[:RIDGE_TEXTS] for part in texts)).rows(), texts.e[:RIDGE_TEXTS]
            )
            refining = refine(linear, bag.directions(self.table_VH), texts, EPOCHS, seed=self.options.seed)
            bar = tqdm(refining, "surrogate", EPOCHS, unit="epoch", disable=not self.show_progress_bar)
            save_surrogate(made, collections.deque(bar, 1).pop())
        found = self._stored(made)
        if self.inverter.surrogate is None or fingerprint(self._bag) != fingerprint(found):
            self._keep(found.fitted)
        return {"surrogate": judge(self._bag, self.held_out)}

    def student(self) -> dict[str, dict[str, float]]:
        """A student beside the bag that is there."""
        options, device = self.options, self.inverter.device
        if self.inverter.surrogate is None:
            raise InputError(f"{self.folder}: has no surrogate for a student, expected the step 'surrogate' before it")
        # A training belongs to what it began with: another bag or other settings begin another one.
        begin = self.inverter.surrogate if options.go_on else self._bag
        name = _digest([fingerprint(begin), dataclasses.asdict(self.settings)])[:12]
        student, rate = begin.fitted.student, self.settings.rate * (LATER if options.go_on else 1)
        if student is None:
            if options.go_on:
                raise InputError(f"{self.folder}: has no student to go on with")
            torch.manual_seed(options.seed)
            shape = (self.table_VH.shape[1], self.inverter.recipe.dimension, self.inverter.length)
            student = Student(*shape, self.settings.width, self.settings.blocks)
        student = student.requires_grad_(True).to(device)
        if options.minutes:
            chunks = Chunks(self._windows("train", GROUPS), self.inverter.tokenizer, self.editor)
            texts_of: Batches
            if options.stream:
                _ = self.editor.alike_VA  # computed once, not by each process that makes texts
                texts_of = partial(streamed, chunks, self.encoder, device, self.settings.batch, options.seed)
            else:
                texts_of = partial(kept, chunks, self._kept(chunks, "edits"), self.settings.batch, options.seed)
            path, tokens = self.work / f"student-{name}.safetensors", Tokens.of(self._bag, device)
            distil(student, tokens, texts_of, options.minutes, rate, path, self.show_progress_bar)
        self._keep(self._bag.fitted._replace(student=student.cpu().eval().requires_grad_(False)))
        both = {"surrogate": self._bag, "student": self.inverter.surrogate}
        return {name: judge(one, self.held_out) for name, one in both.items()}

    def calibration(self) -> dict[str, dict[str, float]]:
        """The map of confidences, of inversions by the surrogate that is there."""
        texts = read_texts(self.shards.folder / "validation.txt")
        found = calibrate(self.inverter, self.encoder, texts, self.options.seed, self.show_progress_bar)
        save_calibration(self.folder, found)
        names = {"before": "ece_before", "after": "ece_after", "n": "measured_on"}
        return {"calibration": {name: found.about[key] for name, key in names.items()}}

    @cached_property
    def editor(self) -> Editor:
        return Editor(bag.directions(self.table_VH).to(self.inverter.device), self.inverter.length)

    @cached_property
    def held_out(self) -> Texts:
        """Held-out windows, no more than there are texts, with edits and their embeddings."""
        count = min(HELD_OUT, sum(len(shard) for shard in self.shards["validation"]))
        chunks = Chunks(self._windows("validation", count), self.inverter.tokenizer, self.editor)
        return chunks.load([chunks.keep(self.encoder, 0, self.work / "held-out.safetensors")])

    @property
    def _bag(self) -> Surrogate:
        """The inverter's surrogate without its student."""
        assert self.inverter.surrogate is not None
        return Surrogate(self.table_VH, self.inverter.surrogate.fitted._replace(student=None))

    def _windows(self, split: str, count: int) -> Windows:
        config = _fitting(self.inverter.config, self.shards.manifest.embeddings)
        tokenizer, length = self.inverter.tokenizer, self.inverter.length
        return Windows(self.shards, config, tokenizer, length, count, self.options.seed, split)

    def _kept(self, chunks: Chunks, name: str) -> list[Path]:
        """Files of `limit` texts with their embeddings, made where they are missing."""
        numbers = tqdm(
            range(-(-self.options.limit // len(chunks))), f"embed {name}", disable=not self.show_progress_bar
        )
        return [chunks.keep(self.encoder, number, self.work / f"{name}-{number:04d}.safetensors") for number in numbers]

    def _keep(self, fitted: Fitted) -> None:
        """Put a surrogate into the inverter's folder; from here on it is what stands there, rounded as it is stored."""
        save_surrogate(self.folder, fitted)
        self.inverter.surrogate = self._stored(self.folder)

    def _stored(self, folder: Path) -> Surrogate:
        vocabulary, width = self.table_VH.shape
        found = Fitted.load(folder, vocabulary, width, self.inverter.recipe.dimension)
        assert found is not None
        return Surrogate(self.table_VH, found)


def fit_trained(
    folder: Path, data: str | Path, encoder: Encoder, device: torch.device, show_progress_bar: bool
) -> None:
    """End a training: surrogate and calibration for the inverter that it left, unless they are there.

    A surrogate whose tokens have contributions already stays: it was kept with a frozen token table. Where there are
    too few texts a warning says so.
    """
    if (folder / CALIBRATION).exists():
        return
    inverter = Inverter.from_pretrained(folder)
    steers = inverter.surrogate is not None and inverter.surrogate.steers
    windows = round(AFTER_TRAINING * inverter.results["sequences"])
    options = FitOptions(
        only=("calibration",) if steers else ("surrogate", "calibration"),
        limit=min(max(windows, FEWEST), FitOptions.limit),
        seed=inverter.config.training.seed,
    )
    try:
        fit(folder, data=data, options=options, encoder=encoder, device=device, show_progress_bar=show_progress_bar)
    except InputError as error:
        warnings.warn(f"the inverter is trained but not fitted: {error}; `unembed fit` does it", stacklevel=1)
        return
    forget(folder)


def forget(model: Path) -> None:
    """Delete a model's default work folder."""
    shutil.rmtree(work_folder(model), ignore_errors=True)


def work_folder(model: Path) -> Path:
    """Where what takes long is kept unless another folder is named: beside the model."""
    return model.with_name(f"{model.name}.fit")


def _opened(data: str | Path, inverter: Inverter) -> Shards:
    """Shards of the inverter's tokens, with enough of them held out."""
    shards = Shards.open(data)
    if shards.manifest.tokenizer != inverter.tokenizer.fingerprint:
        raise DataError(f"{data}: the shards were made with another tokenizer than the inverter's")
    held_out = sum(len(shard) for shard in shards["validation"])
    if held_out < LEAST or not shards["train"]:
        raise DataError(
            f"{data}: {held_out} texts are held out for validation, expected at least {LEAST}; give more texts, one in "
            f"{2 / shards.manifest.held_out:.0f} is held out for it"
        )
    return shards


def _fitting(config: Config, embeddings: str) -> DataConfig:
    """How windows are drawn here: whole canvases less often than in training, of every length."""
    return dataclasses.replace(config.data, embeddings=embeddings, full_windows=FULL, short_share=0.0)


def _claim(work: Path, belongs: dict[str, str]) -> None:
    """Make the work folder, or go on with one that belongs to the same inverter, encoder, texts and seed."""
    advice = "choose another --work, or delete it"
    path = work / WORK
    if not path.exists():
        if work.exists() and (not work.is_dir() or any(work.iterdir())):
            raise InputError(f"{work}: holds no {WORK}, expected a folder that `unembed fit` made; {advice}")
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps({"format": 1, **belongs}, indent=1), encoding="utf-8")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = {name: str(found[name]) for name in ("format", *belongs)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: does not say what the folder belongs to; {advice}") from error
    for name, expected in {"format": "1", **belongs}.items():
        if known[name] != expected:
            raise InputError(
                f"{work}: belongs to another {name} ({known[name][:12]}, this call has {expected[:12]}); {advice}"
            )
    remove_leftovers(work)


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
