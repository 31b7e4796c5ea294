"""Study 2, rate against task: its runs, their points as tables and pictures, and the bridge to
study 1. The curves through the points, and what is found between them, are in curves.py."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from icmlib import codecs, datasets
from icmlib.config import ChainConfig, CodecConfig, FinetuneConfig, replace
from icmlib.evaluate import Evaluation, load_evaluation
from icmlib.metrics import bootstrap, detection
from icmlib.studies.curves import Curve, at_rate
from icmlib.studies.profile import BRIDGE, Profile, lookup
from icmlib.studies.runs import load_codec, read_summary
from icmlib.studies.verdicts import FINDING, finding, with_interval


def chain(profile: Profile, point: str, configuration: str) -> ChainConfig:
    """Settings of one finetuning of study 2; raises ValueError for names the profile lacks."""
    study = profile.rate_task
    beta = lookup("point", point, study.points).beta
    changes = lookup("configuration", configuration, study.configurations)
    return replace(study.chain, {"beta": beta, **changes})


def bridge_config(profile: Profile, point: str, row: str) -> FinetuneConfig:
    """Settings of the bridge or of a control; raises ValueError for what the profile lacks."""
    study = profile.rate_task
    changes = {"-".join(each): study.bridge_rows.get(each[1], {}) for each in study.bridges()}
    return replace(study.bridge, lookup("bridge", f"{point}-{row}", changes))


def codec_config(profile: Profile, point: str) -> CodecConfig:
    """The codec's architecture at a point: the profile's, or that of CompressAI's quality."""
    study = profile.rate_task
    quality = study.points[point].quality
    return codecs.zoo_config(study.codec, quality) if quality else study.codec


def runs(profile: Profile) -> Iterator[tuple[str, str, tuple[str, str], str]]:
    """Each measured point of each curve: curve, point, (stage, name) of its run, evaluation."""
    study = profile.rate_task
    for point in study.points:
        yield "baseline", point, ("mse_codec", point), "test"
    for name in study.configurations:
        for point in study.points_of(name):
            yield name, point, ("chain", f"{point}-{name}"), "test"
    for name in study.anchors:
        for point in read_summary(profile, "anchor", name)["points"]:
            yield name, point, ("anchor", name), point


def read_points(profile: Profile) -> pd.DataFrame:
    """One row for each point of each curve on test: everything that was measured."""
    return pd.DataFrame([
        {"curve": curve, "point": point} | read_summary(profile, *run)[evaluation]
        for curve, point, run, evaluation in runs(profile)
    ])  # fmt: skip


def resampled_curves(
    profile: Profile, points: Iterable[tuple[str, Path, str]], kind: str = "box"
) -> dict[str, Curve]:
    """By name of the curve, its points (folder and name of an evaluation) in their order, with a
    bootstrap over the test images: the same resamples for all."""
    images = len(datasets.create(profile.data, "test"))
    rng = np.random.default_rng(0)
    counts = bootstrap.whole_and_resamples(images, profile.evaluation.resamples, rng)
    curves: dict[str, list[Curve]] = {}
    for curve, folder, name in tqdm(points, "points"):
        point = resampled(load_evaluation(folder, name), counts, kind)
        curves.setdefault(curve, []).append(point)
    return {
        curve: {name: np.stack([each[name] for each in found]) for name in found[0]}
        for curve, found in curves.items()
    }


def resampled(evaluation: Evaluation, counts: np.ndarray, kind: str = "box") -> Curve:
    """A point of a curve: `bpp`, `<kind>_AP`, `psnr`, (1 + R,), by counts of images (1 + R, I)."""
    matches = evaluation.matches[kind]  # their images are sorted, the data set's need not be
    table = evaluation.per_image.set_index("image_id").loc[list(matches.image_ids)]
    bits, pixels = counts @ (8.0 * table["payload_bytes"]), counts @ table["pixels"].to_numpy(float)
    ap = detection.average_precision(matches, counts)["AP"]
    psnr = counts @ table["psnr"].to_numpy() / counts.sum(1)
    return {"bpp": bits / pixels, f"{kind}_AP": ap, "psnr": psnr}


def bridge(profile: Profile, point: str, row: str, after: dict) -> dict:
    """What a finetuned decoder gives back of the PSNR that C-FT took, and what the machine pays, by
    its summary on test with the paired differences from C-FT.

    Measures `<name>_before` and `<name>_after`; `psnr_baseline`: the MSE codec's at the same rate,
    interpolated (outside its range, that of the same point); `back`: share of the loss between it
    and C-FT (nan where nothing was lost) and `box_AP_change` (%), both with `_low` and `_high`.
    """
    before = read_summary(profile, "chain", f"{point}-C-FT")["test"]
    found = {"point": point, "row": row, "bpp": after["bpp"]}
    for measure in ("psnr", "box_AP", "ssim", "lpp2", "lpp4", "lpp8", "prms"):
        found |= {f"{measure}_before": before[measure], f"{measure}_after": after[measure]}
    names = profile.rate_task.points
    points = pd.DataFrame({n: read_summary(profile, "mse_codec", n)["test"] for n in names}).T
    curve = {name: points[[name]].to_numpy(float) for name in ("bpp", "psnr")}
    (best,) = at_rate(curve, "psnr", after["bpp"])
    best = points.loc[point, "psnr"] if np.isnan(best) else best
    lost = best - before["psnr"]
    found["psnr_baseline"] = float(best)
    for end in ("", "_low", "_high"):
        found[f"back{end}"] = after[f"psnr_difference{end}"] / lost if lost > 0 else np.nan
        change = 100 * after[f"box_AP_difference{end}"]
        found[f"box_AP_change{end}"] = change / before["box_AP"] if before["box_AP"] else np.nan
    return found


def bridge_findings(table: pd.DataFrame, back: float, change: float) -> pd.DataFrame:
    """On rows of `bridge`: `back` % or more of the lost PSNR is back; box mAP changes by `change` %
    or more."""
    rows = []
    for row in table.to_dict("records"):
        name = f"bridge {row['point']}-{row['row']}"
        text = f"{name}: at least {back:g} % of the lost PSNR back"
        rows.append(finding(text, "% of the loss", with_interval(row, "back", 100), at_least=back))
        text = f"{name}: box mAP at most {-change:g} % down"
        rows.append(finding(text, "% of mAP", with_interval(row, "box_AP_change"), at_least=change))
    return pd.DataFrame(rows, columns=FINDING)


def pictures(profile: Profile, points: pd.DataFrame, x: torch.Tensor) -> tuple[dict, dict]:
    """An image (3, H, W) by every codec at about the rate of the first bridge, and captions: rate,
    box mAP and PSNR of the whole split."""
    at = profile.rate_task.bridge_at[0]
    (rate,) = points.query("curve == 'C-FT' and point == @at")["bpp"]
    nearest = np.log(points["bpp"] / rate).abs().groupby(points["curve"]).idxmin()
    made = {(curve, point): run for curve, point, run, _ in runs(profile)}
    shown, bridge = {}, ("bridge", f"{at}-{BRIDGE}")
    for curve in (name for name in ("baseline", "T-FT", "C-FT", "J-FT") if name in nearest):
        row = points.loc[nearest[curve]]
        shown[curve] = (row["point"], made[curve, row["point"]], row)
    shown["C-FT, finetuned"] = (at, bridge, read_summary(profile, *bridge)["test"])
    images, captions = {"original": x}, {}
    for name, (point, run, row) in shown.items():
        codec = load_codec(profile, *run, codec_config(profile, point))
        images[name] = codec.decode(codec.encode(x))
        captions[name] = f"{row['bpp']:.2f} bpp, mAP {row['box_AP']:.3f}\n{row['psnr']:.1f} dB"
    return images, captions
