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

from unembed.config import config_to_dict
from unembed.corpus.prepare import prepare
from unembed.corpus.sources import read_texts
from unembed.corpus.windows import Shards, Windows
from unembed.decoding.calibration import FILE as CALIBRATION
from unembed.decoding.calibration import Calibration
from unembed.denoiser.precision import granted
from unembed.encoders.encoder import Encoder, load_encoder
from unembed.errors import CheckpointError, DataError, InputError
from unembed.evaluation.calibrate import LEAST, TEXTS, calibrate
from unembed.files.atomic import atomic_file, output_errors, remove_leftovers
from unembed.inverter import Inverter
from unembed.storage.checkpoint import save_calibration, save_surrogate
from unembed.storage.fingerprint import fingerprint
from unembed.surrogate import bag
from unembed.surrogate.bag import Fitted, Surrogate
from unembed.surrogate.distillation import CARD, LATER, Settings, distil, judge
from unembed.surrogate.edits import Editor
from unembed.surrogate.pairs import Chunks, Texts
from unembed.surrogate.student import Student
from unembed.surrogate.token_contributions import refine

STEPS = ("surrogate", "student", "calibration")
RIDGE_TEXTS = 4096  # that the surrogate's linear map is fitted to
WINDOWS, GROUPS, HELD_OUT = 2048, 1024, 256  # in a chunk of windows, of windows with edits, of held-out ones with edits
FULL = 0.4  # share of the windows that fill the canvas, the others being of every length
EPOCHS = 8  # over the surrogate's windows
CALIBRATE = 40  # a text is inverted to calibrate with for so many that are embedded, up to `TEXTS`
AFTER_TRAINING, FEWEST = 0.1, 8192  # of a training's windows, as many as `fit_trained` embeds, and the least of them
WORK = "work.json"

Figures = dict[str, dict[str, float]]  # of each step


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
        if unknown := set(self.only) - set(STEPS):
            raise InputError(f"only names {', '.join(sorted(unknown))}, expected some of {', '.join(STEPS)}")
        if self.limit < 1:
            raise InputError(f"limit is {self.limit}, expected at least 1")
        if not (0 < self.minutes < math.inf or (self.go_on and self.minutes == 0)):
            raise InputError(f"minutes is {self.minutes}, expected more than 0")
        if self.go_on and "surrogate" in self.only:
            raise InputError("a new surrogate has no student to go on with, expected only 'student'")


def fit(
    model: str | Path, texts: Sequence[str] = (), data: str | Path | None = None, options: FitOptions | None = None, *,
    work: str | Path | None = None, encoder: Encoder | str | None = None, settings: Settings | None = None,
    device: str | torch.device = "cpu", show_progress_bar: bool = False,
) -> Figures:  # fmt: skip
    """Do the steps and write what they give into the inverter's folder.

    Args:
        model: folder of an inverter.
        texts: files or folders of texts, which are split as `prepare` does; or
        data: folder that `prepare` wrote.
        work: folder for what takes long; by default `<model>.fit`.
        encoder: asked in the place of the recipe's own, of whatever precision; or the folder of its files.
        settings: of the student's training.

    Returns:
        Of surrogate and student what `judge` says of them; calibration error `before` and `after`, of `n` texts.

    Raises:
        CheckpointError: `model` is no folder of an inverter, or a file of the work folder is damaged.
        InputError: an option is impossible, there are too few texts, or the work folder is another inverter's.
        EncoderError, DataError, TrainingError, OutputError: the encoder fails, texts or shards cannot be read, the
            student's loss is not finite, a folder cannot be written.
    """
    options, folder = options or FitOptions(), Path(model).resolve()
    if bool(texts) == (data is not None):
        raise InputError(
            f"{'both --texts and' if texts else 'neither --texts nor'} --data were given, expected one of them"
        )
    if not folder.is_dir():
        raise CheckpointError(f"{model}: is no folder, expected one of an inverter, such as `unembed train` writes")
    inverter = Inverter.from_pretrained(folder, device)
    with output_errors(folder), tempfile.TemporaryFile(dir=folder):
        pass  # before hours of work
    if isinstance(encoder, str):
        precision: Any = granted(inverter.config.training.precision, device)
        recipe = dataclasses.replace(inverter.recipe, encoder=encoder, revision=None, sha256={}, precision=precision)
        encoder = load_encoder(recipe)
    asked, place = (encoder or inverter.encoder).to(device), Path(work or f"{folder}.fit")
    shards = None if data is None else _opened(data, inverter, options)
    named = config_to_dict(asked.recipe) | {"precision": None}  # a training takes it as the machine has it
    belongs = {"inverter": fingerprint(inverter.denoiser), "encoder": _digest(named), "seed": str(options.seed)}
    belongs["texts"] = _digest(shards.manifest.to_dict()) if shards else "files"
    _claim(place, belongs)
    if shards is None:
        config = dataclasses.replace(inverter.config, data=dataclasses.replace(inverter.config.data, embeddings="fly"))
        prepare(config, texts, place / "texts", asked, options.seed, show_progress_bar)
        shards = _opened(place / "texts", inverter, options)
    steps = _Steps(folder, inverter, asked, shards, place, options, settings, show_progress_bar)
    figures: Figures = {}
    for step in (step for step in STEPS if step in options.only):
        figures |= getattr(steps, step)()
    return figures


def fit_trained(folder: Path, data: str | Path, encoder: Encoder, device: torch.device, bars: bool) -> None:
    """End a training: surrogate and calibration for the inverter that it left, unless they are there.

    A surrogate stays where it was kept with a frozen token table. What texts do not suffice for, a warning says.
    """
    if (folder / CALIBRATION).exists():
        return
    inverter = Inverter.from_pretrained(folder)
    windows = max(FEWEST, round(AFTER_TRAINING * inverter.results["sequences"]))
    options = FitOptions(limit=min(windows, FitOptions.limit), seed=inverter.config.training.seed)
    try:
        for step in ("surrogate", "calibration"):
            if step != "surrogate" or inverter.surrogate is None:
                options = dataclasses.replace(options, only=(step,))
                fit(folder, (), data, options, encoder=encoder, device=device, show_progress_bar=bars)
    except InputError as error:
        warnings.warn(f"the inverter is trained but not wholly fitted: {error}; see `unembed fit`", stacklevel=1)
    else:
        forget(folder)


def forget(model: Path) -> None:
    """Delete a model's default work folder."""
    shutil.rmtree(f"{model}.fit", ignore_errors=True)


@dataclass
class _Steps:
    """Each writes its file and returns figures."""

    folder: Path
    inverter: Inverter
    encoder: Encoder
    shards: Shards
    work: Path
    options: FitOptions
    settings: Settings | None
    bars: bool

    def surrogate(self) -> Figures:
        """Linear map and contributions, in the place of a surrogate that is there; a student goes with its bag."""
        made = self.work / f"surrogate-{self.options.limit}"
        if not (made / bag.FILE).exists():
            chunks = self._chunks("train", WINDOWS)
            texts = chunks.load(self._kept(chunks, "windows"))
            linear = bag.fit(self._table_VH, texts.rows()[:RIDGE_TEXTS], texts.e[:RIDGE_TEXTS])
            refining = refine(linear, bag.directions(self._table_VH), texts, EPOCHS, seed=self.options.seed)
            bar = tqdm(refining, "surrogate", EPOCHS, unit="epoch", disable=not self.bars)
            save_surrogate(made, collections.deque(bar, 1).pop())
        found = self._stored(made)
        if self.inverter.surrogate is None or fingerprint(self._bag) != fingerprint(found):
            self._keep(found.fitted)
        return {"surrogate": judge(self._bag, self._held_out)}

    def student(self) -> Figures:
        """A student beside the bag that is there."""
        options, device, settings = self.options, self.inverter.device, self.settings
        settings = settings or (CARD if options.stream else Settings())
        if self.inverter.surrogate is None:
            raise InputError(f"{self.folder}: has no surrogate for a student, expected the step 'surrogate' before it")
        begin = self.inverter.surrogate if options.go_on else self._bag
        student, rate = begin.fitted.student, settings.rate * (LATER if options.go_on else 1)
        if options.go_on and student is None:
            raise InputError(f"{self.folder}: has no student to go on with")
        if student is None:
            torch.manual_seed(options.seed)
            shape = (*begin.fitted.weight.shape, self.inverter.length, settings.width, settings.blocks)
            student = Student(*shape)
        if options.minutes:
            chunks = self._chunks("train", GROUPS, self._editor)
            if options.stream:
                made = partial(chunks.streamed, self.encoder, device)
            else:
                made = partial(chunks.kept, self._kept(chunks, "edits"), options.seed)
            # A training belongs to what it began with: another bag or other settings begin another one.
            name = _digest([fingerprint(begin), dataclasses.asdict(settings)])[:12]
            distil(
                student.requires_grad_(True).to(device), self._bag,
                partial(chunks.batches, made, settings.batch, options.seed), options.minutes, rate,
                self.work / f"student-{name}.pt", self.bars,
            )  # fmt: skip
        self._keep(self._bag.fitted._replace(student=student.cpu().eval().requires_grad_(False)))
        both = {"surrogate": self._bag, "student": self.inverter.surrogate}
        return {name: judge(one, self._held_out) for name, one in both.items()}

    def calibration(self) -> Figures:
        """The map of confidences, of inversions by the surrogate that is there."""
        limit, seed = min(TEXTS, max(LEAST, self.options.limit // CALIBRATE)), self.options.seed
        steered = fingerprint(self._bag) if self.inverter.surrogate else ""  # by which inversions are led
        made = self.work / f"calibration-{_digest([steered, limit])[:12]}"
        found = Calibration.load(made)
        if found is None:
            texts = read_texts(self.shards.folder / "validation.txt")
            found = calibrate(self.inverter, self.encoder, texts, limit, seed, self.bars)
            save_calibration(made, found)
        save_calibration(self.folder, found)
        names = {"before": "ece_before", "after": "ece_after", "n": "measured_on"}
        return {"calibration": {name: found.about[key] for name, key in names.items()}}

    @property
    def _table_VH(self) -> torch.Tensor:  # noqa: N802 - a tensor's shape
        return self.inverter.denoiser.table.weight

    @property
    def _bag(self) -> Surrogate:
        """The inverter's surrogate without its student."""
        assert self.inverter.surrogate is not None
        return Surrogate(self._table_VH, self.inverter.surrogate.fitted._replace(student=None))

    @cached_property
    def _editor(self) -> Editor:
        return Editor(bag.directions(self._table_VH).to(self.inverter.device), self.inverter.length)

    @cached_property
    def _held_out(self) -> Texts:
        """Held-out windows, no more than there are texts, with edits and their embeddings."""
        chunks = self._chunks("validation", min(HELD_OUT, _held_out(self.shards)), self._editor)
        return chunks.load([chunks.keep(self.encoder, 0, self.work / "held-out.safetensors")])

    def _chunks(self, split: str, count: int, editor: Editor | None = None) -> Chunks:
        config, tokenizer = self.inverter.config.data, self.inverter.tokenizer
        stored: Any = self.shards.manifest.embeddings
        config = dataclasses.replace(config, embeddings=stored, full_windows=FULL, short_share=0.0)
        windows = Windows(self.shards, config, tokenizer, self.inverter.length, count, self.options.seed, split)
        return Chunks(windows, tokenizer, editor)

    def _kept(self, chunks: Chunks, name: str) -> list[Path]:
        """Files of `limit` texts with their embeddings, made where they are missing."""
        numbers = tqdm(range(-(-self.options.limit // len(chunks))), f"embed {name}", disable=not self.bars)
        return [chunks.keep(self.encoder, number, self.work / f"{name}-{number:04d}.safetensors") for number in numbers]

    def _keep(self, fitted: Fitted) -> None:
        """Put a surrogate into the inverter's folder; from here on it is what stands there, rounded as it is stored."""
        save_surrogate(self.folder, fitted)
        self.inverter.surrogate = self._stored(self.folder)

    def _stored(self, folder: Path) -> Surrogate:
        vocabulary, width = self._table_VH.shape
        found = Fitted.load(folder, vocabulary, width, self.inverter.recipe.dimension)
        assert found is not None
        return Surrogate(self._table_VH, found)


def _opened(data: str | Path, inverter: Inverter, options: FitOptions) -> Shards:
    """Shards of the inverter's tokens, of which enough are held out. Raises DataError."""
    shards = Shards.open(data)
    if shards.manifest.tokenizer != inverter.tokenizer.fingerprint:
        raise DataError(f"{shards.folder}: the shards were made with another tokenizer than the inverter's")
    least = LEAST if "calibration" in options.only else 1
    if _held_out(shards) < least:
        raise DataError(
            f"{shards.folder}: {_held_out(shards)} texts are held out for validation, expected at least {least}; give "
            f"more texts, one in {2 / shards.manifest.held_out:.0f} is held out for it"
        )
    return shards


def _held_out(shards: Shards) -> int:
    return sum(len(shard) for shard in shards["validation"])


def _claim(work: Path, belongs: dict[str, str]) -> None:
    """Make the work folder, or go on with one that belongs to the same inverter, encoder, texts and seed."""
    advice, path = "choose another --work, or delete it", work / WORK
    if not path.exists():
        if work.exists() and (not work.is_dir() or any(work.iterdir())):
            raise InputError(f"{work}: holds no {WORK}, expected a folder that `unembed fit` made; {advice}")
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(belongs, indent=1), encoding="utf-8")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = {name: str(found[name]) for name in belongs}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: does not say what the folder belongs to; {advice}") from error
    for name, expected in belongs.items():
        if known[name] != expected:
            raise InputError(
                f"{work}: belongs to another {name} ({known[name][:12]}, this call has {expected[:12]}); {advice}"
            )
    remove_leftovers(work)


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
