"""What a training leaves in its folder: log, checkpoint, weights."""

import io
import math
import time
from pathlib import Path

import pandas as pd
import torch

from icmlib import device
from icmlib.io import InputError, save_weights, write

CHECKPOINT_EVERY = 250  # steps


class Journal:
    """Log and checkpoint of one training; of several processes, only the first writes.

    <folder>/log.csv              one row per step
    <folder>/last.pt              the checkpoint
    <folder>/<name>.safetensors   weights
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds = 0.0  # spent in training, over all attempts
        self._clock = time.perf_counter()

    def path(self, name: str) -> Path:
        return self.folder / name

    def step(self, step: int, steps: int, terms: dict, parts: dict) -> None:
        """A step's terms go to the log (means over processes; those that are no tensors are off),
        at times `parts` to the checkpoint. FloatingPointError names terms that are not finite."""
        terms = {name: value.detach() for name, value in terms.items() if torch.is_tensor(value)}
        values = torch.stack([value.float() for value in terms.values()])
        device.average(values)
        terms = dict(zip(terms, values.tolist()))  # once: a GPU waits for each number that is read
        if bad := {name: value for name, value in terms.items() if not math.isfinite(value)}:
            mend = "lower the learning rate or that term's weight and run again"
            raise FloatingPointError(f"step {step}: loss is not finite: {bad}; {mend}")
        self.log(step, terms)
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            self.checkpoint(step + 1, **parts)

    @device.main_only
    def log(self, step: int, terms: dict[str, float]) -> None:
        log = self.path("log.csv")
        header = "" if log.exists() else ",".join(["step", *terms]) + "\n"
        row = ",".join([str(step), *map("{:.6g}".format, terms.values())])
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{header}{row}\n")

    def logged(self) -> pd.DataFrame:
        return pd.read_csv(self.path("log.csv"))

    @device.main_only
    def checkpoint(self, step: int, **parts) -> None:
        """The state after `step` steps; parts are modules, optimisers, schedules."""
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        state = {name: part.state_dict() for name, part in parts.items()}
        buffer = io.BytesIO()  # torch.save to a file hides a full disk behind a RuntimeError
        torch.save({"step": step, "seconds": self.seconds, **state}, buffer)
        write(self.path("last.pt"), buffer.getbuffer())

    def resume(self, **parts) -> int:
        """Restore parts from the checkpoint; returns the steps already done (0 without one). Raises
        ValueError: the checkpoint is damaged, or of other parts than these."""
        self._clock, path = time.perf_counter(), self.path("last.pt")
        state = {"step": 0, "seconds": 0.0}
        try:
            if path.exists():
                state = torch.load(path, map_location="cpu", weights_only=True)
                for name, part in parts.items():
                    part.load_state_dict(state[name])
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # torch has many for this, and none names the file
            what = f"checkpoint {path} is damaged, or of other networks than these"
            how = "delete it and run again: the run then starts from its first step"
            raise InputError(f"{what}; {how}") from error
        self.seconds = state["seconds"]
        self._drop_rows_from(state["step"])
        return state["step"]

    @device.main_only
    def _drop_rows_from(self, step: int) -> None:
        log = self.path("log.csv")
        if step == 0:
            log.unlink(missing_ok=True)
        elif log.exists():
            kept = log.read_text("utf-8").splitlines(keepends=True)[: 1 + step]  # one row a step
            write(log, "".join(kept))

    def save_weights(self, module: torch.nn.Module, name: str = "final") -> None:
        """Weights to `<name>.safetensors`; no process goes on before they are there."""
        device.main_only(save_weights)(self.path(f"{name}.safetensors"), module)
        device.state().wait_for_everyone()
