"""Codecs side by side on photographs: one row for each point, a codec at one rate, and curves."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from tqdm import tqdm

from icmlib import datasets, tasks
from icmlib.codecs import ANCHORS, SHIPPED, anchor
from icmlib.config import replace
from icmlib.datasets.annotations import first_few
from icmlib.evaluate import evaluate, load_vgg, summarize
from icmlib.io import InputError, fingerprint, imported, plain, write
from icmlib.studies import curves, figures
from icmlib.studies.profile import load_profile
from icmlib.studies.runs import load_task
from icmlib.studies.trained import load_decoders

QUALITIES = {  # from a tenth of a bit per pixel of a photograph upwards
    "JPEG": "3,5,10,20,40",
    "WebP": "0,5,15,30,50",
    "AVIF": "1,5,15,30,45",
    "HEVC": "0,5,15,25,40",
    "VVC": "51,47,42,37,32",
}
RATES = [SHIPPED.with_stem(SHIPPED.stem + rate) for rate in ("_low", "", "_high")]
DEFAULT = (*[f"{file}:human,machine" for file in RATES], "JPEG", "AVIF")
PANELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "vgg": "VGG distance"}
PANELS |= {"mask_AP": "mask AP", "box_AP": "box AP"}
KEYS = {"psnr": "psnr-rgb", "ssim": "ssim-rgb", "ms_ssim": "ms-ssim-rgb"}  # as CompressAI has them
KEYS |= {"bpp": "bpp", "vgg": "lpips-vgg", "mask_AP": "mask-ap", "box_AP": "box-ap"}
DELTAS = {"BD-rate (%)": ("psnr", "rate", 1), "BD-PSNR (dB)": ("psnr", "quality", 1)}
DELTAS |= {f"BD-rate of {ap} (%)": (ap, "rate", 1) for ap in ("mask_AP", "box_AP")}
TEXT = "curve point file_name sha256 fingerprint settings".split()  # columns without numbers
SHOWN = "curve point bpp psnr ssim ms_ssim_db vgg lpp2 lpp4 lpp8 prms mask_AP box_AP".split()


class Point(NamedTuple):
    """A codec at one rate; `fingerprint` is of all that decides bits and pictures."""

    curve: str
    point: str
    codec: object
    fingerprint: str | None  # None: its code is a user's


def evaluate_codecs(
    photos: Path, out: Path, codecs: tuple[str, ...], annotations: Path | None, task: str | None,
    against: str | None, beside: tuple[Path, ...], vgg_images: int | None, force: bool,
) -> pd.DataFrame:  # fmt: skip
    """`icm evaluate`; the shown columns of rate_distortion.csv. Raises as the functions below."""
    points = [point for text in codecs or DEFAULT for point in read_points(text)]
    others = [read_curve(path) for path in beside]
    table = measure_points(points, load_images(photos, annotations, task), out, vgg_images, force)
    write_curves(table, others, against, out)
    return table[[name for name in SHOWN if name in table]].dropna(axis=1, how="all")


def read_points(text: str) -> list[Point]:
    """`[curve=]codec[:which]`, see `icm evaluate --help`. Raises FileNotFoundError, ValueError: no
    such codec, or it cannot be made; NotMeasured: this anchor cannot run here."""
    given, _, rest = text.rpartition("=")
    name, _, which = rest.partition(":")
    if name in ANCHORS:
        qualities = (which or QUALITIES[name]).split(",")
        options = {} if name == "WebP" else {"container": False}  # learned codecs send none
        made = [anchor(name, quality=int(q) if q.isdecimal() else q, **options) for q in qualities]
        facts = [(f"q{q}", codec, fingerprint(codec.facts)) for q, codec in zip(qualities, made)]
        return [Point(given or name, *each) for each in facts]
    if name.endswith(".safetensors") or "/" in name:
        decoders = load_decoders(name)
        made = {to: decoders.turn(to) for to in (which.split(",") if which else decoders.names)}
        rate, curve = Path(name).stem, f"{given} {{}}".strip().format
        return [Point(curve(to), rate, codec, fingerprint(codec)) for to, codec in made.items()]
    if which:
        made = imported(rest, "codec")()
        made = made if isinstance(made, list) else [made]
        for own in made:
            if not (hasattr(own, "encode") and hasattr(own, "decode")):
                raise InputError(f"{rest} returns {type(own).__name__}, without encode and decode")
        return [Point(given or which, f"{which} {i}", own, None) for i, own in enumerate(made, 1)]
    known = f"an anchor ({', '.join(ANCHORS)}), a file of decoders, a run, or module:function"
    raise InputError(f"unknown codec {text!r}; need {known}")


def load_images(photos: Path, annotations: Path | None, task: str | None) -> tuple:
    """Data set and task network, if a profile `task` has one for it. Raises FileNotFoundError,
    ValueError: something is missing, cannot be read or does not fit."""
    if not photos.exists():
        raise FileNotFoundError(f"{photos} does not exist")
    if bool(annotations) != bool(task):
        raise InputError("--annotations and --task go together; give both or none")
    network = None
    if task:
        profile = load_profile(task)
        if profile.task is None:
            raise InputError(f"profile {task} has no task network; name another")
        files = {"images": str(photos.resolve()), "annotations": str(annotations.resolve())}
        config = replace(profile.data, {"name": "photographs", "splits": {"test": files}})
        data, known = datasets.create(config, "test"), profile.task.num_classes
        if len(data.categories) != known:
            what = f"{annotations} has {len(data.categories)} categories"
            raise InputError(f"{what}; the task network of profile {task} has {known}")
        network = tasks.create(profile.task) if profile.task.weights else load_task(profile)
    elif photos.is_dir():
        data = datasets.CocoDataset(photos)
    else:
        data = datasets.CocoDataset(photos.parent, files=[photos.name])
    if unfit := data.misfits():
        what = "cannot be read"
        if annotations:
            what = "are missing, cannot be read, or are not of the size that the annotations state"
        raise InputError(f"{photos}: {len(unfit)} images {what}: {first_few(unfit)}; remove them")
    return data, network


def measure_points(
    points: list[Point], images: tuple, out: Path, vgg_images: int | None, force: bool
) -> pd.DataFrame:
    """One row for each point that was measured in `out`, now or before: rate_distortion.csv, which
    grows point by point with per_image.csv. `images` is of `load_images`. Raises InputError: `out`
    has other results of these points, or results of other images."""
    (data, network), names = images, ("per_image.csv", "rate_distortion.csv")
    image_rows, rows = ([] if force else read_records(out / name) for name in names)
    files = [data.path(index) for index in range(len(data))]
    settings = fingerprint(*files, data.ground_truth["annotations"], network, vgg_images)
    if {row["settings"] for row in rows} - {settings}:
        what = f"{out} has results of other images, or by another task network or --vgg-images"
        raise InputError(f"{what}; name another --out, or measure all anew with --force")
    done = {(row["curve"], row["point"]): row["fingerprint"] for row in rows}  # to the end
    image_rows = [row for row in image_rows if (row["curve"], row["point"]) in done]
    new = {point[:2]: point for point in points if point[:2] not in done}
    for point in points:
        digits = point.fingerprint
        if digits is None:  # of a user's codec: what it makes of one image
            bitstream = point.codec.encode(data.image(0))
            x_hat = point.codec.decode(bitstream)
            digits = fingerprint(bitstream.total_bytes, {"x_hat": x_hat})
        if done.setdefault(point[:2], digits) != digits:
            what = f"{out}: {' '.join(point[:2])} is of two codecs, one of them measured before or"
            raise InputError(f"{what} given twice; name a curve (name=codec), or --force")
    vgg, source = load_vgg() if new and vgg_images != 0 else (None, "not taken")
    tqdm.write(f"VGG distance: {source}", file=sys.stderr)
    for k, (key, point) in enumerate(new.items(), 1):
        tqdm.write(f"{' '.join(key)} ({k} of {len(new)})", file=sys.stderr)
        found = evaluate(point.codec, network, data, vgg, vgg_images)
        facts = {"curve": key[0], "point": key[1]}
        image_rows += found.per_image.assign(**facts).to_dict("records")
        rows.append(facts | summarize(found) | {"fingerprint": done[key], "settings": settings})
        for name, records in zip(names, (image_rows, rows)):
            write(out / name, pd.DataFrame(records).to_csv(index=False))
    return pd.DataFrame(rows)


def read_records(path: Path) -> list[dict]:
    """Rows of a table; none if there is no such file."""
    if not path.exists():
        return []
    empty = {"na_values": "", "keep_default_na": False}  # a curve may be named "NA"
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), **empty).to_dict("records")


def write_curves(table: pd.DataFrame, others: list, against: str | None, out: Path) -> None:
    """Writes to `out` a JSON file for each curve of `table`, and bd.csv and a figure of these and
    of the curves `others`. Raises InputError: none of them is named `against`."""
    known = pd.concat([table, *others], ignore_index=True).dropna(axis=1, how="all")
    by_curve = known.groupby("curve", sort=False)
    counts = by_curve.size()  # of points
    main = [curve for curve in table["curve"].unique() if curve not in ANCHORS]
    grey = [curve for curve in counts.index if curve not in main]
    against = against or [*grey, *main][0]
    if against not in counts:
        raise InputError(f"unknown curve {against!r}; there are: {', '.join(sorted(counts.index))}")
    for curve, rows in table.groupby("curve"):
        rows = rows.sort_values("bpp").dropna(axis=1)
        results = {key: rows[name].tolist() for name, key in KEYS.items() if name in rows}
        facts = {"name": curve, "description": f"icmlib, {rows['images'].iloc[0]} images"}
        write(out / f"{curve}.json", json.dumps(plain(facts | {"results": results}), indent=1))
    measured = {curve: {m: rows[[m]].to_numpy() for m in rows} for curve, rows in by_curve}
    kinds = {what: kind for what, kind in DELTAS.items() if kind[0] in known}
    deltas = curves.deltas(measured, against, kinds).drop(columns=["low", "high"])
    deltas["points"], deltas["points_against"] = deltas["curve"].map(counts), counts[against]
    write(out / "bd.csv", deltas.to_csv(index=False))
    panels = {name: text for name, text in PANELS.items() if name in known}
    figure = figures.curves(known, "bpp", panels, main, grey)
    for kind in ("png", "pdf"):
        figures.save(figure, out / f"curves.{kind}")
    plt.close(figure)


def read_curve(path: Path) -> pd.DataFrame:
    """The points of a curve as CompressAI has them."""
    try:
        found = json.loads(path.read_text("utf-8"))
        results = found.get("results", found)
        columns = {name: results[key] for name, key in KEYS.items() if key in results}
        return pd.DataFrame(columns | {"bpp": results["bpp"], "curve": str(path)})
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} holds no results as CompressAI has them ({error!r})") from error
