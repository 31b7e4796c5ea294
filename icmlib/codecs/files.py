"""Images to bitstreams and back: files, folders and data sets, on all cores.

Photographs come upright, as their EXIF orientation says. Files are written whole or not at all.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader

from icmlib.codecs.bitstream import Bitstream
from icmlib.io import IMAGE_SUFFIXES, InputError, UserError, files_below, read_image, written

SUFFIX = ".icm"
QUALITY = 95  # of decoded pictures that are written as JPEG or WebP

Pair = tuple[Path, Path]  # a file to read, a file to write


def encode_file(codec, source: Path, target: Path) -> Bitstream:
    """An image file to a .icm file. Raises FileNotFoundError: no such image; ValueError: the codec
    does not take it, or another suffix; OSError: the target cannot be written."""
    check_suffix(target, {SUFFIX}, "a bitstream")
    image = read_image(source, upright=True)
    with _about(source):
        bitstream = codec.encode(image)
    with whole(target) as half:
        half.write_bytes(bytes(bitstream))
    return bitstream


def decode_file(codec, source: Path, target: Path) -> Bitstream:
    """A .icm file to an image file, whose format its suffix says; raises as `encode_file`."""
    check_suffix(target, IMAGE_SUFFIXES, "a picture")
    bitstream = read_bitstream(source)
    with _about(source):
        image = codec.decode(bitstream)  # (3, H, W)
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    format = Image.registered_extensions()[target.suffix.lower()]
    with whole(target) as half, _about(target, ValueError):  # WebP takes no more than 16,383 px
        Image.fromarray(pixels).save(half, format, quality=QUALITY)
    return bitstream


def read_bitstream(path: Path) -> Bitstream:
    """Raises FileNotFoundError: no such file; ValueError: damaged, or no bitstream."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"bitstream {path} does not exist") from None
    except OSError as error:
        raise InputError(f"bitstream {path} cannot be read ({error.strerror})") from error
    with _about(path):
        return Bitstream.from_bytes(data)


def check_suffix(path: Path, suffixes: set[str], what: str) -> None:
    """Raises ValueError, before anything is done."""
    if path.suffix.lower() not in suffixes:
        known = ", ".join(sorted(suffixes))
        raise InputError(f"cannot write {what} to {path}: its name has to end in {known}")


@contextlib.contextmanager
def whole(target: Path) -> Iterator[Path]:
    """As `icmlib.io.written`; raises OSError, which names the target."""
    try:
        with written(target) as half:
            yield half
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OSError(f"{target} cannot be written ({reason})") from error


@contextlib.contextmanager
def _about(path: Path, kind: type[Exception] = InputError) -> Iterator[None]:
    """Errors of this kind, with the name of the file."""
    try:
        yield
    except kind as error:
        raise InputError(f"{path}: {error}") from error


# --- many at once ------------------------------------------------------------------------


def pairs(source: Path, target: Path, suffixes: set[str], suffix: str) -> list[Pair]:
    """Every file below `source` with one of the suffixes, and its place below `target`.

    Raises ValueError: there is none, two would become the same file, or `target` is a file.
    """
    if target.exists() and not target.is_dir():
        raise InputError(f"{source} is a folder and {target} is none; name another folder")
    files = files_below(source, suffixes)
    if not files:
        raise InputError(f"folder {source} holds no {', '.join(sorted(suffixes))} file")
    sources: dict[Path, Path] = {}
    for file in files:
        made = target / file.relative_to(source).with_suffix(suffix)
        if (other := sources.setdefault(made, file)) != file:
            raise InputError(f"{other} and {file} would both become {made}; rename one of them")
    return [(file, made) for made, file in sources.items()]


def code_folder(code: Callable, codec, jobs: list[Pair]) -> Iterator[Bitstream | Exception]:
    """What `encode_file` or `decode_file` returns for each pair, or the error of a file that cannot
    be coded. Raises OSError: a file cannot be written; the others could not be, either."""
    for result in on_all_cores(partial(_attempt, code), codec, jobs):
        if isinstance(result, OSError) and not isinstance(result, FileNotFoundError):
            raise result
        yield result


def on_all_cores(
    function: Callable, codec, items: Sequence, workers: int | None = None
) -> Iterator:
    """`function(codec, item)` of each item, in order.

    `workers` are processes, by default as many as PyTorch has threads; 0: none but this one.
    Raises ValueError: the codec is on a GPU, which processes cannot share.
    """
    device = getattr(codec, "device", torch.device("cpu"))
    if device.type != "cpu":
        raise InputError(f"codec is on {device}; move it to the CPU to code on all cores")
    workers = min(torch.get_num_threads() if workers is None else workers, len(items))
    call = partial(function, codec)
    return iter(DataLoader(items, batch_size=None, num_workers=workers, collate_fn=call))


def _attempt(code: Callable, codec, job: Pair) -> Bitstream | Exception:
    try:
        return code(codec, *job)
    except (UserError, OSError) as error:
        return error
