"""Images to bitstreams and back: files and folders, on all cores.

Photographs come upright, as their EXIF orientation says. Files are written whole or not at all.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError

import icmlib as icm
from icmlib.codecs.bitstream import Bitstream
from icmlib.io import IMAGE_SUFFIXES, InputError, UserError, about, read_image, write, written

SUFFIX = ".icm"
QUALITY = 95  # of decoded pictures that are written as JPEG or WebP


def encode_file(codec, source: Path, target: Path) -> Bitstream:
    """An image file to a .icm file. Raises OSError: a file cannot be read or written; ValueError:
    the codec does not take the image, or another suffix."""
    check_suffix(target, {SUFFIX}, "a bitstream")
    image = read_image(source, upright=True)
    with about(source):
        bitstream = replace(codec.encode(image), grey=image.min(0)[0].equal(image.max(0)[0]))
    write(target, bytes(bitstream))
    return bitstream


def decode_file(codec, source: Path, target: Path) -> Bitstream:
    """A .icm file to an image file, whose format its suffix says; raises as `encode_file`."""
    check_suffix(target, IMAGE_SUFFIXES, "a picture")
    bitstream = read_bitstream(source)
    with about(source):
        image = codec.decode(bitstream)  # (3, H, W)
    picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
    picture = picture.convert("L") if bitstream.grey else picture
    format = Image.registered_extensions()[target.suffix.lower()]
    with written(target) as half, about(target, ValueError):  # WebP takes no more than 16,383 px
        picture.save(half, format, quality=QUALITY)
    return bitstream


def read_bitstream(path: Path) -> Bitstream:
    """Raises OSError: it cannot be read; ValueError: damaged, or no bitstream."""
    with about(path):
        return Bitstream.from_bytes(path.read_bytes())


def readers(weights: str | None) -> tuple[str, list[str]]:
    """The fingerprint of the codec of these weights, and the names of its decoders. A file states
    both in its header; of a run they are computed. Raises as `icmlib.load_decoders`."""
    with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError):  # says load_decoders
        stated = icm.io.read_header(weights or icm.codecs.SHIPPED)["fingerprints"]
        return stated["entropy"], [name for name in stated if name not in ("encoder", "entropy")]
    decoders = icm.load_decoders(weights)
    return decoders.codec.fingerprint, decoders.names


def check_suffix(path: Path, suffixes: set[str], what: str) -> None:
    """Raises ValueError, before anything is done."""
    if path.suffix.lower() not in suffixes:
        known = ", ".join(sorted(suffixes))
        raise InputError(f"cannot write {what} to {path}: its name has to end in {known}")


def pairs(source: Path, target: Path, suffixes: set[str], suffix: str) -> list[tuple]:
    """Every file below `source` with one of the suffixes, and its place below `target`. Raises
    ValueError: there is none, two would become the same file, or `target` is a file."""
    if target.exists() and not target.is_dir():
        raise InputError(f"{source} is a folder and {target} is none; name another folder")
    files = icm.io.files_below(source, suffixes)
    if not files:
        raise InputError(f"folder {source} holds no {', '.join(sorted(suffixes))} file")
    sources: dict[Path, Path] = {}
    for file in files:
        made = target / file.relative_to(source).with_suffix(suffix)
        if (other := sources.setdefault(made, file)) != file:
            raise InputError(f"{other} and {file} would both become {made}; rename one of them")
    return [(file, made) for made, file in sources.items()]


def code_folder(code: Callable, codec, jobs: list[tuple]) -> Iterator[Bitstream | Exception]:
    """What `encode_file` or `decode_file` returns for each pair, or the error of a file that cannot
    be coded. Raises OSError: a file cannot be written; the others could not be, either."""
    for result in icm.device.in_processes(partial(_attempt, code, codec), jobs):
        if isinstance(result, OSError) and not isinstance(result, FileNotFoundError):
            raise result
        yield result


def _attempt(code: Callable, codec, job: tuple) -> Bitstream | Exception:
    try:
        return code(codec, *job)
    except (UserError, OSError) as error:
        return error
