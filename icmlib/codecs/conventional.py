"""Image file formats as codecs: JPEG, WebP, AVIF and PNG by Pillow, HEVC by x265, VVC by VVenC in
the FFmpeg that imageio-ffmpeg brings. `anchor` makes them by name.

Containers take 300 to 450 bytes of a HEIF or AVIF file, 170 of a JPEG file: at 128x128 px up to
0.2 bpp, as much as the picture at the lowest rates. Size and settings alone decide the container
(with HEVC's and VVC's parameter sets), so it need not be sent: the decoder takes it from a flat
picture that it codes itself, the template.
"""

import inspect
import io
import re
import subprocess
import zlib
from functools import lru_cache

import imageio_ffmpeg
import numpy as np
import PIL
import pillow_heif
import torch
from PIL import Image, features

from icmlib.codecs.bitstream import Bitstream, BitstreamError, check_image
from icmlib.io import InputError, UserError, fingerprint


class NotMeasured(UserError, RuntimeError):
    """This codec cannot run here."""


class ConventionalCodec:
    """A codec whose bitstream is a file of its own format, or what follows its container.
    `options` decide the bits; `facts` are for tables. Subclasses define `_write(pixels) -> file`
    and, where Pillow cannot, `_read(file, height, width) -> pixels`, (H, W, 3) uint8 RGB."""

    def __init__(self, format: str, options: dict, container: bool = True, **facts: str):
        self.format, self.options, self.container = format, options, container
        settings = options | ({} if container else {"container": False})
        self.fingerprint = fingerprint({"format": format, **settings})
        self.label = ", ".join([format, *(f"{name} {value}" for name, value in settings.items())])
        self.facts = {"format": format, "container": "counted" if container else "not counted"}
        self.facts |= {name: str(value) for name, value in options.items()} | facts

    def encode(self, image: torch.Tensor) -> Bitstream:
        """image (3, H, W) RGB in [0, 1] -> Bitstream; raises ValueError for anything else."""
        check_image(image)
        pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        file = body = self._write(pixels)
        if not self.container:
            body, template = file[_body_at(self.format, file) :], _template(self, *pixels.shape[:2])
            if _with_container(self.format, body, template) != file:
                raise InputError(f"{self.label}: unknown container; code with container=True")
        return Bitstream(self.fingerprint, *image.shape[-2:], zlib.crc32(file), (body,))

    def decode(self, bitstream: Bitstream) -> torch.Tensor:
        """The image (3, H, W); BitstreamError: of another codec or other settings, or damaged."""
        if bitstream.codec != self.fingerprint:
            own = f"{self.label} ({self.fingerprint})"
            raise BitstreamError(f"bitstream of codec {bitstream.codec} is not {own}")
        if len(bitstream.strings) != 1:
            raise BitstreamError(f"{self.label} has 1 string; found {len(bitstream.strings)}")
        (file,), size = bitstream.strings, (bitstream.height, bitstream.width)
        if not self.container:
            file = _with_container(self.format, file, _template(self, *size))
        if zlib.crc32(file) != bitstream.symbols_crc:
            what = f"payload of {len(file)} bytes is damaged (checksum differs): transfer it again"
            raise BitstreamError(f"{what}, or decode with the encoder's library versions")
        try:
            pixels = self._read(file, *size)
        except Exception as error:  # each library has errors of its own
            raise BitstreamError(f"{self.label} cannot read its payload: {error}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255

    def _read(self, file: bytes, height: int, width: int) -> np.ndarray:
        return read_pixels(file, "HEIF" if self.format == "HEVC" else self.format, height, width)


class PillowCodec(ConventionalCodec):
    """A format of Pillow with its options, e.g. `PillowCodec("JPEG", quality=50)`; PNG is lossless.
    `anchor` knows the options that make a fair one. Raises NotMeasured: Pillow lacks the format."""

    FEATURES = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif", "PNG": "zlib"}  # noqa: RUF012

    def __init__(self, format: str, container: bool = True, **options):
        feature = self.FEATURES.get(format)
        if not feature or not features.check(feature):
            what = f"{format} is not measured: Pillow {PIL.__version__} was built without it"
            raise NotMeasured(f"{what}; install Pillow's own wheel, 11.3 or later")
        chroma = options.get("subsampling", "RGB" if format == "PNG" else "4:2:0")  # by default
        version = f"Pillow {PIL.__version__}, library {features.version(feature)}"
        super().__init__(format, options, container, chroma=chroma, version=version)

    def _write(self, pixels: np.ndarray) -> bytes:
        return written_pixels(pixels, self.format, **self.options)


def written_pixels(pixels: np.ndarray, format: str, **options) -> bytes:
    """The file that Pillow makes of pixels (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def read_pixels(file: bytes, format: str, height: int, width: int) -> np.ndarray:
    """(H, W, 3); BitstreamError, before anything is decoded: the file is of another size."""
    image = Image.open(io.BytesIO(file), formats=[format])
    if image.size != (width, height):
        stated = f"{image.height}x{image.width} px; the bitstream states {height}x{width}"
        raise BitstreamError(f"the {format} file is {stated}")
    return np.array(image.convert("RGB"))


def jpeg(quality: int, chroma: str = "4:4:4", container: bool = True) -> PillowCodec:
    """Quality 1 to 100; Huffman tables made for each image."""
    return PillowCodec("JPEG", container, quality=quality, subsampling=chroma, optimize=True)


def webp(quality: int) -> PillowCodec:
    """Lossy WebP, quality 0 to 100, its slowest search; the format has 4:2:0 alone."""
    return PillowCodec("WEBP", quality=quality, method=6)


def avif(quality: int, chroma: str = "4:4:4", container: bool = True) -> PillowCodec:
    """AV1 intra by libaom, quality 0 to 100."""
    options = {"quality": quality, "subsampling": chroma, "speed": 4, "codec": "aom"}
    return PillowCodec("AVIF", container, **options, advanced={"tune": "psnr"}, max_threads=1)


class HEVC(ConventionalCodec):
    """HEVC intra: x265 in a HEIF file without tiles, by pillow-heif; BT.601 YCbCr of full range, 8
    bits, without psychovisual optimisation. Quality is 0 to 100; x265's constant rate factor is
    (100 - quality) / 2. Raises NotMeasured: pillow-heif was built with another encoder."""

    def __init__(self, quality: int, chroma: str = "4:4:4", container: bool = True):
        encoder = pillow_heif.libheif_info()["HEIF"]
        if "x265" not in encoder:
            what = f"HEVC is not measured: pillow-heif's encoder is {encoder!r}, not x265"
            raise NotMeasured(f"{what}; install pillow-heif's own wheel from PyPI")
        options = {"quality": quality, "chroma": chroma, "preset": "slow", "tune": "psnr"}
        rate = {"constant rate factor": f"{(100 - quality) / 2:g}"}
        version = f"pillow-heif {pillow_heif.__version__}, {encoder}"
        super().__init__("HEVC", options, container, **rate, version=version)

    def _write(self, pixels: np.ndarray) -> bytes:
        settings = {**self.options, "chroma": self.options["chroma"].replace(":", "")}
        encoder = {name: settings.pop(name) for name in ("preset", "tune")}
        return written_pixels(pixels, "HEIF", **settings, tile_size=0, enc_params=encoder)


SMALLEST = 64  # px a side, of what is coded
EXACT = "flags=lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"
TO_YUV = f"scale=out_color_matrix=bt709:out_range=full:{EXACT},format=yuv420p10le"
TO_RGB = f"scale=in_color_matrix=bt709:in_range=full:{EXACT},format=rgb24"


class VVC(ConventionalCodec):
    """VVC intra; BT.709 YCbCr of full range, 4:2:0, 10 bits; its file is the raw .266 stream.
    Quality is VVenC's QP, 0 (finest) to 63, without perceptual optimisation; presets are "faster"
    to "slower". Raises NotMeasured: the FFmpeg at hand has no VVenC; when encoding, ValueError:
    FFmpeg takes no stream of more than 8 bits per pixel, which a low QP can need."""

    def __init__(self, quality: int, preset: str = "medium", container: bool = True):
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
        picture = written_pixels(np.pad(pixels, room, "edge"), "PPM")
        try:
            return _encoded(picture, **self.options).stdout
        except RuntimeError as error:
            how = "if it takes more than 8 bits per pixel, take a higher QP"
            raise InputError(f"{self.label} cannot code the image; {how}: {error}") from error

    def _read(self, file: bytes, height: int, width: int) -> np.ndarray:
        command = ["-f", "vvc", "-i", "-", "-vf", TO_RGB, "-f", "image2pipe", "-c:v", "ppm", "-"]
        size = _coded_size(height, width)
        return read_pixels(_ffmpeg(command, file).stdout, "PPM", *size)[:height, :width]


def _coded_size(height: int, width: int) -> tuple[int, int]:
    """Last row and column are repeated: 4:2:0 needs even sides."""
    return max(height + height % 2, SMALLEST), max(width + width % 2, SMALLEST)


def _encoded(picture: bytes, quality: int, preset: str, log: str = "error"):
    options = f"-c:v libvvenc -threads 1 -preset {preset} -qp {quality} -qpa 0 -f vvc -"
    return _ffmpeg(["-f", "ppm_pipe", "-i", "-", "-vf", TO_YUV, *options.split()], picture, log)


@lru_cache
def _version(program: str) -> str:
    """VVenC states its version when it encodes. Raises RuntimeError: no encoder, or no decoder."""
    picture = written_pixels(np.zeros((SMALLEST, SMALLEST, 3), np.uint8), "PPM")
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


# made by `anchor`, which alone checks their options
ANCHORS = {"JPEG": jpeg, "WebP": webp, "AVIF": avif, "HEVC": HEVC, "VVC": VVC}
QUALITIES = dict.fromkeys(ANCHORS, (0, 100)) | {"JPEG": (1, 100), "VVC": (0, 63)}  # lowest, highest


def anchor(name: str, **options) -> ConventionalCodec:
    """`anchor("HEVC", quality=30, chroma="4:2:0")`; the options are those of `ANCHORS[name]`.
    Raises ValueError: an unknown name, option or value; NotMeasured: the codec cannot run here."""
    if name not in ANCHORS:
        raise InputError(f"unknown anchor {name!r}; known: {', '.join(ANCHORS)}")
    known = inspect.signature(ANCHORS[name]).parameters
    if unknown := ", ".join(options.keys() - known.keys()):
        raise InputError(f"{name} has no option {unknown}; known: {', '.join(known)}")
    (lowest, highest), quality = QUALITIES[name], options.get("quality")
    if not isinstance(quality, int) or not lowest <= quality <= highest:
        raise InputError(f"{name} quality is {quality!r}; need an integer, {lowest} to {highest}")
    if (chroma := options.get("chroma", "4:4:4")) not in ("4:4:4", "4:2:0"):
        raise InputError(f"{name} chroma is {chroma!r}; need one of 4:4:4, 4:2:0")
    return ANCHORS[name](**options)


@lru_cache(maxsize=64)
def _template(codec: ConventionalCodec, height: int, width: int) -> bytes:
    return codec._write(np.full((height, width, 3), 128, np.uint8))


def _body_at(format: str, file: bytes) -> int:
    """Where the picture's own bytes begin; 0 where that is not known (WebP, PNG)."""
    if format == "JPEG":
        return file.index(b"\xff\xc4")  # its Huffman tables are the picture's own
    if format == "VVC":  # after the picture parameter set, unit type 16
        return re.search(b"\0\0\1\0\x81.+?(?=\0{2,3}\1)", file, re.DOTALL).end()
    return file.index(b"mdat") + 4 if format in ("AVIF", "HEVC") else 0  # ISO/IEC 14496-12


def _with_container(format: str, body: bytes, template: bytes) -> bytes:
    """The whole file: the template's container with the lengths of this body."""
    head = bytearray(template[: _body_at(format, template)])
    if format in ("AVIF", "HEVC"):  # one item of one extent: its length ends the `iloc` box
        box = head.index(b"iloc") - 4
        end = box + int.from_bytes(head[box : box + 4], "big")
        head[end - 4 : end] = len(body).to_bytes(4, "big")
        head[-8:-4] = (len(body) + 8).to_bytes(4, "big")  # of the media data, with its own head
    return bytes(head) + body
