"""Published weights: fetched at first use into torch.hub's cache, and never unpickled.

Their file names end in the first digits of their SHA-256 (`name-446d5c7f.pth`), as torch.hub's do.
"""

import hashlib
import pickle
import re
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
    try:
        torch.hub.download_url_to_file(url, str(path), _hash(path), progress=False)
    except (OSError, HTTPException, RuntimeError) as error:
        reason = f"the download failed ({error})"
        raise WeightsUnavailable(how_to_get(what, url, path, reason)) from error


def read_state(url: str, what: str) -> dict[str, torch.Tensor]:
    """The state dict published at `url`, on the CPU; fetched where it is not there yet.

    Only tensors are read: a pickle that would run code is refused, whatever its hash.

    Args:
        what: whose weights they are, for messages.

    Raises:
        WeightsUnavailable: as `fetch`; or the file is broken, holds more than tensors, or is not
            the one that its name says.
    """
    path = hub_file(url)
    fetch(url, path, what)
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(_hash(path)):
        reason = f"the SHA-256 of {path} is {found}, its name says {_hash(path)}; remove the file"
        raise WeightsUnavailable(how_to_get(what, url, path, reason))
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        reason = f"{path} cannot be read ({error})"
        raise WeightsUnavailable(how_to_get(what, url, path, reason)) from error


def how_to_get(what: str, url: str, path: Path, reason: str) -> str:
    return (
        f"{what} weights are unavailable: {reason}. Get {url} where there is a network, and put "
        f"it at {path}"
    )


def _hash(path: Path) -> str:
    return re.search(r"-([0-9a-f]{8,})\.", path.name).group(1)
