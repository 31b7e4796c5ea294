"""Published weights: fetched at first use into torch.hub's cache, and never unpickled.

Their file names end in the first digits of a hash: SHA-256 after a hyphen (`name-446d5c7f.pth`, as
torch.hub has it), MD5 after an underscore (`model_final_f10217.pkl`, as detectron2 has it).
"""

import hashlib
import pickle
import re
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import torch


class WeightsUnavailable(RuntimeError):
    """Pretrained weights are not on this machine; the message says why and what to put where."""


def hub_file(url: str) -> Path:
    """Where torch.hub keeps the file of an address (moved by the variable TORCH_HOME)."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def fetch(url: str, path: Path, what: str) -> None:
    """Download what is not there yet, checked against the hash in the file's name.

    Raises:
        WeightsUnavailable: no network, cut off, or another file than the name says.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    algorithm, digits = _hash(path)
    sha256 = digits if algorithm == "sha256" else None  # torch.hub checks no other
    try:
        torch.hub.download_url_to_file(url, str(path), sha256, progress=False)
    except (OSError, HTTPException, RuntimeError) as error:
        reason = f"the download failed ({error})"
        raise WeightsUnavailable(how_to_get(what, url, path, reason)) from error


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)


def read_state(url: str, what: str, read: Callable[[Path], dict] = _tensors) -> dict:
    """The state dict published at `url`, on the CPU; fetched where it is not there yet.

    Only tensors are read: a pickle that would run code is refused, whatever its hash.

    Args:
        what: whose weights they are, for messages.
        read: how to read the file, where torch did not save it; as safely.

    Raises:
        WeightsUnavailable: as `fetch`; or the file is broken, holds more than tensors, or is not
            the one that its name says.
    """
    path = hub_file(url)
    fetch(url, path, what)
    algorithm, digits = _hash(path)
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if not found.startswith(digits):
        stated = "SHA-256" if algorithm == "sha256" else "MD5"
        reason = f"the {stated} of {path} is {found}, its name says {digits}; remove the file"
        raise WeightsUnavailable(how_to_get(what, url, path, reason))
    try:
        return read(path)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        reason = f"{path} cannot be read ({error})"
        raise WeightsUnavailable(how_to_get(what, url, path, reason)) from error


def how_to_get(what: str, url: str, path: Path, reason: str) -> str:
    return (
        f"{what} weights are unavailable: {reason}. Get {url} where there is a network, and put "
        f"it at {path}"
    )


def _hash(path: Path) -> tuple[str, str]:
    """Its algorithm, and the digits in the file's name."""
    sign, digits = re.search(r"([-_])([0-9a-f]{6,})\.", path.name).groups()
    return ("sha256" if sign == "-" else "md5"), digits
