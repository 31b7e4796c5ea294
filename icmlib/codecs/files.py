"""Image files to .icm files and back: one of them, or all below a folder.

Photographs come upright, as their EXIF orientation says. Whatever is written is written whole or
not at all.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from icmlib.codecs.bitstream import Bitstream
from icmlib.codecs.folders import on_all_cores
from icmlib.io import IMAGE_SUFFIXES, InputError, UserError, read_image, written

SUFFIX = ".icm"
QUALITY = 95  # of decoded pictures that are written as JPEG or WebP

Pair = tuple[Path, Path]  # what is read, and what is made of it


def encode_file(codec, source: Path, target: Path) -> Bitstream:
    """An image file to a .icm file.

    Raises:
        FileNotFoundError: no such image.
        ValueError: no image, or one that the codec does not take; a target of another name.
        OSError: the target cannot be written.
    """
    check_suffix(target, {SUFFIX}, "a bitstream")
    image = read_image(source, upright=True)
    with _about(source):
        bitstream = codec.encode(image)
        data = bytes(bitstream)
    with whole(target) as half:
        half.write_bytes(data)
    return bitstream


def decode_file(codec, source: Path, target: Path) -> Bitstream:
    """A .icm file to an image file, whose format its suffix says; raises as `encode_file`."""
    check_suffix(target, IMAGE_SUFFIXES, "a picture")
    bitstream = read_bitstream(source)
    with _about(source):
        image = codec.decode(bitstream)  # (3, H, W)
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    format = Image.registered_extensions()[target.suffix.lower()]
    with whole(target) as half:
        Image.fromarray(pixels).save(half, format, quality=QUALITY)
    return bitstream


def read_bitstream(path: Path) -> Bitstream:
    """Raises FileNotFoundError: no such file; ValueError: damaged, or no bitstream."""
    if not path.exists():
        raise FileNotFoundError(f"bitstream {path} does not exist")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"bitstream {path} cannot be read ({error.strerror})") from error
    with _about(path):
        return Bitstream.from_bytes(data)


def pairs(source: Path, target: Path, suffixes: set[str], suffix: str) -> list[Pair]:
    """Every file below `source` with one of the suffixes, and its place below `target`.

    Raises:
        ValueError: there is none, two would be made into the same file, or `target` is a file.
    """
    if target.exists() and not target.is_dir():
        raise InputError(f"{source} is a folder and {target} is none; name another folder")
    files = sorted(f for f in source.rglob("*") if f.suffix.lower() in suffixes and f.is_file())
    if not files:
        raise InputError(f"folder {source} holds no {', '.join(sorted(suffixes))} file")
    sources: dict[Path, Path] = {}
    for file in files:
        made = target / file.relative_to(source).with_suffix(suffix)
        if made in sources:
            raise InputError(
                f"{sources[made]} and {file} would both become {made}; rename one of them"
            )
        sources[made] = file
    return [(file, made) for made, file in sources.items()]


def code_folder(
    code: Callable, codec, jobs: list[Pair], workers: int | None = None
) -> Iterator[tuple[Path, Bitstream | Exception]]:
    """`encode_file` or `decode_file` of each pair, on all cores; a file that cannot be read or
    coded comes with its error, and the others go on.

    Raises:
        OSError: a file cannot be written; the others could not be, either.
    """
    results = on_all_cores(codec, partial(_attempt, code, codec), jobs, workers)
    for (source, _), result in zip(jobs, results):
        if isinstance(result, OSError) and not isinstance(result, FileNotFoundError):
            raise result
        yield source, result


def _attempt(code: Callable, codec, job: Pair) -> Bitstream | Exception:
    try:
        return code(codec, *job)
    except (UserError, OSError) as error:
        return error


def check_suffix(path: Path, suffixes: set[str], what: str) -> None:
    """Raises ValueError, before anything is done."""
    if path.suffix.lower() not in suffixes:
        known = ", ".join(sorted(suffixes))
        raise InputError(f"cannot write {what} to {path}: its name has to end in {known}")


@contextlib.contextmanager
def whole(target: Path):
    """`icmlib.studies.runs.written`, with errors that name the target.

    Raises:
        OSError: it cannot be written.
    """
    try:
        with written(target) as half:
            yield half
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = os.strerror(errno.ENOSPC) if full else error.strerror or error
        raise OSError(f"{target} cannot be written ({reason})") from error


@contextlib.contextmanager
def _about(path: Path):
    """The codec's errors, with the name of the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
