"""Files: whole or not at all, fingerprints, weights as safetensors, images.

PyTorch is imported where it is used: `icm info` does without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pkgutil
import struct
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic_core import to_json
from safetensors import safe_open

if TYPE_CHECKING:
    from torch import Tensor, nn

# what comes with icmlib lies here as in the project: in a wheel, or in the clone itself
PACKAGED = Path(__file__).with_name("packaged")
PACKAGED = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[1]


class UserError(Exception):
    """An error that a user can mend, and whose message says how; `icm` prints it as one line."""


class InputError(UserError, ValueError):
    """What was given cannot be used: a file, a setting, a name."""


def project_root() -> Path:
    """Where data and results are: `ICM_ROOT`, or the folder that holds `notebooks/profiles`, from
    here upwards; this folder, where there is none."""
    if "ICM_ROOT" in os.environ:
        return Path(os.environ["ICM_ROOT"])
    here = Path.cwd()
    return next((f for f in (here, *here.parents) if (f / "notebooks/profiles").is_dir()), here)


def project_file(name: str | Path) -> Path:
    """A file or folder of the project by its path there; what the project does not have, but comes
    with icmlib, is taken from it (profiles, weights, the papers' tables)."""
    own, packaged = project_root() / name, PACKAGED / name
    return packaged if packaged.exists() and not own.exists() else own


def imported(name: str, what: str) -> Callable:
    """The function (or class) that `module:attribute` names, for code outside of the library; the
    working directory and the project's root are searched after installed modules. Raises
    ValueError: there is none, or its module fails; `what` it is for begins the message."""
    folders = [os.getcwd(), str(project_root())]
    sys.path += [folder for folder in folders if folder not in sys.path]
    try:
        found = pkgutil.resolve_name(name)
        if ":" not in name or not callable(found):
            raise ValueError("it does not name a function as module:function")
        return found
    except Exception as error:  # the module may raise anything
        why = f"{type(error).__name__}: {error}"
        where = f"its module has to be installed or in {' or '.join(dict.fromkeys(folders))}"
        raise InputError(f"{what} {name!r} cannot be imported ({why}); {where}") from error


def fingerprint(*things) -> str:
    """Sixteen hex digits that change with any module, state dict, file or plain value."""
    digest = hashlib.sha256()
    for i, thing in enumerate(things):
        digest.update(b"\0" if i else b"")  # (1, 2) is not (12,)
        if hasattr(thing, "state_dict"):
            thing = thing.state_dict()
        if isinstance(thing, Path):
            digest.update(thing.read_bytes())
        elif isinstance(thing, dict) and any(hasattr(each, "detach") for each in thing.values()):
            for name in sorted(thing):
                digest.update(name.encode())
                digest.update(thing[name].detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(json.dumps(plain(thing), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def plain(thing):
    """Dataclasses, paths and numpy scalars as JSON has them; what is not finite is null."""
    return json.loads(to_json(thing, inf_nan_mode="null", fallback=lambda scalar: scalar.item()))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'steps'?)`, or nothing where no known name is near."""
    near = get_close_matches(name, known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` only when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}.half")
    try:
        yield half
        half.replace(path)
    except BaseException as error:  # Ctrl-C, too
        half.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # of a full disk Python does not say on what
        raise


@contextlib.contextmanager
def about(name: str | Path, kind: type[Exception] = InputError) -> Iterator[None]:
    """Errors of this kind, inside or of a function so decorated, become InputErrors that begin with
    the file's name."""
    try:
        yield
    except kind as error:
        raise InputError(f"{name}: {error}") from error


def write(path: Path, content: str | bytes) -> None:
    """A file, whole or not at all; text is UTF-8."""
    with written(path) as half:
        half.write_bytes(content.encode() if isinstance(content, str) else content)


def read_json(path: Path) -> dict:
    """What the file holds; an empty dict if it is missing or broken."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return json.loads(path.read_text("utf-8"))
    return {}


def read_header(path: str | Path) -> dict:
    """What the header of a safetensors file of ours states. Raises OSError, SafetensorError."""
    with safe_open(path, framework="numpy") as file:
        return {name: json.loads(text) for name, text in (file.metadata() or {}).items()}


def save_weights(path: str | Path, module: nn.Module) -> None:
    """A module's weights as safetensors."""
    from safetensors.torch import save

    tensors = {name: value.contiguous() for name, value in module.state_dict().items()}
    write(Path(path), save(tensors))


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Weights from safetensors (half precision is widened); buffers take their size from the file.
    Raises FileNotFoundError; ValueError: broken file, or weights of another architecture."""
    from safetensors.torch import load_file

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"weights {path} do not exist; run the notebook that makes them")
    try:
        state = load_file(path)
    except Exception as error:
        raise InputError(f"weights {path} are not a whole safetensors file ({error})") from error
    load_state(module, state, path)


def load_state(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Weights that were read from `path`; as `load_weights`."""
    if all(name.startswith("module.") for name in state):  # of nn.DataParallel
        state = {name.removeprefix("module."): value for name, value in state.items()}
    for name, buffer in module.named_buffers():
        if name in state:  # of an entropy coder's tables it depends on the training
            buffer.resize_(state[name].shape)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()  # there is one for each tensor
        what = f"weights {path} are of another architecture than {type(module).__name__}"
        how = "set the profile's architecture to the one they were trained with"
        raise InputError(f"{what} ({why:.200}); {how}") from error


IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}  # read and written
READABLE = IMAGE_SUFFIXES | {".gif", ".avif", ".heic", ".heif"}
pillow_heif.register_heif_opener()

UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError)  # to Pillow
UNREADABLE += (struct.error, TypeError, ValueError)  # malformed EXIF data


def read_image(path: str | Path, upright: bool = False, file: BinaryIO | None = None) -> Tensor:
    """(3, H, W) RGB float in [0, 1]; grey-scale, palette and 16-bit images are converted, what is
    transparent is put on white, and of an animation the first picture is taken. With `upright` it
    is turned as its EXIF orientation says; with `file`, which is read, the path only names it.
    Raises FileNotFoundError; ValueError: not readable, or of pixels whose range is not known."""
    import torch

    try:
        with Image.open(file or path) as image:
            if ";16" in str(image.tile):  # Pillow's name of what it reads
                warnings.warn(f"{path}: of 16 bits the upper 8 are used", stacklevel=2)
            pixels = _pixels(path, ImageOps.exif_transpose(image) if upright else image)
    except FileNotFoundError:
        hint = "; its name holds a backslash, write /" if "\\" in str(path) else ""
        raise FileNotFoundError(f"image {path} does not exist{hint}") from None
    except UNREADABLE as error:
        why = str(error).partition(" <_io.")[0]  # no addresses in memory
        raise InputError(f"image {path} cannot be read ({why}); replace it or remove it") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _pixels(path: str | Path, image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8. Of 16 bits the upper 8 count, as Pillow reads 16-bit colour; its own
    conversion of 16-bit grey makes everything above 255 white."""
    if image.mode in ("I", "F"):
        raise UnidentifiedImageError(f"32-bit pixels, mode {image.mode}, have no known range")
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.stack([grey] * 3, -1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            warnings.warn(f"{path}: what is transparent is put on white", stacklevel=3)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def files_below(folder: Path, suffixes: Iterable[str] = READABLE) -> list[Path]:
    """All files below a folder that end in one of the suffixes, in order of their paths. Hidden
    ones are passed over, links are followed; a warning counts the others."""
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {folder} does not exist")
    files, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        shown = [name for name in folders if not name.startswith(".")]
        folders[:] = [n for n in shown if os.path.realpath(os.path.join(place, n)) not in seen]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    files = sorted(file for file in files if file.is_file())
    others = [file for file in files if file.suffix.lower() not in suffixes]
    if others:
        few = ", ".join(str(file.relative_to(folder)) for file in others[:3])
        few += ", ..." * (len(others) > 3) + f" (read are {', '.join(sorted(suffixes))})"
        warnings.warn(f"{len(others):,} files below {folder} are skipped: {few}", stacklevel=2)
    return [file for file in files if file.suffix.lower() in suffixes]
