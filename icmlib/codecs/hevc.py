"""HEVC intra by x265."""

import io

import numpy as np

from icmlib.codecs.conventional import (
    ConventionalCodec,
    NotMeasured,
    check_settings,
    check_stated,
)


class HEVC(ConventionalCodec):
    """HEVC intra: x265 in a HEIF file, through pillow-heif; BT.601 YCbCr of full range, 8 bits.

    Args:
        quality: 0 to 100; x265's constant rate factor is (100 - quality) / 2.
        chroma: "4:4:4" or "4:2:0".
        preset, tune: x265's. Its tune for PSNR switches off what it does for the eye.
        container: see `ConventionalCodec`; without it, x265's parameter sets are not sent either.
    """

    def __init__(
        self,
        quality: int,
        chroma: str = "4:4:4",
        preset: str = "slow",
        tune: str = "psnr",
        container: bool = True,
    ):
        check_settings("HEVC", quality, 0, 100, chroma)
        options = {"quality": quality, "chroma": chroma, "preset": preset, "tune": tune}
        super().__init__("HEVC", options, container)
        self.version = _x265_version()

    @property
    def facts(self) -> dict[str, str]:
        crf = f"{(100 - self.options['quality']) / 2:g}"
        return super().facts | {"constant rate factor": crf, "version": self.version}

    def _write(self, pixels: np.ndarray) -> bytes:
        import pillow_heif

        height, width = pixels.shape[:2]
        buffer = io.BytesIO()
        pillow_heif.encode(
            "RGB",
            (width, height),
            pixels.tobytes(),
            buffer,
            quality=self.options["quality"],
            chroma=self.options["chroma"].replace(":", ""),
            enc_params={name: self.options[name] for name in ("preset", "tune")},
            tile_size=0,  # one picture, whatever its size
        )
        return buffer.getvalue()

    def _read(self, file: bytes, height: int, width: int) -> np.ndarray:
        import pillow_heif

        image = pillow_heif.open_heif(file)
        check_stated("HEVC", image.size, height, width)
        return np.array(image.to_pillow().convert("RGB"))


def _x265_version() -> str:
    try:
        import pillow_heif
    except ImportError as error:
        raise NotMeasured(
            f"HEVC is not measured: {error}; pip install pillow-heif, whose wheel brings x265"
        ) from error
    encoder = pillow_heif.libheif_info()["HEIF"]
    if "x265" not in encoder:
        raise NotMeasured(
            f"HEVC is not measured: pillow-heif's encoder is {encoder!r}, not x265; install "
            "pillow-heif's own wheel from PyPI"
        )
    return f"pillow-heif {pillow_heif.__version__}, {encoder}"
