"""Measure a codec: encode, decode and detect once per image, then one row of a table."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from icmlib import device, losses
from icmlib.codecs import Bitstream, LearnedCodec
from icmlib.datasets import has_masks
from icmlib.downloads import WeightsUnavailable
from icmlib.io import InputError, about, write, written
from icmlib.metrics import bootstrap, checkerboard, detection, fidelity
from icmlib.tasks import TaskNetwork

BATCH = 10  # images of one size that are measured together
FIDELITY = ("psnr", "ssim", "ms_ssim", "vgg", "feature")


@dataclass
class Evaluation:
    """What was measured on a data set."""

    per_image: pd.DataFrame  # one row per image: rate, fidelity, hash of the bitstream
    spectra: dict[str, np.ndarray]  # decoded and original (images, 6, K): checkerboard.at_lattice
    pooled: dict[str, np.ndarray]  # decoded and original, (N, N): mean over images and R, G, B
    matches: dict[str, detection.Matches]  # of `mask` and `box`; none without a machine


@device.exact()
def evaluate(
    codec,
    task: TaskNetwork | None,
    dataset,
    vgg: fidelity.VGGDistance | None = None,
    vgg_images: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Code and measure every image of a `CocoDataset`, on this process's GPU if it has one.
    `codec` is anything with `encode(image) -> Bitstream` (or what has `payload_bytes` and
    `total_bytes`) and `decode(bitstream) -> image`. Without a task network there are no detections
    and no feature distance. VGG-16 is slow: the distance is taken of the first `vgg_images` images
    (by default of all), whole batches. Raises InputError: a decoded image has another shape."""
    where = device.current()
    for network in (codec, task, vgg):
        if hasattr(network, "to"):  # conventional codecs are no networks
            network.to(where)
    images, sizes = dataset.ground_truth["images"], dataset.sizes()
    errors_of = [about(image["file_name"]) for image in images]  # they begin with the name
    tile = min(each(checkerboard.tile_size)([size]) for each, size in zip(errors_of, sizes))
    tables, detections = [], []
    spectra, pooled = {"decoded": [], "original": []}, {"decoded": 0.0, "original": 0.0}
    for indices in _batches(sizes, progress):
        x = torch.stack([dataset.image(i) for i in indices])
        rows = [images[i] for i in indices]
        coded = [errors_of[i](codec.encode)(image) for i, image in zip(indices, x)]
        # ours are read from their bytes
        sent = [Bitstream.from_bytes(bytes(b)) if isinstance(b, Bitstream) else b for b in coded]
        decoded = [errors_of[i](codec.decode)(each) for i, each in zip(indices, sent)]
        if wrong := [each.shape for each in decoded if each.shape != x.shape[1:]]:
            raise InputError(f"decode returns {(*wrong[0],)}; the image is {(*x.shape[1:],)}")
        x_hat = fidelity.to_8bit(torch.stack(decoded).cpu().float().clamp(0, 1))
        table = _table(rows, coded, x.to(where), x_hat.to(where))
        if vgg and (vgg_images is None or indices[0] < vgg_images):
            table["vgg"] = vgg(x.to(where), x_hat.to(where)).tolist()
        if task is not None:
            features, features_hat = task.features(x), task.features(x_hat)
            table["feature"] = fidelity.feature_distance(features, features_hat).tolist()
            for row, prediction in zip(rows, task.predict(x_hat, features_hat)):
                detections += detection.to_coco_results(row["id"], prediction, dataset.category_ids)
        for name, batch in (("decoded", x_hat), ("original", x)):
            for image in batch:
                power = checkerboard.image_spectrum(image, tile)
                spectra[name].append(checkerboard.at_lattice(power))
                pooled[name] += power[:3].mean(0) / len(images)
        tables.append(pd.DataFrame(table))
    spectra = {name: np.stack(each) for name, each in spectra.items()}
    matches = matched(dataset.ground_truth, detections) if task is not None else {}
    return Evaluation(pd.concat(tables, ignore_index=True), spectra, pooled, matches)


def matched(ground_truth: dict, detections: list[dict]) -> dict[str, detection.Matches]:
    """COCO results matched to the annotations, if any: `mask` (where both have masks) and `box`."""
    if not ground_truth["annotations"]:
        return {}
    kinds = {"box": "bbox"}
    if has_masks(ground_truth) and all("segmentation" in each for each in detections):
        kinds = {"mask": "segm", **kinds}
    return {name: detection.match(ground_truth, detections, kind) for name, kind in kinds.items()}


def _batches(sizes: list[tuple[int, int]], progress: bool) -> Iterator[list[int]]:
    """Indices in order, in batches of one image size; the progress is of images."""
    with tqdm(total=len(sizes), desc="evaluate", unit="image", disable=not progress) as bar:
        for _, group in groupby(range(len(sizes)), sizes.__getitem__):
            same = list(group)
            for i in range(0, len(same), BATCH):
                yield same[i : i + BATCH]
                bar.update(len(same[i : i + BATCH]))


def load_vgg() -> tuple[fidelity.VGGDistance | None, str]:
    """The VGG distance and where its weights come from, or None and why there is none."""
    try:
        vgg = fidelity.VGGDistance()
        return vgg, vgg.source
    except WeightsUnavailable as error:
        return None, f"n/a: {error}"


@device.exact()
def estimated_bpp(codec: LearnedCodec, dataset) -> list[float]:
    """The rate that the entropy model's likelihoods promise for each image, in bpp."""
    images = (dataset.image(index)[None].to(codec.device) for index in range(len(dataset)))
    coded = ((codec.eval()(x)["likelihoods"], x[0, 0].numel()) for x in images)
    return [float(losses.rate(likelihoods, pixels)) for likelihoods, pixels in coded]


def _table(rows, bitstreams: list, x, x_hat) -> dict:
    """Columns of one batch: rate and fidelity."""
    files = [bytes(b) if isinstance(b, Bitstream) else b"" for b in bitstreams]
    table = {
        "image_id": [row["id"] for row in rows],
        "file_name": [row["file_name"] for row in rows],
        "pixels": x.shape[-2] * x.shape[-1],
        "payload_bytes": [b.payload_bytes for b in bitstreams],
        "total_bytes": [b.total_bytes for b in bitstreams],
        "sha256": [hashlib.sha256(data).hexdigest() if data else "" for data in files],
        "psnr": fidelity.psnr(x, x_hat).tolist(),
        "ssim": fidelity.ssim(x, x_hat).tolist(),
        "vgg": float("nan"),  # where it is not taken
    }
    if min(x.shape[-2:]) >= fidelity.MS_SSIM_SIDE:
        table["ms_ssim"] = fidelity.ms_ssim(x, x_hat).tolist()
    return table


def summarize(evaluation: Evaluation, resamples: int = 1000) -> dict:
    """One row of a table. Figures `<name>_low` and `<name>_high` bound 95 % of a bootstrap over
    images; `bpp` and `bpp_total` are total bits over total pixels of payload and of whole files.
    MS-SSIM is left out where an image is too small for it."""
    table = evaluation.per_image
    row = {
        "images": len(table),
        "bpp": float(8 * table["payload_bytes"].sum() / table["pixels"].sum()),
        "bpp_total": float(8 * table["total_bytes"].sum() / table["pixels"].sum()),
        "bpp_mean": float((8 * table["payload_bytes"] / table["pixels"]).mean()),
    }
    row |= {name: float(table[name].mean()) for name in FIDELITY if name in table}
    if "ms_ssim" in row and table["ms_ssim"].isna().any():  # some images are too small
        del row["ms_ssim"]
    elif "ms_ssim" in row:
        with np.errstate(divide="ignore"):  # of lossless images it is infinite
            row["ms_ssim_db"] = float(-10 * np.log10(1 - row["ms_ssim"]))
    row |= _pattern(evaluation, resamples)
    counts = bootstrap.whole_and_resamples(len(table), resamples, np.random.default_rng(0))
    for kind, matches in evaluation.matches.items():
        for name, draws in detection.average_precision(matches, counts).items():
            row |= _interval(f"{kind}_{name}", draws)
    return row


def _pattern(evaluation: Evaluation, resamples: int) -> dict:
    """LPP and PRMS of the decoded and of the original images, and the excess of PRMS."""
    spectra = evaluation.spectra["decoded"], evaluation.spectra["original"]
    tile, rng = len(evaluation.pooled["decoded"]), np.random.default_rng(0)
    counts = bootstrap.whole_and_resamples(len(spectra[0]), resamples, rng)  # for both: paired
    decoded, original = (checkerboard.read_pattern(each, tile, counts) for each in spectra)
    for name in [each for each in decoded if each.startswith("prms")]:
        decoded[f"excess_{name}"] = checkerboard.excess_prms(decoded[name], original[name])
    row = {f"original_{k}": float(values[0]) for k, values in original.items()}
    for name, values in decoded.items():
        row |= _interval(name, values)
    return row


def compare(base: Evaluation, other: Evaluation, resamples: int = 1000) -> dict:
    """Paired differences, other minus base, each with its 95 % bootstrap interval over images:
    `<name>_difference`, `<name>_difference_low`, `<name>_difference_high`."""
    if list(base.per_image["image_id"]) != list(other.per_image["image_id"]):
        raise ValueError("the two evaluations are of different images; nothing to pair")
    result, rng = {}, np.random.default_rng(0)
    counts = bootstrap.whole_and_resamples(len(base.per_image), resamples, rng)
    for name in [each for each in FIDELITY if each in base.per_image and each in other.per_image]:
        before, after = base.per_image[name].to_numpy(), other.per_image[name].to_numpy()
        known = ~(np.isnan(before) | np.isnan(after))  # of VGG, the first images alone
        if known.any():
            drawn, before, after = counts[:, known], before[known], after[known]
            with np.errstate(invalid="ignore"):  # of lossless images: inf - inf, 0 * inf
                difference = np.where(before == after, 0.0, after - before)
                result |= _interval(f"{name}_difference", drawn @ difference / drawn.sum(1))
    for kind in [each for each in base.matches if each in other.matches]:
        pair = base.matches[kind], other.matches[kind]
        before, after = (detection.average_precision(each, counts)["AP"] for each in pair)
        result |= _interval(f"{kind}_AP_difference", after - before)
    return result


def _interval(name: str, draws: np.ndarray) -> dict:
    """The figure of the whole set, and the interval of its resamples."""
    low, high = bootstrap.interval(draws[1:])
    return {name: float(draws[0]), f"{name}_low": low, f"{name}_high": high}


@device.main_only
def save_evaluation(evaluation: Evaluation, folder: str | Path, split: str) -> None:
    """Per-image table, matches and pooled spectra into a folder."""
    folder = Path(folder)
    write(folder / f"{split}_per_image.csv", evaluation.per_image.to_csv(index=False))
    matches = {}
    for kind, each in evaluation.matches.items():
        matches |= {f"{kind} {name}": array for name, array in vars(each).items()}
    spectra = {k: v.mean(0, keepdims=True) for k, v in evaluation.spectra.items()}
    files = {"matches": matches, "spectra": spectra, "pooled": evaluation.pooled}
    for name, arrays in files.items():
        with written(folder / f"{split}_{name}.npz") as half, half.open("wb") as stream:
            np.savez(stream, **arrays)


def load_evaluation(folder: str | Path, split: str) -> Evaluation:
    """What `save_evaluation` wrote; the spectra are the pooled ones."""
    folder, matches = Path(folder), {}
    for key, array in np.load(folder / f"{split}_matches.npz").items():
        kind, name = key.split()
        matches.setdefault(kind, {})[name] = array
    table = pd.read_csv(folder / f"{split}_per_image.csv", dtype={"file_name": str})
    arrays = (dict(np.load(folder / f"{split}_{name}.npz")) for name in ("spectra", "pooled"))
    matches = {kind: detection.Matches(**each) for kind, each in matches.items()}
    return Evaluation(table, *arrays, matches)
