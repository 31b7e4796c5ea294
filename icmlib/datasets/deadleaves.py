"""Dead leaves: synthetic scenes with the statistics of photographs and exact instance masks.

Occluding leaves with power-law sizes and 1/f textures (Matheron; Ruderman; Lee, Mumford &
Huang, "Occlusion models for natural images", IJCV 2001). Background leaves are irregular blobs
of no class; the instances are disks, squares, triangles and stars.

Every scene has its own seed, `(seed, split, index)`: splits are disjoint, a larger set extends a
smaller one, and the same seed gives the same bytes.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from icmlib import device
from icmlib.datasets.coco import instance
from icmlib.io import write

CATEGORIES = ("disk", "square", "triangle", "star")
SPLITS = ("train", "val", "test")
MIN_VISIBLE = 0.4  # an instance hidden beyond this fraction is background
MIN_AREA = 60  # px; below this no network can name the shape at 128x128


def polygon(radii: list[float]):
    """Radius over angle of the polygon whose corners, at even angles, have these radii."""
    corners = len(radii)
    angles = np.arange(corners + 1) * 2 * np.pi / corners
    x, y = [*radii, radii[0]] * np.cos(angles), [*radii, radii[0]] * np.sin(angles)

    def radius(theta):
        theta = theta % (2 * np.pi)
        i = np.minimum((theta * corners / (2 * np.pi)).astype(int), corners - 1)
        dx, dy = x[i + 1] - x[i], y[i + 1] - y[i]
        # the ray at angle theta meets the edge i -> i + 1
        return (x[i] * dy - y[i] * dx) / (np.cos(theta) * dy - np.sin(theta) * dx)

    return radius


def blob(rng: np.random.Generator):
    """Radius over angle of an irregular closed curve: a few random harmonics around 1."""
    order = np.arange(2, 7)
    amplitude = rng.normal(0, 0.35, len(order)) / order
    phase = rng.uniform(0, 2 * np.pi, len(order))
    return lambda theta: np.clip(
        1 + (amplitude * np.cos(order * theta[..., None] + phase)).sum(-1), 0.3, 2
    )


SHAPES = {
    "disk": lambda theta: np.ones_like(theta),
    "square": polygon([1] * 4),
    "triangle": polygon([1] * 3),
    "star": polygon([1, 0.45] * 5),
}


def texture(rng: np.random.Generator, size: int, beta: float) -> np.ndarray:
    """(size, size) noise with power spectrum 1/f^beta, zero mean, unit variance."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    f[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * f ** (-beta / 2)
    noise = np.fft.irfft2(spectrum, (size, size))
    return noise / noise.std()


class Canvas:
    """The scene while it is painted: colours, and which instance owns each pixel (0: none)."""

    def __init__(self, rng: np.random.Generator, size: int):
        self.rng, self.size = rng, size
        self.textures = [texture(rng, size, beta) for beta in rng.uniform(1.8, 3, 4)]
        self.owner = np.zeros((size, size), np.int32)
        self.image = self.colours(slice(0, size), slice(0, size))

    def colours(self, rows: slice, columns: slice) -> np.ndarray:
        """(h, w, 3) textured, shaded colour of one leaf over a window."""
        rng = self.rng
        texture = self.textures[rng.integers(len(self.textures))]
        shift = rng.integers(0, self.size, 2)
        slope = rng.normal(0, 0.12, 2) / self.size
        y, x = np.ogrid[rows, columns]
        pattern = texture[(y - shift[0]) % self.size, (x - shift[1]) % self.size]  # rolled
        shade = 1 + slope[0] * (y - rows.start) + slope[1] * (x - columns.start)
        base = rng.uniform(0.12, 0.88) + rng.normal(0, 0.13, 3)  # mostly grey, as in photographs
        tint = 1 + rng.normal(0, 0.3, 3)
        contrast = rng.uniform(0.02, 0.09)
        return (base + contrast * pattern[..., None] * tint) * shade[..., None]

    def paint(self, radius_of, radius: float, instance: int = 0) -> int:
        """Paint one leaf at a random place; returns how many pixels it covers."""
        rng = self.rng
        cy, cx = rng.uniform(0, self.size, 2)
        if instance:  # an instance keeps its centre inside the scene
            cy, cx = rng.uniform(0.6 * radius, self.size - 0.6 * radius, 2)
        turn = rng.uniform(0, 2 * np.pi)
        reach = 2 * radius + 1
        rows = slice(max(0, int(cy - reach)), min(self.size, int(cy + reach) + 1))
        columns = slice(max(0, int(cx - reach)), min(self.size, int(cx + reach) + 1))
        y, x = np.ogrid[rows, columns]
        distance = np.hypot(y - cy, x - cx)
        edge = radius * radius_of(np.arctan2(y - cy, x - cx) + turn)
        alpha = np.clip(edge - distance + 0.5, 0, 1)[..., None]  # one pixel of soft edge
        image, owner = self.image[rows, columns], self.owner[rows, columns]  # views
        image += alpha * (self.colours(rows, columns) - image)
        covered = alpha[..., 0] > 0.5
        owner[covered] = instance
        return int(covered.sum())


def scene(seed: int, split: str, index: int, size: int) -> tuple[np.ndarray, list[dict]]:
    """One scene: (size, size, 3) uint8 and its visible instances `{"category", "mask"}`."""
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    canvas = Canvas(rng, size)
    for _ in range(60):  # radii with density r^-3 between 4 and 40 px: scale invariance
        canvas.paint(blob(rng), min(40, 4 / np.sqrt(rng.uniform(0.01, 1))))
    painted = {}
    for number in range(1, rng.integers(2, 7) + 1):
        category = CATEGORIES[rng.integers(len(CATEGORIES))]
        area = canvas.paint(SHAPES[category], rng.uniform(0.085, 0.24) * size, number)
        painted[number] = (category, area)
        if rng.uniform() < 0.3:  # clutter in front
            canvas.paint(blob(rng), rng.uniform(4, 10))
    y, x = np.mgrid[:size, :size] / size - 0.5
    light = 1 + rng.normal(0, 0.25) * y + rng.normal(0, 0.25) * x
    image = canvas.image * light[..., None] + rng.normal(0, 0.008, (size, size, 3))
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    visible = [
        {"category": category, "mask": mask}
        for number, (category, area) in painted.items()
        if (mask := canvas.owner == number).sum() >= max(MIN_AREA, MIN_VISIBLE * area)
    ]
    return pixels, visible


def _write_scene(folder: Path, seed: int, split: str, size: int, index: int) -> list[dict]:
    pixels, instances = scene(seed, split, index, size)
    Image.fromarray(pixels).save(folder / split / f"{index:06d}.png")
    return [
        {"image_id": index + 1} | instance(CATEGORIES.index(each["category"]) + 1, each["mask"])
        for each in instances
    ]


def annotation_file(folder: Path, split: str) -> Path:
    return Path(folder) / "annotations" / f"instances_{split}.json"


def generate(
    root: Path, size: int, counts: dict[str, int], seed: int, workers: int | None = None
) -> Path:
    """Write the data set in COCO layout; what is already complete is left alone. Returns its folder
    below `root`. Scenes are of `size` x `size` px, in each split as many as `counts` says.
    `workers` are processes, by default one per core; 0: none but this one."""
    numbers = "-".join(str(counts[split]) for split in SPLITS)
    folder = Path(root) / f"deadleaves-{size}px-seed{seed}-{numbers}"
    for split in SPLITS:
        if annotation_file(folder, split).exists():
            continue
        (folder / split).mkdir(parents=True, exist_ok=True)
        paint, images = partial(_write_scene, folder, seed, split, size), range(counts[split])
        scenes = device.in_processes(paint, images, device.cores() if workers is None else workers)
        annotations = [a for each in tqdm(scenes, split) for a in each]
        sides = {"height": size, "width": size}
        coco = {
            "info": {"description": f"dead leaves, {split}", "seed": seed, "size": size},
            "images": [{"id": i + 1, "file_name": f"{i:06d}.png"} | sides for i in images],
            "annotations": [{"id": i, **a} for i, a in enumerate(annotations, 1)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(CATEGORIES, 1)],
        }
        write(annotation_file(folder, split), json.dumps(coco))  # its presence: the split is whole
    return folder
