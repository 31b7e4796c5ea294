"""Conventional anchors by name, each with the settings of a fair comparison."""

from icmlib.codecs.conventional import HEVC, ConventionalCodec, PillowCodec, check_settings
from icmlib.codecs.vvc import VVC


def jpeg(quality: int, chroma: str = "4:4:4", container: bool = True) -> PillowCodec:
    """Quality 1 to 100; Huffman tables made for each image."""
    check_settings("JPEG", quality, 1, 100, chroma)
    options = {"quality": quality, "subsampling": chroma, "optimize": True}
    return PillowCodec("JPEG", container, **options)


def webp(quality: int) -> PillowCodec:
    """Lossy WebP, quality 0 to 100, its slowest search; the format has 4:2:0 alone."""
    check_settings("WebP", quality, 0, 100, "4:2:0")
    return PillowCodec("WEBP", quality=quality, method=6)


def avif(
    quality: int,
    chroma: str = "4:4:4",
    speed: int = 4,
    tune: str = "psnr",
    container: bool = True,
) -> PillowCodec:
    """AV1 intra by libaom, quality 0 to 100; speed 0 (slowest) to 10; tune "psnr", "ssim", "iq"."""
    check_settings("AVIF", quality, 0, 100, chroma)
    options = {"quality": quality, "subsampling": chroma, "speed": speed, "codec": "aom"}
    return PillowCodec("AVIF", container, **options, advanced={"tune": tune}, max_threads=1)


ANCHORS = {"JPEG": jpeg, "WebP": webp, "AVIF": avif, "HEVC": HEVC, "VVC": VVC}


def anchor(name: str, **options) -> ConventionalCodec:
    """`anchor("HEVC", quality=30, chroma="4:2:0")`; the options are those of `ANCHORS[name]`.

    Raises ValueError for an unknown name, NotMeasured where the codec cannot run here.
    """
    if name not in ANCHORS:
        raise ValueError(f"unknown anchor {name!r}; known: {', '.join(ANCHORS)}")
    return ANCHORS[name](**options)
