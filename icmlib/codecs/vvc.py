"""VVC intra by the reference software VTM; `anchor` makes every conventional codec by name.

Command lines and colours (BT.709 YCbCr, 4:4:4, 8 bits) are those of CompressAI's wrapper
(`compressai.utils.bench.codecs.VTM`), which does not keep the bits.
"""

import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from compressai.transforms.functional import rgb2ycbcr, ycbcr2rgb
from compressai.utils.bench.codecs import get_vtm_decoder_path, get_vtm_encoder_path

from icmlib.codecs import conventional
from icmlib.codecs.conventional import ConventionalCodec, NotMeasured, check_settings
from icmlib.io import InputError, fingerprint

HOW = (
    "build VTM (https://vcgit.hhi.fraunhofer.de/jvet/VVCSoftware_VTM) and name its folder: "
    'anchor("VVC", quality=37, build="VVCSoftware_VTM/bin")'
)


class VVC(ConventionalCodec):
    """VVC intra; `quality` is VTM's QP, 0 (finest) to 63, `build` the folder with EncoderAppStatic
    and DecoderAppStatic, `config` by default cfg/encoder_intra_vtm.cfg beside it.

    Raises NotMeasured: no build, no configuration, or a build that does not run.
    """

    def __init__(
        self, quality: int, build: str | Path | None = None, config: str | Path | None = None
    ):
        check_settings("VVC", quality, 0, 63, "4:4:4")
        if build is None:
            raise NotMeasured(f"VVC is not measured: no VTM build is named; {HOW}")
        self.encoder = Path(get_vtm_encoder_path(build))
        self.decoder = Path(get_vtm_decoder_path(build))
        self.config = Path(config or Path(build).parent / "cfg" / "encoder_intra_vtm.cfg")
        for path in (self.encoder, self.decoder, self.config):
            if not path.is_file():
                raise NotMeasured(f"VVC is not measured: there is no {path}; {HOW}")
        options = {
            "quality": quality,
            "chroma": "4:4:4",
            "configuration": f"{self.config.name} ({fingerprint(self.config)[:8]})",
            "version": self._version(),
        }
        super().__init__("VVC", options)

    def _version(self) -> str:
        """VTM states its version first, whatever it is asked."""
        reason = "is not VTM"
        try:
            said = subprocess.run([self.encoder, "--help"], capture_output=True).stdout
            if found := re.search(rb"VTM Encoder Version (\S+)", said):
                return f"VTM {found[1].decode()}"
        except OSError as error:
            reason = f"does not run: {error}"
        raise NotMeasured(f"VVC is not measured: {self.encoder} {reason}; {HOW}")

    def _write(self, pixels: np.ndarray) -> bytes:
        height, width = pixels.shape[:2]
        rgb = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        planes = (rgb2ycbcr(rgb).clamp(0, 1) * 255).round().byte()  # (3, H, W)
        with tempfile.TemporaryDirectory() as folder:
            source, coded = Path(folder, "source.yuv"), Path(folder, "coded.bin")
            source.write_bytes(planes.numpy().tobytes())
            self._run(
                *(self.encoder, "-i", source, "-c", self.config, "-q", self.options["quality"]),
                *("-o", "/dev/null", "-b", coded, "-wdt", width, "-hgt", height, "-fr", 1, "-f", 1),
                *("--InputChromaFormat=444", "--InputBitDepth=8", "--ConformanceWindowMode=1"),
            )
            return coded.read_bytes()

    def _read(self, file: bytes, height: int, width: int) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            coded, decoded = Path(folder, "coded.bin"), Path(folder, "decoded.yuv")
            coded.write_bytes(file)
            self._run(self.decoder, "-b", coded, "-o", decoded, "-d", 8)
            count = 3 * height * width
            planes = np.fromfile(decoded, np.uint8, count + 1)  # a larger file is not read whole
        rgb = ycbcr2rgb(torch.from_numpy(planes.reshape(3, height, width)).float() / 255)
        return (rgb.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()

    def _run(self, *command) -> None:
        ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if ended.returncode:
            said = (ended.stderr or ended.stdout).strip()[-200:]
            raise RuntimeError(f"{command[0]} ended with {ended.returncode}: {said}")


ANCHORS = {"JPEG": conventional.jpeg, "WebP": conventional.webp, "AVIF": conventional.avif}
ANCHORS |= {"HEVC": conventional.HEVC, "VVC": VVC}


def anchor(name: str, **options) -> ConventionalCodec:
    """`anchor("HEVC", quality=30, chroma="4:2:0")`; the options are those of `ANCHORS[name]`.
    Raises ValueError: an unknown name; NotMeasured: the codec cannot run here."""
    if name not in ANCHORS:
        raise InputError(f"unknown anchor {name!r}; known: {', '.join(ANCHORS)}")
    return ANCHORS[name](**options)
