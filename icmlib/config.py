"""One frozen dataclass for each stage; a profile (notebooks/profiles/*.yaml) holds one of each."""

import dataclasses
import os
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, get_args, get_origin

import dacite
import yaml

BRIDGE = "finetuned"  # row of the bridge itself; a profile's bridge_rows are its controls

# of a training; bf16 is faster on GPUs and processors with instructions for it, float32 gives the
# same numbers, but for rounding, on all. ICMLIB_PRECISION sets what configs have by default.
Precision = Literal["float32", "bf16"]


def project_root() -> Path:
    """The folder that holds `notebooks/profiles`, from here upwards (or `ICM_ROOT`)."""
    if "ICM_ROOT" in os.environ:
        return Path(os.environ["ICM_ROOT"])
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "notebooks" / "profiles").is_dir():
            return folder
    raise FileNotFoundError(
        f"no folder from {Path.cwd()} upwards holds notebooks/profiles; "
        f"start in the project or set ICM_ROOT to it"
    )


@dataclass(frozen=True)
class DataConfig:
    """Which images. Dead leaves are made on first use; other sets are in COCO layout."""

    name: str = "deadleaves"  # deadleaves | coco
    root: str = "data"  # folder, from the project's root
    size: int = 128  # dead leaves: height and width in px
    train: int = 2400  # dead leaves: scenes in each split
    val: int = 200
    test: int = 300
    seed: int = 0
    # coco: split -> {images, annotations, ids, skip, limit}; see data/README.md
    splits: dict = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For figures and tables: which data, how many, which seed."""
        if self.name == "deadleaves":
            sizes = f"{self.train}/{self.val}/{self.test} scenes of {self.size} px"
            return f"dead leaves {sizes}, data seed {self.seed}"
        return f"{self.name} in {self.root}"


@dataclass(frozen=True)
class TaskConfig:
    """The machine: which task network, its weights, and how those are trained."""

    name: str = "small_mask_rcnn"  # see icmlib.tasks.create
    num_classes: int = 4  # without the background
    # safetensors, from the project's root; COCO_V1 or DEFAULT: torchvision's own, DEFAULT:
    # detectron2's own, downloaded at first use; none: train in notebook 01
    weights: str | None = None
    min_size: int | None = None  # px of the short side that detectors resize to; none: theirs (800)
    steps: int = 8000
    batch: int = 8
    lr: float = 2e-3
    seed: int = 0


@dataclass(frozen=True)
class CodecConfig:
    """The codec's architecture; see icmlib.codecs.create."""

    name: str = "scale_hyperprior_s8"  # or a function of CompressAI's zoo: mbt2018_mean, ...
    N: int = 64  # channels of the transforms' inner layers, and of z
    M: int = 96  # channels of y; cheng2020 has N of them


def _precision() -> str:
    value = os.environ.get("ICMLIB_PRECISION", "float32")
    if value not in get_args(Precision):
        raise ValueError(f"ICMLIB_PRECISION is {value!r}; known: {', '.join(get_args(Precision))}")
    return value


# names of VGG-16's ReLUs in order, by stage and place in it
VGG16_LAYERS = tuple(
    f"relu{stage}_{place}"
    for stage, count in enumerate((2, 2, 3, 3, 3), 1)
    for place in range(1, count + 1)
)


@dataclass(frozen=True)
class BaseTrainingConfig:
    """Base ICM codec: rate + lambda_mse * MSE + lambda_feature * feature distance."""

    steps: int = 3000
    batch: int = 8
    crop: int = 128  # px; training crops
    lr: float = 1e-3
    aux_lr: float = 1e-2  # quantiles of the entropy bottleneck
    lambda_mse: float = 60.0  # for images in [0, 1]
    lambda_feature: float = 1.0
    warmup: float = 0.2  # fraction of the steps over which the feature term is ramped up
    proxy: Literal["task", "vgg16"] = "task"  # whose features: the task network's, or VGG-16's
    # maps of the proxy vgg16: the paper does not name its own; these five, the last of each stage,
    # are those of LPIPS
    vgg16_layers: list[str] = field(
        default_factory=lambda: ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"]
    )
    precision: Precision = field(default_factory=_precision)
    seed: int = 0

    def __post_init__(self):
        for layer in self.vgg16_layers:
            if layer not in VGG16_LAYERS:
                known = ", ".join(VGG16_LAYERS)
                raise ValueError(f"unknown layer {layer!r} of VGG-16; known: {known}")
        if not self.vgg16_layers:
            raise ValueError("vgg16_layers is empty; name at least one layer")


@dataclass(frozen=True)
class FinetuneConfig:
    """PatchGAN finetuning of the decoder: which layers, which patches, which loss."""

    layers: int = 2  # decoder layers counted from the latents
    patches: int = 3  # per image
    patch_size: int = 64  # px
    batch: int = 4  # images per step
    steps: int = 1000
    lr: float = 1e-4
    lr_discriminator: float = 2e-4
    schedule: Literal["cosine", "constant"] = "cosine"  # cosine: to zero
    adversarial: Literal["hinge", "least_squares", "cross_entropy", "none"] = "hinge"
    lambda_mse: float = 100.0
    lambda_adversarial: float = 0.1
    lambda_feature: float = 0.0  # task-feature distance of the patches
    lambda_lattice: float = 0.0  # power of the residual at the lattice frequencies
    lambda_task: float = 0.0  # the task network's own loss, on whole images
    precision: Precision = field(default_factory=_precision)
    seed: int = 0


@dataclass(frozen=True)
class ChainConfig:
    """Finetuning of codec and task network by task loss + beta * rate: which parts, how long."""

    parts: list[str] = field(default_factory=list)  # of encoder, decoder, entropy, task
    beta: float = 1.0  # on bits per pixel
    batch: int = 4  # images per step
    steps: int = 500
    lr: float = 1e-4  # of the codec's parts
    lr_task: float = 1e-4
    aux_lr: float = 1e-3  # quantiles of the entropy bottleneck
    clip: float = 1.0  # largest norm of the gradient of the codec, and of that of the task network
    schedule: Literal["cosine", "constant"] = "cosine"  # cosine: to zero
    precision: Precision = field(default_factory=_precision)
    seed: int = 0

    def __post_init__(self):
        known = ("encoder", "decoder", "entropy", "task")
        for part in self.parts:
            if part not in known:
                raise ValueError(f"unknown part {part!r}; known: {', '.join(known)}")


@dataclass(frozen=True)
class PointConfig:
    """One rate of study 2: the codec it starts from, and the price of a bit when finetuned."""

    lambda_mse: float | None = None  # trained here for rate + lambda_mse * MSE
    quality: int | None = None  # or CompressAI's own weights of this quality
    beta: float = 1.0


@dataclass(frozen=True)
class RateTaskConfig:
    """Study 2: a codec at several rates, what of the chain is finetuned, beside which anchors."""

    codec: CodecConfig = field(default_factory=lambda: CodecConfig("bmshj2018_hyperprior"))
    base: BaseTrainingConfig = field(default_factory=lambda: BaseTrainingConfig(lambda_feature=0.0))
    chain: ChainConfig = field(default_factory=ChainConfig)
    points: dict[str, PointConfig] = field(default_factory=dict)  # from the lowest rate
    configurations: dict[str, dict] = field(default_factory=dict)  # name -> changes of chain
    only_at: dict[str, list[str]] = field(default_factory=dict)  # name -> points; else all
    bridge: FinetuneConfig = field(default_factory=FinetuneConfig)
    bridge_at: list[str] = field(default_factory=list)  # points whose C-FT codec it repairs
    bridge_rows: dict[str, dict] = field(default_factory=dict)  # its controls -> changes of bridge
    anchors: dict[str, dict] = field(default_factory=dict)  # name -> options, one of them a list

    def points_of(self, configuration: str) -> list[str]:
        """The points at which a configuration is trained."""
        return self.only_at.get(configuration, list(self.points))

    def bridges(self) -> list[tuple[str, str]]:
        """Point and row of every finetuning of a C-FT decoder: the bridge itself, and controls."""
        rows = (BRIDGE, *self.bridge_rows)
        return [(p, row) for p in self.bridge_at for row in rows if p in self.only_at.get(row, [p])]


@dataclass(frozen=True)
class ZooCodecConfig:
    """One codec of the zoo: its architecture, and what its base training changes."""

    codec: CodecConfig = field(default_factory=CodecConfig)
    base: dict = field(default_factory=dict)  # changes of the profile's base


@dataclass(frozen=True)
class ZooConfig:
    """The codec zoo: study 1's base training and finetuning, for other codecs."""

    codecs: dict[str, ZooCodecConfig] = field(default_factory=dict)  # by name of the run
    finetune: dict = field(default_factory=dict)  # changes of the profile's finetune


@dataclass(frozen=True)
class EvaluationConfig:
    """How a codec is measured."""

    resamples: int = 1000  # bootstrap, test split
    resamples_val: int = 100  # val only chooses
    vgg: bool = False  # allow torchvision to download VGG-16's weights for the VGG distance
    image_dir: str | None = None  # photographs for 06_figures; none: those of scikit-image


@dataclass(frozen=True)
class SpeedConfig:
    """How much 07_speed measures."""

    N: int = 128  # of the scale hyperprior whose steps are timed
    M: int = 192
    repeats: int = 5  # medians are over so many
    images: list[list[int]] = field(default_factory=lambda: [[512, 512], [768, 1024]])  # h, w in px
    scene: int = 512  # px; images of the finetunings that are timed row by row
    crops: list[int] = field(default_factory=lambda: [128, 256])  # px; of base training
    steps: int = 3  # of base training in one call
    coded: int = 300  # test images to bitstreams and back
    coco: int = 5000  # images with made detections
    rows: int = 7  # of the profile, from the first


@dataclass(frozen=True)
class Profile:
    """Everything that differs between a laptop and a cluster."""

    name: str
    seed: int = 0  # of every training but the task network's; `<profile>-seed<n>` sets it
    meaningless: bool = False  # a trial of the machinery: every page and figure says so
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    # a trained base codec, from the project's root: a file of decoders; none: train in notebook 02
    base_weights: str | None = None
    base: BaseTrainingConfig = field(default_factory=BaseTrainingConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    rate_task: RateTaskConfig = field(default_factory=RateTaskConfig)
    zoo: ZooConfig = field(default_factory=ZooConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    rows: dict[str, dict] = field(default_factory=dict)  # Table 1: name -> what it changes
    main_rows: list[str] = field(default_factory=list)  # of a short study 1; none: all

    @property
    def provenance(self) -> dict[str, str | int]:
        """What every figure and table of it states."""
        facts = {"profile": self.name, "seed": self.seed, "data": self.data.label}
        return facts | ({"numbers": "mean nothing: a trial"} if self.meaningless else {})


def from_dict(cls: type, values: dict):
    """A config from plain values.

    Raises:
        ValueError: an unknown key (with the nearest right name) or a value of the wrong type.
    """
    types = {f.name: f.type for f in dataclasses.fields(cls)}
    for key in values:
        if key not in types:
            near = get_close_matches(str(key), types, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"{cls.__name__}: unknown key {key!r}{hint}; known: {', '.join(types)}"
            )
        if types[key] is float and isinstance(values[key], str):
            raise ValueError(
                f'{cls.__name__}: field "{key}" is a number, not {values[key]!r} '
                f"(YAML reads 1e-3 as text and 1.0e-3 as a number)"
            )
        choices = get_args(types[key]) if get_origin(types[key]) is Literal else ()
        if choices and values[key] not in choices:
            raise ValueError(
                f'{cls.__name__}: field "{key}" is {values[key]!r}; known: {", ".join(choices)}'
            )
        if isinstance(values[key], bool) and types[key] in (int, float):
            raise ValueError(f'{cls.__name__}: field "{key}" is a number, not {values[key]}')
    parts = {key: _part(types[key], value) for key, value in values.items()}
    try:
        return dacite.from_dict(cls, parts, dacite.Config(strict=True))
    except dacite.DaciteError as error:
        raise ValueError(f"{cls.__name__}: {error}") from None


def _part(cls: type, value):
    """A config within a config, or a dict of them by name; what is neither, as it is."""
    if dataclasses.is_dataclass(cls) and isinstance(value, dict):
        return from_dict(cls, value)
    named = get_args(cls)[-1] if get_origin(cls) is dict else None
    if not dataclasses.is_dataclass(named) or not isinstance(value, dict):
        return value
    parts = {}
    for name, part in value.items():
        try:
            parts[name] = _part(named, part)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return parts


def replace(config, changes: dict):
    """The config with some values changed, checked like `from_dict`."""
    return from_dict(type(config), {**dataclasses.asdict(config), **changes})


def from_scratch(profile: Profile) -> Profile:
    """The profile without its weights files: notebooks 01 and 02 train task network and base codec.
    Published weights, which have a name and no file, stay."""
    weights = profile.task.weights
    task = replace(profile.task, {"weights": None}) if is_file(weights) else profile.task
    name = f"{profile.name}-scratch"
    return dataclasses.replace(profile, name=name, task=task, base_weights=None)


def is_file(weights: str | None) -> bool:
    """Whether weights are those of a file, not published ones or none."""
    return bool(weights) and weights.endswith(".safetensors")


def with_seed(profile: Profile, seed: int) -> Profile:
    """The profile with another seed of its trainings, the base codec's included; the data and the
    machine stay."""
    study = profile.rate_task
    study = dataclasses.replace(
        study,
        **{
            part: replace(getattr(study, part), {"seed": seed})
            for part in ("base", "chain", "bridge")
        },
    )
    return dataclasses.replace(
        profile,
        name=f"{profile.name}-seed{seed}",
        seed=seed,
        base_weights=None,
        base=replace(profile.base, {"seed": seed}),
        finetune=replace(profile.finetune, {"seed": seed}),
        rate_task=study,
    )


def check_rate_task(study: RateTaskConfig) -> None:
    """Raises ValueError for settings of study 2 that do not go together."""
    for name, changes in study.configurations.items():
        try:
            parts = replace(study.chain, changes).parts
        except ValueError as error:
            raise ValueError(f"configuration {name!r}: {error}") from None
        if name == "baseline" or name in study.anchors:
            raise ValueError(f"configuration {name!r} has the name of another curve; rename it")
        if not parts:
            raise ValueError(f"configuration {name!r} trains nothing; give it parts")
    for name, point in study.points.items():
        if (point.lambda_mse is None) == (point.quality is None):
            raise ValueError(f"point {name!r}: give either lambda_mse or quality")
    named = [*study.bridge_at, *(each for points in study.only_at.values() for each in points)]
    for point in named:
        if point not in study.points:
            raise ValueError(f"unknown point {point!r}; there are: {', '.join(study.points)}")
    untrained = set(study.bridge_at) - set(study.only_at.get("C-FT", study.points))
    if untrained:
        raise ValueError(f"bridge_at {sorted(untrained)}: C-FT is not trained there; see only_at")
    for name in study.only_at:
        if name not in {**study.configurations, **study.bridge_rows}:
            raise ValueError(f"only_at names {name!r}, which is no configuration or bridge row")
    for name, changes in study.bridge_rows.items():
        outside = set(study.only_at.get(name, study.bridge_at)) - set(study.bridge_at)
        if name in ("finetuned", *study.configurations):
            raise ValueError(f"bridge row {name!r} has the name of another run; rename it")
        if outside:
            raise ValueError(f"bridge row {name!r}: {sorted(outside)} are not among bridge_at")
        try:
            replace(study.bridge, changes)
        except ValueError as error:
            raise ValueError(f"bridge row {name!r}: {error}") from None
    if study.bridge_at and "C-FT" not in study.configurations:
        raise ValueError("bridge_at needs a configuration C-FT, whose decoder it repairs")
    for name, options in study.anchors.items():
        if not isinstance(options.get("quality"), list):
            raise ValueError(f"anchor {name!r} needs a list of qualities")


def check_zoo(profile: Profile) -> None:
    """Raises ValueError for settings of the codec zoo that its trainings would refuse."""
    try:
        replace(profile.finetune, profile.zoo.finetune)
    except ValueError as error:
        raise ValueError(f"zoo: {error}") from None
    for name, codec in profile.zoo.codecs.items():
        try:
            replace(profile.base, codec.base)
        except ValueError as error:
            raise ValueError(f"zoo, codec {name!r}: {error}") from None


def check_row(finetune: FinetuneConfig, row: str, changes: dict) -> None:
    """Raises ValueError, with the row's name, for wrong settings or a name that is taken."""
    if row in ("base", "gaussian", "bilateral"):
        raise ValueError(f"row {row!r} has the name of another row of the table; rename it")
    try:
        replace(finetune, changes)
    except ValueError as error:
        raise ValueError(f"row {row!r}: {error}") from None


def load_profile(name: str | Path) -> Profile:
    """Read `notebooks/profiles/<name>.yaml`, or the file of that path; `<name>-seed<n>` is the
    profile `<name>` with that seed, `<name>-scratch` the one that trains what it would be given.

    Raises:
        FileNotFoundError: no such profile; the message lists those there are.
        ValueError: not YAML, unknown keys or wrong types, anywhere in the file or in a row.
    """
    path = Path(name)
    if (seeded := re.fullmatch(r"(.+)-seed(\d+)", str(name))) and not path.exists():
        if seeded[2] != str(int(seeded[2])) or int(seeded[2]) == 0:
            raise ValueError(
                f"profile {name!r}: a seed is 1, 2, ...; {seeded[1]!r} itself is seed 0"
            )
        return with_seed(load_profile(seeded[1]), int(seeded[2]))
    if str(name).endswith("-scratch") and not path.exists():
        return from_scratch(load_profile(str(name).removesuffix("-scratch")))
    if path.suffix != ".yaml":
        path = project_root() / "notebooks" / "profiles" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise FileNotFoundError(f"profile {path} does not exist; there are: {known}")
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"profile {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"profile {path} holds no stages but {values!r:.40}")
    try:
        values["rows"] = {name: row or {} for name, row in (values.get("rows") or {}).items()}
        profile = from_dict(Profile, {"name": path.stem, **values})
        for row, changes in profile.rows.items():
            check_row(profile.finetune, row, changes)
        for row in profile.main_rows:
            if row not in profile.rows:
                raise ValueError(f"main_rows: {row!r} is no row; there are: {list(profile.rows)}")
        check_rate_task(profile.rate_task)
        check_zoo(profile)
    except ValueError as error:
        raise ValueError(f"profile {path}: {error}") from None
    return profile
