"""Study 2, rate against task: its runs, their points as tables and pictures, and the bridge to
study 1. The curves through the points, and what is found between them, are in curves.py."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from icmlib import codecs, datasets
from icmlib.codecs.conventional import ConventionalCodec
from icmlib.config import ChainConfig, CodecConfig, FinetuneConfig, replace
from icmlib.evaluate import Evaluation, load_evaluation
from icmlib.io import project_root
from icmlib.metrics import bd, bootstrap, detection
from icmlib.studies.curves import Curve, at_rate, interval
from icmlib.studies.profile import BRIDGE, Profile
from icmlib.studies.runs import read_summary, run_folder
from icmlib.studies.verdicts import FINDING, finding, with_interval

MEASURES = ("box_AP", "psnr")  # of the curves that carry intervals
DESCRIBED = {
    frozenset({"task"}): "task network",
    frozenset({"encoder", "decoder", "entropy"}): "codec",
    frozenset({"encoder", "decoder", "entropy", "task"}): "codec and task network",
}


# --- runs --------------------------------------------------------------------------------------


def chain(profile: Profile, point: str, configuration: str) -> ChainConfig:
    """Settings of one finetuning of study 2; raises ValueError for names the profile lacks."""
    study = profile.rate_task
    for what, name, known in (
        ("point", point, study.points),
        ("configuration", configuration, study.configurations),
    ):
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; the profile has: {', '.join(known)}")
    changes = {"beta": study.points[point].beta, **study.configurations[configuration]}
    return replace(study.chain, changes)


def bridge_config(profile: Profile, point: str, row: str) -> FinetuneConfig:
    """Settings of the bridge or of a control; raises ValueError for what the profile lacks."""
    study = profile.rate_task
    if (point, row) not in study.bridges():
        known = ", ".join("-".join(each) for each in study.bridges()) or "none"
        raise ValueError(f"no bridge {row!r} at {point!r}; the profile has: {known}")
    return replace(study.bridge, study.bridge_rows.get(row, {}))


def anchor_codecs(profile: Profile, name: str) -> dict[str, ConventionalCodec]:
    """An anchor at each of the profile's qualities, by name; raises NotMeasured where it cannot
    run here."""
    options = profile.rate_task.anchors[name]
    return {
        f"q{quality}": codecs.anchor(name, **options | {"quality": quality})
        for quality in options["quality"]
    }


def label(configuration: str, parts: list[str]) -> str:
    """`C-FT (codec)`: a configuration and what it trains."""
    return f"{configuration} ({DESCRIBED.get(frozenset(parts), ' + '.join(parts))})"


def codec_config(profile: Profile, point: str) -> CodecConfig:
    """The codec's architecture at a point: the profile's, or that of CompressAI's quality."""
    study = profile.rate_task
    quality = study.points[point].quality
    return codecs.zoo_config(study.codec, quality) if quality else study.codec


# --- points ------------------------------------------------------------------------------------


def runs(profile: Profile) -> dict[str, dict[str, tuple[Path, str]]]:
    """Where each point of each curve was measured: curve -> point -> run folder and name of the
    evaluation. Anchors that were not measured are left out."""
    study = profile.rate_task
    found = {"baseline": {p: (run_folder(profile, "mse_codec", p), "test") for p in study.points}}
    for name in study.configurations:
        found[name] = {
            point: (run_folder(profile, "chain", f"{point}-{name}"), "test")
            for point in study.points_of(name)
        }
    for name in study.anchors:
        measured = read_summary(profile, "anchor", name)["points"]
        found[name] = {point: (run_folder(profile, "anchor", name), point) for point in measured}
    return {name: points for name, points in found.items() if points}


def read_points(profile: Profile) -> pd.DataFrame:
    """A row for each point of each curve on test: everything that was measured."""
    rows = []
    for curve, points in runs(profile).items():
        for point, (folder, name) in points.items():
            stage, run = folder.parent.name, folder.name
            rows.append({"curve": curve, "point": point} | read_summary(profile, stage, run)[name])
    return pd.DataFrame(rows)


def resampled_curves(profile: Profile) -> dict[str, Curve]:
    """Every curve with a bootstrap over the test images: the same resamples for all of them."""
    truth = datasets.create(profile.data, "test").ground_truth
    rng = np.random.default_rng(0)
    counts = bootstrap.whole_and_resamples(len(truth["images"]), profile.evaluation.resamples, rng)
    return {
        name: _resampled([load_evaluation(*each, truth) for each in points.values()], counts)
        for name, points in tqdm(runs(profile).items(), "curves")
    }


def _resampled(evaluations: list[Evaluation], counts: np.ndarray) -> Curve:
    rates, measures = [], {name: [] for name in MEASURES}
    for evaluation in evaluations:
        matches = evaluation.matches["box"]  # their images are sorted, the data set's need not be
        table = evaluation.per_image.set_index("image_id").loc[list(matches.image_ids)]
        pixels = counts @ table["pixels"].to_numpy(float)
        rates.append(counts @ (8.0 * table["payload_bytes"].to_numpy()) / pixels)
        measures["box_AP"].append(detection.average_precision(matches, counts)["AP"])
        measures["psnr"].append(counts @ table["psnr"].to_numpy() / counts.sum(1))
    return Curve(np.stack(rates), {name: np.stack(each) for name, each in measures.items()})


def with_intervals(points: pd.DataFrame, curves: dict[str, Curve]) -> pd.DataFrame:
    """The points with `<measure>_low` and `<measure>_high`, 95 % over the resamples."""
    points = points.copy()
    for name, curve in curves.items():
        for measure, values in curve.measures.items():
            bounds = np.quantile(values[:, 1:], (0.025, 0.975), axis=1)
            for end, bound in zip(("low", "high"), bounds):
                points.loc[points["curve"] == name, f"{measure}_{end}"] = bound
    return points


def equal_rate(curves: dict[str, Curve], rate: float) -> pd.DataFrame:
    """What each curve gives at one rate (bpp), beside the paper's figures near 0.1 bpp.

    Curves of fewer than four points are left out: what lies between their points is another guess.
    """
    paper = pd.read_csv(project_root() / "data" / "chamain2020_table.csv", index_col=0)
    rows = {}
    for name, curve in curves.items():
        if len(curve.rates) < bd.MIN_POINTS:
            continue
        ap, psnr = (at_rate(curve, measure, rate) for measure in MEASURES)
        if np.isfinite(ap[0]):
            ap, psnr = interval(ap, 100), interval(psnr)
            rows[name] = {"bpp": rate, "box_mAP": ap["value"], "psnr": psnr["value"]}
            rows[name] |= {f"box_mAP_{end}": ap[end] for end in ("low", "high")}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("configuration")
    return table.join(paper, rsuffix="_paper")


def kinds(profile: Profile) -> dict[str, str]:
    """How each curve is drawn: see `icmlib.studies.figures.rate_curves`."""
    study = profile.rate_task
    drawn = {name: "variant" for name in study.configurations}
    drawn = {"baseline": "main", **drawn, **{name: "anchor" for name in study.anchors}}
    return drawn | {name: "main" for name in ("T-FT", "C-FT", "J-FT") if name in drawn}


# --- the bridge --------------------------------------------------------------------------------


def bridge(profile: Profile, point: str, measured: dict) -> dict:
    """What a finetuned decoder gives back of the PSNR that C-FT took, and what the machine pays.

    Args:
        measured: the finetuned codec's summary on test, with its paired differences from C-FT.

    Returns:
        `psnr_baseline`: the MSE codec's at the same rate, interpolated (at the same point, where
        the rate is outside its range); `psnr_before`: C-FT's; `back`: share of the loss between
        them that is back (nan where nothing was lost), and `box_AP_change` in % of C-FT's, both
        with `_low` and `_high`.
    """
    start = read_summary(profile, "chain", f"{point}-C-FT")["test"]
    points = [read_summary(profile, "mse_codec", p)["test"] for p in profile.rate_task.points]
    rates, psnr = (np.array([[p[name]] for p in points]) for name in ("bpp", "psnr"))
    (best,) = at_rate(Curve(rates, {"psnr": psnr}), "psnr", measured["bpp"])
    if np.isnan(best):
        best = read_summary(profile, "mse_codec", point)["test"]["psnr"]
    scale = 100 / start["box_AP"] if start["box_AP"] else float("nan")
    lost = float(best - start["psnr"])
    found = {"psnr_baseline": float(best), "psnr_before": start["psnr"]}
    for end in ("", "_low", "_high"):
        gained = measured[f"psnr_difference{end}"]
        found[f"back{end}"] = gained / lost if lost > 0 else float("nan")
        found[f"box_AP_change{end}"] = scale * measured[f"box_AP_difference{end}"]
    return found


def read_bridges(profile: Profile) -> pd.DataFrame:
    """A row for each finetuning of a C-FT codec's decoder, controls too: before, and after."""
    rows = []
    for point, name in profile.rate_task.bridges():
        before = read_summary(profile, "chain", f"{point}-C-FT")["test"]
        after = read_summary(profile, "bridge", f"{point}-{name}")["test"]
        row = {"point": point, "row": name, "bpp": after["bpp"]}
        for measure in ("psnr", "box_AP", "ssim", "lpp2", "lpp4", "lpp8", "prms"):
            row |= {f"{measure}_before": before[measure], f"{measure}_after": after[measure]}
        rows.append(row | bridge(profile, point, after))
    return pd.DataFrame(rows)


def bridge_findings(table: pd.DataFrame, back: float, change: float) -> pd.DataFrame:
    """Whether the bridges reach their aims, as `verdicts.finding` has it.

    Args:
        table: of `read_bridges`.
        back: the least share of the lost PSNR that is to be back, in %.
        change: the least change of box mAP, in %.
    """
    rows = []
    for row in table.to_dict("records"):
        name = f"bridge {row['point']}-{row['row']}"
        text = f"{name}: at least {back:g} % of the lost PSNR back"
        rows.append(finding(text, "% of the loss", with_interval(row, "back", 100), at_least=back))
        text = f"{name}: box mAP at most {-change:g} % down"
        rows.append(finding(text, "% of mAP", with_interval(row, "box_AP_change"), at_least=change))
    return pd.DataFrame(rows, columns=FINDING)


# --- pictures ----------------------------------------------------------------------------------


def pictures(profile: Profile, points: pd.DataFrame, x: torch.Tensor) -> tuple[dict, dict]:
    """An image by every codec at about the rate of the first bridge, and a caption for each: rate,
    box mAP and PSNR of the whole split.

    Args:
        points: of `read_points`.
        x: the image (3, H, W).
    """
    bridge_point = profile.rate_task.bridge_at[0]
    rate = points.query("curve == 'C-FT' and point == @bridge_point")["bpp"].item()
    images, captions = {"original": x}, {}
    for curve in ("baseline", "T-FT", "C-FT", "J-FT"):
        rows = points[points["curve"] == curve]
        if len(rows):
            row = rows.loc[np.log(rows["bpp"] / rate).abs().idxmin()]
            folder, _ = runs(profile)[curve][row["point"]]
            images[curve] = _decoded(profile, row["point"], folder, x)
            captions[curve] = _caption(row)
    name = "C-FT, finetuned"
    run = f"{bridge_point}-{BRIDGE}"
    folder = run_folder(profile, "bridge", run)
    images[name] = _decoded(profile, bridge_point, folder, x)
    captions[name] = _caption(read_summary(profile, "bridge", run)["test"])
    return images, captions


def _decoded(profile: Profile, point: str, folder: Path, x: torch.Tensor) -> torch.Tensor:
    codec = codecs.load(codec_config(profile, point), folder / "final.safetensors")
    return codec.decode(codec.encode(x))


def _caption(row) -> str:
    return f"{row['bpp']:.2f} bpp, mAP {row['box_AP']:.3f}\n{row['psnr']:.1f} dB"
