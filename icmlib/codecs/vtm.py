"""VVC intra: the reference software VTM, called as CompressAI's wrapper calls it.

The wrapper (`compressai.utils.bench.codecs.VTM`) encodes, decodes and forgets the bits; here they
are kept. Its paths, its command lines and its colours (BT.709 YCbCr, 4:4:4, 8 bits) are used.
"""

import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from compressai.transforms.functional import rgb2ycbcr, ycbcr2rgb
from compressai.utils.bench.codecs import get_vtm_decoder_path, get_vtm_encoder_path

from icmlib.codecs.bitstream import BitstreamError
from icmlib.codecs.conventional import ConventionalCodec, NotMeasured, check_settings
from icmlib.io import fingerprint

HOW = (
    "build VTM (https://vcgit.hhi.fraunhofer.de/jvet/VVCSoftware_VTM) and name its folder: "
    'anchor("VVC", quality=37, build="VVCSoftware_VTM/bin")'
)


class VVC(ConventionalCodec):
    """VVC intra with a VTM build.

    Args:
        quality: VTM's QP, 0 (finest) to 63.
        build: folder with VTM's EncoderAppStatic and DecoderAppStatic.
        config: its configuration; by default cfg/encoder_intra_vtm.cfg beside `build`.
        timeout: seconds after which a run of VTM is given up.

    Raises NotMeasured where there is no build, no configuration, or a build that does not run.
    """

    def __init__(
        self,
        quality: int,
        build: str | Path | None = None,
        config: str | Path | None = None,
        timeout: float = 3600,
    ):
        check_settings("VVC", quality, 0, 63, "4:4:4")
        if build is None:
            raise NotMeasured(f"VVC is not measured: no VTM build is named; {HOW}")
        self.encoder = _existing(get_vtm_encoder_path(build))
        self.decoder = _existing(get_vtm_decoder_path(build))
        self.config = _existing(config or Path(build).parent / "cfg" / "encoder_intra_vtm.cfg")
        self.timeout = timeout
        self.version = self._version()
        options = {
            "quality": quality,
            "chroma": "4:4:4",
            "configuration": f"{self.config.name} ({fingerprint(self.config)[:8]})",
            "version": self.version,
        }
        super().__init__("VVC", options)

    @property
    def label(self) -> str:
        return f"VVC, QP {self.options['quality']}, chroma 4:4:4, {self.version}"

    def _write(self, pixels: np.ndarray) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            source, coded = Path(folder, "source.yuv"), Path(folder, "coded.bin")
            source.write_bytes(_to_planes(pixels).tobytes())
            ended = self._run(self._encode_command(source, coded, *pixels.shape[:2]))
            if ended.returncode or not coded.is_file():
                raise RuntimeError(
                    f"{self.encoder} ended with {ended.returncode} on an image of "
                    f"{pixels.shape[0]}x{pixels.shape[1]} px: {_last_words(ended)}"
                )
            return coded.read_bytes()

    def _read(self, file: bytes, height: int, width: int) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            coded, decoded = Path(folder, "coded.bin"), Path(folder, "decoded.yuv")
            coded.write_bytes(file)
            ended = self._run([self.decoder, "-b", coded, "-o", decoded, "-d", 8])
            made = decoded.stat().st_size if decoded.is_file() else 0
            if ended.returncode or made != 3 * height * width:
                raise BitstreamError(
                    f"{self.decoder} ended with {ended.returncode} and {made} bytes of picture; "
                    f"{height}x{width} px need {3 * height * width}: {_last_words(ended)}"
                )
            planes = np.fromfile(decoded, np.uint8)
        return _to_pixels(planes.reshape(3, height, width))

    def _encode_command(self, source: Path, coded: Path, height: int, width: int) -> list:
        return [
            *(self.encoder, "-i", source, "-c", self.config, "-q", self.options["quality"]),
            *("-o", "/dev/null", "-b", coded, "-wdt", width, "-hgt", height, "-fr", 1, "-f", 1),
            *("--InputChromaFormat=444", "--InputBitDepth=8", "--ConformanceWindowMode=1"),
        ]

    def _run(self, command: list) -> subprocess.CompletedProcess:
        command = [str(word) for word in command]
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=self.timeout
        )

    def _version(self) -> str:
        """VTM says its version first, whatever it is asked."""
        try:
            said = self._run([self.encoder, "--help"]).stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotMeasured(f"VVC is not measured: VTM does not run: {error}; {HOW}") from error
        found = re.search(r"VTM Encoder Version (\S+)", said)
        if not found:
            raise NotMeasured(
                f"VVC is not measured: {self.encoder} does not say that it is VTM; {HOW}"
            )
        return f"VTM {found[1]}"


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise NotMeasured(f"VVC is not measured: there is no {path}; {HOW}")
    return Path(path)


def _last_words(ended: subprocess.CompletedProcess) -> str:
    return ((ended.stderr or ended.stdout).strip().splitlines() or ["it said nothing"])[-1]


def _to_planes(pixels: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3) uint8 -> YCbCr (3, H, W) uint8, rounded (the wrapper cuts off)."""
    rgb = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return (rgb2ycbcr(rgb).clamp(0, 1) * 255).round().byte().numpy()


def _to_pixels(planes: np.ndarray) -> np.ndarray:
    """YCbCr (3, H, W) uint8 -> RGB (H, W, 3) uint8."""
    rgb = ycbcr2rgb(torch.from_numpy(planes).float() / 255).clamp(0, 1)
    return (rgb * 255).round().byte().permute(1, 2, 0).numpy()
