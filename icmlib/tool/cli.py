"""The command line `icm`: pictures to bits and back; notebooks, their report, what they cost.

icm encode photo.png photo.icm
icm decode photo.icm out.png --decoder machine
icm run notebooks/03_patchgan_finetuning.ipynb out.ipynb profile=quick row=p3x64
"""

import json
import os
import sys
import tempfile
import time
import types
import warnings
from pathlib import Path

import click
from tqdm import tqdm

import icmlib as icm  # loads nothing but what is used: PyTorch is slow to import
from icmlib import tool

PATH = click.Path(path_type=Path)
WEIGHTS = click.option(
    "--weights",
    help="A file of decoders, or a run of notebooks 02 or 03: its folder, or its name below "
    "results (quick/finetune/p3x64).  [default: the codec for photographs that comes with icmlib]",
)
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "PMI_", "MPI_LOCAL", "OMPI_COMM_", "MV2_COMM_")
# CompressAI imports them (torch_geometric, pandas, SymPy) for 1.4 s; these commands use none of it.
# With --weights, a profile may name code that does
LIGHT = ("encode", "decode", "compare")
UNUSED = ("compressai.datasets", "compressai.transforms", "compressai.registry.transforms")
SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}
FORCE = click.option("--force", is_flag=True, help="Write files anew that already exist.")


class Commands(click.Group):
    """Errors that a user can mend are one line, exit code 2; all others keep their traceback. Names
    of files, and what is printed, are UTF-8 in any locale."""

    def __call__(self, *args, **kwargs):
        if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
            # of other processes, too; Python 3.11 reads its .pth files as the locale says
            os.environ |= {"PYTHONUTF8": "1", "LC_ALL": "C.UTF-8"}
            os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
        own = any(word.startswith("--weights") for word in sys.argv)
        for name in UNUSED if sys.argv[1:2] and sys.argv[1] in LIGHT and not own else ():
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__dict__.update(TRANSFORMS={}, register_transform=None)
        return super().__call__(*args, **kwargs)

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except click.exceptions.Exit:  # before io is loaded, which the next line does
            raise
        except (icm.io.UserError, OSError) as error:
            click.echo(f"error: {error}", err=True)
            context.exit(2)


@click.group(cls=Commands, context_settings=SETTINGS)
@click.version_option(package_name="icmlib")
def main() -> None:
    """Image coding for machines, and for the people who look at the same bits."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # left by other programs, not by a launcher
        for name in [name for name in os.environ if name.startswith(RANKS)]:
            del os.environ[name]


@main.command()
@click.argument("source", metavar="IMAGE|FOLDER", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
@WEIGHTS
@FORCE
def encode(source: Path, target: Path, weights: str, force: bool) -> None:
    """Images to .icm files.

    One image, or all below a folder to files below another folder. Photographs are turned upright,
    as their EXIF orientation says. 16 bits become 8, and what is transparent is put on white, with
    a warning. Grey images are decoded to grey files. In a folder, images that already have a .icm
    file are skipped; unreadable images are named at the end (exit code 1).
    """
    kinds = (icm.io.READABLE, tool.files.SUFFIX)
    codec = icm.load_decoders(weights).codec
    _code(tool.files.encode_file, codec, source, target, kinds, force)


@main.command()
@click.argument("source", metavar="FILE|FOLDER", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
@click.option(
    "--decoder",
    default="human",
    help="For whom: human, machine, a number from 0 (machine) to 1 (human) between them, or "
    "another name that the weights have (icm info), such as both.",
)
@WEIGHTS
@FORCE
def decode(source: Path, target: Path, decoder: str, weights: str, force: bool) -> None:
    """Pictures of .icm files.

    One file, in the format of the suffix (.png, .jpg, .webp, .bmp, .tif), or all below a folder to
    PNG files below another folder; those that are there already are skipped.
    """
    kinds = ({tool.files.SUFFIX}, ".png")
    codec = icm.load_decoders(weights).turn(decoder)
    _code(tool.files.decode_file, codec, source, target, kinds, force)


def _code(code, codec, source: Path, target: Path, kinds: tuple, force: bool) -> None:
    """`code` one file, or a folder of files with the first of `kinds` to files of the second."""
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    if not source.is_dir():
        if target.exists() and not force:
            raise icm.io.InputError(f"{target} exists; --force writes it anew")
        click.echo(f"{target}: {_rate([code(codec, source, target)])}")
        return
    jobs = tool.files.pairs(source, target, *kinds)
    left = [each for each in jobs if force or not each[1].exists()]
    results = tool.files.code_folder(code, codec, left)
    results = list(tqdm(results, total=len(left), unit="file", disable=not left))
    errors = [each for each in results if isinstance(each, Exception)]
    done = [each for each in results if not isinstance(each, Exception)]
    click.echo(f"{target}: {_rate(done)}")
    if len(left) < len(jobs):
        there = f"{len(jobs) - len(left)} were there already"
        click.echo(f"{there} and stay, whatever made them; --force makes them anew")
    for error in errors:
        click.echo(f"error: {error}", err=True)
    sys.exit(bool(errors))


def _rate(bitstreams: list) -> str:
    size = sum(each.total_bytes for each in bitstreams)
    pixels = sum(each.width * each.height for each in bitstreams)
    what = f"{len(bitstreams)} images"
    if len(bitstreams) == 1:
        what = f"{bitstreams[0].width}x{bitstreams[0].height} px"
    return f"{what}, {size:,} bytes" + (f", {8 * size / pixels:.3f} bpp" if pixels else "")


@main.command()
@click.argument("file", metavar="FILE", type=PATH)
@WEIGHTS
def info(file: Path, weights: str) -> None:
    """Show what a .icm file holds, and which decoders of these weights read it."""
    bitstream = tool.files.read_bitstream(file)
    pixels = bitstream.width * bitstream.height
    click.echo(f"image     {bitstream.width}x{bitstream.height} px{', grey' * bitstream.grey}")
    for name, size in (("file", bitstream.total_bytes), ("payload", bitstream.payload_bytes)):
        click.echo(f"{name:9s} {size:,} bytes, {8 * size / pixels:.3f} bpp")
    strings = " + ".join(f"{len(string):,}" for string in bitstream.strings)
    click.echo(f"strings   {len(bitstream.strings)} of {strings} bytes")
    click.echo(f"codec     {bitstream.codec}")
    own, decoders = tool.files.readers(weights)
    reads = "read it" if own == bitstream.codec else f"do not read it: they are of codec {own}"
    click.echo(f"weights   {weights or 'those of icmlib'} {reads}")
    if own == bitstream.codec:
        click.echo(f"decoders  {', '.join(decoders)}")


@main.command()
@click.argument("photo", metavar="IMAGE", type=PATH)
@click.option(
    "--out",
    type=PATH,
    default="compare.png",
    help="The picture (.png, .jpg, .pdf, .svg); the table lies beside it as .csv.",
)
@WEIGHTS
@FORCE
def compare(photo: Path, out: Path, weights: str, force: bool) -> None:
    """Every decoder of one bitstream, side by side.

    Writes a picture, enlarged where decoders differ most, and a table of rate, fidelity and
    pattern. Two rows show the machine's decoder followed by a filter: Gaussian and
    bilateral (sigma 0.5 px). bpp is of the payload, bpp_total of the whole file. For the original,
    both are of a PNG file. lpp2, lpp4 and lpp8 say how far a pattern of 2, 4 or 8 px stands out
    (dB; originals have about 0), prms how strong it is (grey levels of 255), excess_prms how much
    of it the original has not.
    """
    if there := [each for each in (out, out.with_suffix(".csv")) if each.exists() and not force]:
        raise icm.io.InputError(f"{there[0]} exists; --force writes it anew, --out names another")
    table = tool.photograph.try_decoders(photo, out, icm.load_decoders(weights))
    click.echo(table.round(3).to_string())
    click.echo(f"{out}, {out.with_suffix('.csv')}")


@main.command()
@click.argument("photos", metavar="PHOTOS", type=PATH)
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    help="A codec, several times; see above.  [default: the three for photographs, JPEG and AVIF]",
)
@click.option("--out", type=PATH, required=True, help="Folder of tables and figures.")
@click.option("--annotations", type=PATH, help="Instances JSON of the photos, for AP.")
@click.option("--task", metavar="PROFILE", help="Profile whose task network detects, for AP.")
@click.option("--against", help="Curve to compare with in bd.csv.  [default: the first anchor]")
@click.option("--beside", multiple=True, type=PATH, help="A curve of others, CompressAI's JSON.")
@click.option(
    "--vgg-images", type=click.IntRange(0), help="VGG distance, which is slow, of so many images."
)
@click.option("--force", is_flag=True, help="Forget what is in the folder, and measure all anew.")
def evaluate(photos: Path, out: Path, **options) -> None:
    """Rate and distortion of codecs side by side, on an image or all below a folder.

    \b
    --codec JPEG                        an anchor (JPEG, WebP, AVIF, HEVC, VVC)
    --codec JPEG:5,10,20                at these qualities
    --codec low.safetensors             decoders of a file, or of a run as for --weights
    --codec low.safetensors:human,0.5   some of them
    --codec module:function             your own; the function returns a codec, or a list of them

    Points of one decoder, from several files, make one curve, named after it: give a file for each
    rate. `mine=CODEC` makes it curve `mine` (of decoders, `mine human`). A codec of your own has
    encode(x) -> an object with payload_bytes and total_bytes, and decode(object) -> x_hat; images
    are (3, H, W) in [0, 1], of any size.

    Writes rate_distortion.csv, per_image.csv, curves.png and .pdf, bd.csv, and <curve>.json for
    CompressAI's plots. Points that the folder has already are not measured again. Rates in bpp are
    of the payload, without headers and without the anchors' containers (but with WebP's). JPEG,
    AVIF and HEVC keep all chroma (4:4:4), WebP and VVC half of it (4:2:0). A BD figure needs three
    points of both curves.
    """
    table = tool.rate_distortion.evaluate_codecs(photos, out, **options)
    click.echo(table.to_string(index=False, float_format="{:.4g}".format))
    click.echo(f"{out}: rate_distortion.csv, bd.csv, curves.png, ...")


@main.command()
@click.argument("notebook", type=PATH)
@click.argument("executed", type=PATH)
@click.argument("parameters", nargs=-1, metavar="[NAME=VALUE]...")
def run(notebook: Path, executed: Path, parameters: tuple[str, ...]) -> None:
    """Execute one notebook.

    Its parameters are checked against those that the notebook has.
    """
    if int(os.environ.get("RANK", 0)):  # of several processes, the first one's copy is kept
        executed = Path(tempfile.mkdtemp()) / executed.name
    start = time.perf_counter()
    values = tool.notebooks.read_parameters(notebook, parameters)
    what = " ".join([notebook.stem, *(f"{name}={value}" for name, value in values.items())])
    click.echo(f"{what}: started")
    tool.notebooks.run_notebook(notebook, executed, values)
    click.echo(f"{what}: done in {(time.perf_counter() - start) / 60:.1f} min")


@main.command()
@click.argument("profile", default="quick")
@click.option("--study", default="main", help="main, all, finetuning, ...")
@click.option("--cores", type=click.IntRange(min=1), help="[default: those there are]")
@click.option("--target", "targets", multiple=True, help="A file to make, instead of the report.")
def reproduce(profile: str, study: str, cores: int, targets: tuple[str, ...]) -> None:
    """Run all notebooks of a study that are missing, and write their report."""
    sys.exit(tool.reproduce.reproduce(profile, study, cores or icm.device.cores(), targets))


@main.command()
@click.argument("html", type=PATH)
@click.argument("executed", nargs=-1, required=True, type=PATH)
@click.option("--profile", help="Adds a first page: question, Table 1, findings, contents.")
def report(html: Path, executed: tuple[Path, ...], profile: str) -> None:
    """Bind executed notebooks into one HTML page."""
    click.echo(tool.report.build_report(html, executed, profile))


@main.command()
@click.argument("profile", default="quick")
def publish(profile: str) -> None:
    """Tables and pictures of a profile's runs to results/reference, and results/README.md."""
    for path in tool.report.publish(icm.load_profile(profile)):
        click.echo(path)


@main.command()
@click.argument("root", type=PATH)
@click.argument("split", type=click.Choice(["train", "validation", "test"]))
@click.option("--images", type=PATH, metavar="LIST", help="Only these: CSV, or one id per line.")
def openimages(root: Path, split: str, images: Path) -> None:
    """Masks of Open Images to COCO instances.

    ROOT is the folder of the official files; see data/README.md.
    """
    click.echo(json.dumps(tool.openimages.convert(root, split, images), indent=2))


@main.command()
@click.argument("profile")
@click.option("--size", default=554, help="Height and width in px.")
@click.option("--batch", type=click.IntRange(1), default=1, help="Per step.")
@click.option("--tflops", default=15.0, help="That a GPU sustains.")
def cost(profile: str, **settings: float) -> None:
    """Hours of a profile, from measured steps."""
    click.echo(icm.bench.cost(icm.load_profile(profile), **settings).round(3).to_string())


if __name__ == "__main__":
    main(prog_name="icm")
