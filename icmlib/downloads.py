"""Published weights: fetched at first use into torch.hub's cache, and never unpickled.

Their file names end in the first digits of a hash: SHA-256 after a hyphen (`name-446d5c7f.pth`, as
torch.hub has it), MD5 after an underscore (`model_final_f10217.pkl`, as detectron2 has it).
"""

import hashlib
import pickle
import re
from http.client import HTTPException
from pathlib import Path

import torch

from icmlib import pickled_arrays


class WeightsUnavailable(RuntimeError):
    """Pretrained weights are not on this machine; the message says why and what to put where."""


def read_state(url: str, what: str, download: bool = True) -> dict:
    """The state dict published at `url`, on the CPU; fetched where it is not in the cache (which
    the variable TORCH_HOME moves).

    Only tensors are read, and of a plain pickle (.pkl) only arrays: what would run code is refused,
    whatever its hash.

    Args:
        what: whose weights they are, for messages.

    Raises:
        WeightsUnavailable: not here and not to be had, broken, or another file than its name says.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    try:
        return _read(path, url, download)
    except (OSError, HTTPException, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsUnavailable(
            f"{what} weights are unavailable ({error}). Get {url} where there is a network, and "
            f"put it at {path}"
        ) from error


def _read(path: Path, url: str, download: bool) -> dict:
    sign, digits = re.search(r"([-_])([0-9a-f]{6,})\.", path.name).groups()
    if not path.exists():
        if not download:
            raise FileNotFoundError("the file is missing, and downloads are not allowed")
        path.parent.mkdir(parents=True, exist_ok=True)
        sha256 = digits if sign == "-" else None  # torch.hub checks no other
        torch.hub.download_url_to_file(url, str(path), sha256, progress=False)
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256" if sign == "-" else "md5").hexdigest()
    if not found.startswith(digits):
        raise RuntimeError(f"its hash is {found}, its name says {digits}; remove the file")
    if path.suffix == ".pkl":
        return pickled_arrays.read(path)
    return torch.load(path, map_location="cpu", weights_only=True)
