"""What runs on a borrowed machine, in a process of its own: short trainings to choose, the long one, its evaluation.

`borrowed.py start` writes RUN/job.json and starts this; killed at any moment and started again it goes on where it was.
RUN then holds

    job.json state.json pid.json log.txt     what was asked for, how far it is, which process, all that it said
    tries.json tries.md                      the short trainings at equal seconds, and which was chosen
    training/                                as `unembed train` leaves it
    inverter/ table.jsonl table.md           the result in bfloat16, and its figures from all masks on held-out texts
"""

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

CODE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CODE / "src"))  # a bare checkout, where unembed is not installed

from unembed.config import Config, config_from_dict, overridden  # noqa: E402
from unembed.errors import UnembedError  # noqa: E402
from unembed.files.atomic import atomic_file  # noqa: E402

SHARE_OF_TIME = (1 / 3, 2 / 3, 1.0)  # where losses of the tries are compared
WARM_UP_STEPS = 3
TRAINING_ENCODER = "training-encoder"  # folder of an encoder in the number format that windows are embedded in


@dataclass(frozen=True)
class Job:
    """All that decides a run. JSON-ready."""

    config: dict[str, Any]
    data: str  # folder of shards
    minutes: float | None  # of the long training; None: only the tries
    start_from: str | None
    tries: list[str]  # overrides of each short training; "" is the configuration as it is
    try_minutes: float
    choose_by: str  # a validation figure, or "loss"
    texts: str  # held-out texts, one a line
    limit: int
    tokens: str  # of `unembed evaluate`
    steps: list[int]

    @classmethod
    def load(cls, run: Path) -> Self:
        """Read RUN/job.json."""
        return cls(**json.loads((run / "job.json").read_text(encoding="utf-8")))

    def save(self, run: Path) -> None:
        """Write RUN/job.json."""
        write_json(run / "job.json", asdict(self))


def write_json(path: Path, tree: Any) -> None:
    """Write JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(tree, indent=1), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read JSON; nothing where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def log_rows(training: Path) -> list[dict[str, Any]]:
    """The log of a training run; a line that is being written is left out."""
    path = training / "log.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def work(run: Path, job: Job) -> None:
    """Do the job, or what is left of it."""
    config = config_from_dict(job.config)
    if job.tries:
        state(run, "tries")
        config = config_from_dict(overridden(job.config, choose(run, job)["overrides"]))
    if job.minutes is not None:
        import torch

        from unembed.training.train import train

        state(run, "training")
        torch.compiler.reset()
        train(
            config, job.data, run / "training", resume=True, start_from=job.start_from, minutes=job.minutes,
            show_progress_bar=False, encoder=training_encoder(config),
        )  # fmt: skip
        keep(run / "training" / "inverter", run / "inverter", "bfloat16")
        if job.limit:
            state(run, "evaluation")
            evaluate(run, job, config)
    state(run, "done")


def training_encoder(config: Config) -> Any:
    """The encoder that was packed for training alone; None where the whole one was."""
    from unembed.encoders.encoder import load_encoder

    if not Path(TRAINING_ENCODER).is_dir():  # where the process works there is nothing but encoders
        return None
    settings = {"encoder": TRAINING_ENCODER, "sha256": {}, "precision": config.training.precision}
    return load_encoder(replace(config.encoder, **settings))


def state(run: Path, stage: str, reason: str = "") -> None:
    """Note how far the job is."""
    write_json(run / "state.json", {"stage": stage, "reason": reason, "time": time.time()})
    print(f"== {time.strftime('%H:%M:%S')} {stage} {reason}".rstrip(), flush=True)


def keep(source: Path, target: Path, dtype: str) -> None:
    """Write the weights of an inverter, of a twin or of a `stable-*` checkpoint as an inverter's folder.

    Raises:
        CheckpointError: `source` is none of them.
    """
    import torch

    from unembed.storage.checkpoint import load_inverter, load_training, save_inverter

    if (source / "state.json").exists():
        saved = load_training(source)
        parts = load_inverter(source.parent / "inverter", causal=None)  # for its tokenizer
        state, config = saved.weights, config_from_dict(saved.state["config"])
        results = {"steps": saved.state["step"], "sequences": saved.state["progress"]["sequences"]}
        save_inverter(target, state, parts.tokenizer, config, results, getattr(torch, dtype))
    else:
        parts = load_inverter(source, causal=None)
        weights = parts.denoiser.state_dict()
        save_inverter(
            target, weights, parts.tokenizer, parts.config, parts.results, getattr(torch, dtype),
            surrogate=parts.surrogate,
        )  # fmt: skip


def evaluate(run: Path, job: Job, config: Config) -> None:
    """Measure the inverter from all masks, or a twin beside nothing; the rows go to RUN/table.jsonl and table.md."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = ["--texts", job.texts, "--limit", str(job.limit), "--device", device]
    if config.model.causal:
        script, where = "compare_autoregressive.py", ["--twin", str(run / "inverter"), "-o", str(run / "table.json")]
    else:
        script, where = "evaluate_table.py", ["--model", str(run / "inverter"), "-o", str(run / "table.jsonl")]
        options += [part for steps in job.steps for part in ("--steps", str(steps))] + ["--strategy", "confidence"]
    options += ["--tokens", job.tokens, "--batch-size", "512" if device == "cuda" else "64"]
    command = [sys.executable, str(CODE / "runs" / script), *where, *options]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    if done.returncode:
        raise UnembedError(f"{script} ended with {done.returncode}; its message is above")
    with atomic_file(run / "table.md") as temporary:
        temporary.write_text(done.stdout, encoding="utf-8")


def choose(run: Path, job: Job) -> dict[str, Any]:
    """Train each try for the same time, unless that is done; returns the best one's row.

    Where the denoiser is compiled, every try is first trained for a few steps that do not count: the first of them
    would otherwise pay for all.
    """
    kept: dict[str, Any] = read_json(run / "tries.json")
    rows: list[dict[str, Any]] = kept.get("rows", [])
    for number, overrides in enumerate(job.tries):
        if number < len(rows):
            continue
        folder = run / "tries" / f"{number:02d}"
        shutil.rmtree(folder, ignore_errors=True)
        rows.append({"overrides": overrides} | _try(job, overrides, folder))
        shutil.rmtree(folder, ignore_errors=True)
        write_json(run / "tries.json", {"rows": rows})
    best = _best(rows, job.choose_by)
    table = tries_table(rows, job.choose_by, best)
    with atomic_file(run / "tries.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    write_json(run / "tries.json", {"rows": rows, "chosen": best["overrides"]})
    print(table, flush=True)
    return best


def _try(job: Job, overrides: str, folder: Path) -> dict[str, Any]:
    """One short training: speed, losses and validation figures; or why it failed."""
    import torch

    from unembed.training.train import train

    torch.compiler.reset()  # which gives up on a function that it has compiled for too many networks
    config = config_from_dict(overridden(job.config, overrides))
    # One validation, at the end, and no checkpoint before it: nothing but training takes time.
    quiet = replace(config.training, validate_every=10**9, checkpoint_minutes=1e9)
    config = replace(config, training=quiet)
    print(f"== try {overrides or 'as configured'}", flush=True)
    try:
        if quiet.compile:
            warm = replace(config, training=replace(quiet, steps=WARM_UP_STEPS))
            train(
                warm, job.data, folder / "warm", start_from=job.start_from, show_progress_bar=False,
                encoder=training_encoder(config),
            )  # fmt: skip
        minutes = job.try_minutes
        train(
            config, job.data, folder / "run", start_from=job.start_from, minutes=minutes, show_progress_bar=False,
            encoder=training_encoder(config),
        )  # fmt: skip
    except (UnembedError, RuntimeError) as error:  # too large for the memory, not finite: the others go on
        return {"failed": " ".join(str(error).split())[:200]}
    rows = log_rows(folder / "run")
    steps = [row for row in rows if "loss" in row]
    figures: dict[str, Any] = next((row for row in reversed(rows) if "loss" not in row), {})
    last = steps[-1]
    found = {"losses": [_loss_at(steps, share * 60 * minutes) for share in SHARE_OF_TIME], "seconds": last["seconds"]}
    found |= {"sequences": last["sequences"], "sequences_per_second": last["sequences"] / max(last["seconds"], 1e-9)}
    if "share_of_peak" in last:
        found["share_of_peak"] = max(row["share_of_peak"] for row in steps)
    return found | {"validation": {name: value for name, value in figures.items() if name != "step"}}


def _loss_at(rows: Sequence[Mapping[str, Any]], seconds: float) -> float:
    """Mean loss of the last tenth of the time up to `seconds`, or of the last row before."""
    before = [row for row in rows if row["seconds"] <= seconds * 1.01] or rows[:1]
    late = [row["loss"] for row in before if row["seconds"] >= 0.9 * seconds] or [before[-1]["loss"]]
    return float(sum(late) / len(late))


def _figure(row: Mapping[str, Any], choose_by: str) -> float:
    """What a try is chosen by; larger is better."""
    if "failed" in row:
        return -math.inf
    return -row["losses"][-1] if choose_by == "loss" else float(row["validation"].get(choose_by, -math.inf))


def _best(rows: Sequence[dict[str, Any]], choose_by: str) -> dict[str, Any]:
    """The best try; the earliest of equals. Raises UnembedError where none has the figure."""
    best = max(rows, key=lambda row: _figure(row, choose_by))
    if _figure(best, choose_by) == -math.inf:
        known = ", ".join(sorted({name for row in rows for name in row.get("validation", {})} | {"loss"}))
        reasons = sorted({row.get("failed", f"no figure {choose_by!r}, expected one of {known}") for row in rows})
        raise UnembedError(f"no try can be chosen: {'; '.join(reasons)}")
    return best


def tries_table(rows: Sequence[Mapping[str, Any]], choose_by: str, best: Mapping[str, Any]) -> str:
    """A Markdown table of the tries, and which was chosen.

    Losses of tries with another loss (`diffusion`, `vocabulary_sample`) do not compare; the validation figures do.
    """
    names = next((list(row["validation"]) for row in rows if "failed" not in row), [])
    header = ["try", *(f"loss at {share:.0%}" for share in SHARE_OF_TIME), *(name.replace("_", " ") for name in names)]
    lines = [[*header, "sequences/s", "share of peak"]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for row in rows:
        title = row["overrides"] or "as configured"
        if "failed" in row:
            lines.append([title, row["failed"].replace("|", " "), *[""] * (len(lines[0]) - 2)])
            continue
        values = [*row["losses"], *(row["validation"].get(name, math.nan) for name in names)]
        figures = [f"{value:.3f}" for value in values]
        share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
        lines.append([title, *figures, f"{row['sequences_per_second']:,.0f}", share])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\nChosen by {choose_by}: {best['overrides'] or 'as configured'}\n"


def main(run: Path) -> int:
    """Work on the job of `run`; returns the exit code."""
    try:
        work(run, Job.load(run))
    except BaseException as error:
        state(run, "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
