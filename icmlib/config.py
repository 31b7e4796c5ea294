"""One frozen dataclass for each stage; icmlib.studies.profile puts them together."""

import dataclasses
import os
from dataclasses import field
from types import UnionType
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import to_json

from icmlib.io import InputError, did_you_mean

STRICT = ConfigDict(extra="forbid", strict=True)  # no text, no bool for a number

# of a training; bf16 is faster on hardware that has it; ICMLIB_PRECISION sets the default
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which images: dead leaves, made on first use, a set in COCO layout, or photographs alone."""

    # or any name for data with `splits`, such as coco; or a function of yours, as module:create
    name: str = "deadleaves"
    root: str = "data"  # folder, from the project's root
    size: int = 128  # dead leaves: height and width in px
    train: int = 2400  # dead leaves: scenes in each split
    val: int = 200
    test: int = 300
    seed: int = 0
    # split -> {images, annotations, ids, skip, limit}; see data/README.md
    splits: dict = field(default_factory=dict)
    # the data's category -> the network's class; others are left out; none: all as they are
    classes: dict[str, str] = field(default_factory=dict)
    # the network's classes in their order; COCO: its 80; none: those that `classes` names
    class_names: list[str] | Literal["COCO"] = field(default_factory=list)


@dataclass(frozen=True, config=STRICT)
class TaskConfig:
    """The machine: which task network, its weights, and how those are trained."""

    name: str = "small_mask_rcnn"  # see icmlib.tasks.create; or a function, as module:build
    num_classes: int = 4  # without the background
    # safetensors, from the project's root; COCO_V1 or DEFAULT: torchvision's own, DEFAULT:
    # detectron2's own, downloaded at first use; none: train in notebook 01
    weights: str | None = None
    min_size: int | None = None  # px of the short side that detectors resize to; none: theirs (800)
    steps: int = 8000
    batch: int = 8
    lr: float = 2e-3
    seed: int = 0


@dataclass(frozen=True, config=STRICT)
class CodecConfig:
    """The codec's architecture; see icmlib.codecs.create."""

    # or a function of CompressAI's zoo: mbt2018_mean, ...; or one of yours, as module:build
    name: str = "scale_hyperprior_s8"
    N: int = 64  # channels of the transforms' inner layers, and of z
    M: int = 96  # channels of y; cheng2020 has N of them


def _precision() -> str:
    value = os.environ.get("ICMLIB_PRECISION", "float32")
    if value not in get_args(Precision):
        raise InputError(f"ICMLIB_PRECISION is {value!r}; known: {', '.join(get_args(Precision))}")
    return value


# VGG-16's ReLUs in order, by stage and place in it
VGG16_LAYERS = ("relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu3_2", "relu3_3")
VGG16_LAYERS += ("relu4_1", "relu4_2", "relu4_3", "relu5_1", "relu5_2", "relu5_3")
Vgg16Layers = Annotated[tuple[Literal[VGG16_LAYERS], ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class BaseTrainingConfig:
    """Base ICM codec: rate + lambda_mse * MSE + lambda_feature * feature distance."""

    steps: int = 3000
    batch: int = 8
    crop: int = 128  # px; training crops
    # crops are of images made smaller by a random factor between this and 1
    scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    lr: float = 1e-3
    aux_lr: float = 1e-2  # quantiles of the entropy bottleneck
    lambda_mse: float = 60.0  # for images in [0, 1]
    lambda_feature: float = 1.0
    warmup: float = 0.2  # fraction of the steps over which the feature term is ramped up
    # px: original and decoded image move together by up to so many before the features are taken
    shift: Annotated[int, Field(ge=0)] = 0
    proxy: Literal["task", "vgg16"] = "task"  # whose features: the task network's, or VGG-16's
    # maps of the proxy vgg16: those of LPIPS, as the paper does not name its own
    vgg16_layers: Vgg16Layers = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
    precision: Precision = field(default_factory=_precision)
    seed: int = 0


@dataclass(frozen=True, config=STRICT)
class FinetuneConfig:
    """PatchGAN finetuning of the decoder: which layers, which patches, which loss."""

    layers: int = 2  # decoder layers counted from the latents
    patches: int = 3  # per image; those that fall on one place are taken once
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
    lambda_lattice: float = 0.0  # prominence of the pattern in dB; patches are square, from 32 px
    lambda_task: float = 0.0  # the task network's own loss, on whole images
    precision: Precision = field(default_factory=_precision)
    seed: int = 0


@dataclass(frozen=True, config=STRICT)
class ChainConfig:
    """Finetuning of codec and task network by task loss + beta * rate: which parts, how long."""

    parts: list[Literal["encoder", "decoder", "entropy", "task"]] = field(default_factory=list)
    beta: float = 1.0  # on bits per pixel
    # px: by how much decoded images and targets move at most before the task's loss
    shift: Annotated[int, Field(ge=0)] = 0
    batch: int = 4  # images per step
    steps: int = 500
    lr: float = 1e-4  # of the codec's parts
    lr_task: float = 1e-4
    aux_lr: float = 1e-3  # quantiles of the entropy bottleneck
    clip: float = 1.0  # largest norm of the gradient of the codec, and of that of the task network
    schedule: Literal["cosine", "constant"] = "cosine"  # cosine: to zero
    precision: Precision = field(default_factory=_precision)
    seed: int = 0


def from_dict(kind: type, values: dict, where: str = ""):
    """A config, or a dict of configs, from plain values. Raises ValueError: unknown keys (with the
    nearest right name) or values of the wrong type; starts with `where`, or the type's name."""
    try:  # as JSON: strict pydantic takes no dict for a dataclass otherwise
        return TypeAdapter(kind).validate_json(to_json(values))
    except ValidationError as error:
        errors = (_explained(where or kind.__name__, kind, each) for each in error.errors())
        raise InputError("\n".join(errors)) from None


def _explained(where: str, kind: type, error: dict) -> str:
    """One of pydantic's errors, with the path of the key."""
    where, value, why = ".".join(map(str, (where, *error["loc"]))), error["input"], error["msg"]
    if error["type"] == "value_error":  # of ours
        return f"{where}: {error['ctx']['error']}"
    if error["type"] == "unexpected_keyword_argument":
        *steps, key = error["loc"]
        for step in steps:  # fields, and keys of dicts
            kind = get_args(kind)[-1] if get_args(kind) else kind.__dataclass_fields__[step].type
            kind = get_args(kind)[0] if isinstance(kind, UnionType) else kind  # X | None
        known = list(kind.__dataclass_fields__)
        return f"{where}: unknown key{did_you_mean(key, known)}; known: {', '.join(known)}"
    if error["type"] == "float_type" and isinstance(value, str):
        why += " (YAML reads 1e-3 as text and 1.0e-3 as a number)"
    return f"{where} is {value!r:.60}: {why}"


def replace(config, changes: dict):
    """The config with some values changed, checked like `from_dict`."""
    return from_dict(type(config), {**dataclasses.asdict(config), **changes})
