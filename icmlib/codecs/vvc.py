"""VVC intra by VVenC, in the FFmpeg that imageio-ffmpeg brings; `anchor` makes every conventional
codec by name.

A build of the reference software VTM runs through CompressAI's `compressai.utils.bench.codecs.VTM`.
"""

import inspect
import re
import subprocess
from functools import lru_cache

import imageio_ffmpeg
import numpy as np

from icmlib.codecs import conventional
from icmlib.codecs.conventional import ConventionalCodec, NotMeasured, check_settings
from icmlib.io import InputError

SMALLEST = 64  # px a side, of what is coded
EXACT = "flags=lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"
TO_YUV = f"scale=out_color_matrix=bt709:out_range=full:{EXACT},format=yuv420p10le"
TO_RGB = f"scale=in_color_matrix=bt709:in_range=full:{EXACT},format=rgb24"


class VVC(ConventionalCodec):
    """VVC intra; BT.709 YCbCr of full range, 4:2:0, 10 bits; its file is the raw .266 stream.

    Quality is VVenC's QP, 0 (finest) to 63, without perceptual optimisation; presets are "faster",
    "fast", "medium", "slow", "slower". Parameter sets belong to the container. Raises NotMeasured:
    the FFmpeg at hand has no VVenC; when encoding, ValueError: FFmpeg takes no stream of more than
    8 bits per pixel, which a low QP can need.
    """

    def __init__(self, quality: int, preset: str = "medium", container: bool = True):
        check_settings("VVC", quality, 0, 63, "4:2:0")
        try:
            version = _version(imageio_ffmpeg.get_ffmpeg_exe())
        except (OSError, RuntimeError) as error:
            how = "Install imageio-ffmpeg's own wheel from PyPI, 0.8.1 or later, or name an ffmpeg"
            message = f"VVC is not measured: {error}. {how} with libvvenc in IMAGEIO_FFMPEG_EXE"
            raise NotMeasured(message) from error
        options = {"quality": quality, "preset": preset}
        super().__init__("VVC", options, container, chroma="4:2:0", version=version)

    def _write(self, pixels: np.ndarray) -> bytes:
        height, width = _coded_size(*pixels.shape[:2])
        room = ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0))
        picture = conventional.written_pixels(np.pad(pixels, room, "edge"), "PPM")
        try:
            return _encoded(picture, **self.options).stdout
        except RuntimeError as error:
            how = "if it takes more than 8 bits per pixel, take a higher QP"
            raise InputError(f"{self.label} cannot code the image; {how}: {error}") from error

    def _read(self, file: bytes, height: int, width: int) -> np.ndarray:
        command = ["-f", "vvc", "-i", "-", "-vf", TO_RGB, "-f", "image2pipe", "-c:v", "ppm", "-"]
        picture = _ffmpeg(command, file).stdout
        pixels = conventional.read_pixels(picture, "PPM", *_coded_size(height, width))
        return pixels[:height, :width]


def _coded_size(height: int, width: int) -> tuple[int, int]:
    """Last row and column are repeated: 4:2:0 needs even sides."""
    return max(height + height % 2, SMALLEST), max(width + width % 2, SMALLEST)


def _encoded(picture: bytes, quality: int, preset: str, log: str = "error"):
    options = f"-c:v libvvenc -threads 1 -preset {preset} -qp {quality} -qpa 0 -f vvc -"
    return _ffmpeg(["-f", "ppm_pipe", "-i", "-", "-vf", TO_YUV, *options.split()], picture, log)


@lru_cache
def _version(program: str) -> str:
    """VVenC states its version when it encodes. Raises RuntimeError: no encoder, or no decoder."""
    picture = conventional.written_pixels(np.zeros((SMALLEST, SMALLEST, 3), np.uint8), "PPM")
    coded = _encoded(picture, 63, "faster", log="info")
    _ffmpeg(["-f", "vvc", "-i", "-", "-f", "null", "-"], coded.stdout)
    said = coded.stderr.decode(errors="replace")
    return "VVenC " + "".join(re.findall(r"libvvenc version: (\S+)", said))


def _ffmpeg(options: list[str], data: bytes, log: str = "error") -> subprocess.CompletedProcess:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-v", log, *options]
    ended = subprocess.run(command, input=data, capture_output=True)
    if ended.returncode:
        said = ended.stderr.decode(errors="replace").strip()[-500:]
        raise RuntimeError(f"{command[0]} ended with {ended.returncode}: {said}")
    return ended


ANCHORS = {"JPEG": conventional.jpeg, "WebP": conventional.webp, "AVIF": conventional.avif}
ANCHORS |= {"HEVC": conventional.HEVC, "VVC": VVC}


def anchor(name: str, **options) -> ConventionalCodec:
    """`anchor("HEVC", quality=30, chroma="4:2:0")`; the options are those of `ANCHORS[name]`.
    Raises ValueError: an unknown name; NotMeasured: the codec cannot run here."""
    if name not in ANCHORS:
        raise InputError(f"unknown anchor {name!r}; known: {', '.join(ANCHORS)}")
    known = inspect.signature(ANCHORS[name]).parameters
    if unknown := ", ".join(options.keys() - known.keys()):
        raise InputError(f"{name} has no option {unknown}; known: {', '.join(known)}")
    return ANCHORS[name](**options)
