"""What `start` leaves running: a command first, where one was given, then training.

Killed at any moment and started again it goes on from the newest checkpoint. A run's folder is that of `unembed train`,
with `job.json`: what was asked for, `first.json`: how the command went, `log.txt`: all that was said, and `done`.
"""

import fcntl
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from unembed.config import Config, config_from_dict
from unembed.denoiser.precision import granted
from unembed.encoders.encoder import Encoder, load_encoder
from unembed.errors import UnembedError
from unembed.files.atomic import atomic_file
from unembed.training.train import train

ENCODER = "training-encoder"


def training_encoder(config: Config) -> Encoder | None:
    """The encoder that `pack` sent, in the folder where a process on the machine works; None anywhere else.

    It stands for the recipe's, which inverters are for: its weights are in bfloat16, as windows are embedded.
    """
    if not Path(ENCODER).is_dir():
        return None
    precision = granted(config.training.precision, "cuda" if torch.cuda.is_available() else "cpu")
    return load_encoder(replace(config.encoder, encoder=ENCODER, revision=None, sha256={}, precision=precision))


def seconds_of_first(run: Path, command: list[str]) -> float:
    """Run the command, unless an earlier process has; the seconds it took."""
    note = run / "first.json"
    if not note.exists():
        begun = time.monotonic()
        code = subprocess.run(["env", *command], check=False).returncode  # which tells of a command that there is not
        print(f"{command} ended with {code}", flush=True)
        with atomic_file(note) as temporary:
            temporary.write_text(json.dumps({"exit": code, "seconds": time.monotonic() - begun}))
    return float(json.loads(note.read_text())["seconds"])


def main(run: Path) -> int:
    """Do the job of the folder `run`, or what is left of it; the exit code."""
    with (run / "lock").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until this process ends, however it does
        job = json.loads((run / "job.json").read_text(encoding="utf-8"))
        config, minutes = config_from_dict(job["config"]), job["minutes"]
        if job["first"]:
            seconds = seconds_of_first(run, job["first"])
            minutes = minutes and minutes - seconds / 60
        try:
            train(
                config, job["data"], run, resume=True, start_from=job["start_from"], minutes=minutes,
                encoder=training_encoder(config),
            )  # fmt: skip
        except UnembedError as error:
            print(f"error: {error}", flush=True)
            return error.exit_code
        (run / "done").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
