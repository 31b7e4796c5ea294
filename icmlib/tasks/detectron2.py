"""detectron2's detectors as task networks: any YAML config of its model zoo, by name.

detectron2 is optional, and is imported where it is used.
"""

from difflib import get_close_matches
from pathlib import Path

import torch
import torch.nn.functional as F

from icmlib.config import TaskConfig
from icmlib.downloads import read_state
from icmlib.io import InputError
from icmlib.tasks import common

PREFIX = "detectron2:"  # before the config's name, in TaskConfig.name
KINDS = ("faster_rcnn", "mask_rcnn", "retinanet")  # others need more than boxes, labels, masks
PUBLISHED = ("DEFAULT",)  # the weights that the model zoo has for a config
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # what the tests ran with
INSTALL = (
    f"With PyTorch, a C++ compiler and setuptools<82 already there: pip install "
    f"--no-build-isolation 'git+https://github.com/facebookresearch/detectron2@{COMMIT}'; it is "
    f"compiled, for minutes"
)


class Detectron2Task(torch.nn.Module):
    """A detectron2 R-CNN or RetinaNet as an `icmlib.tasks.TaskNetwork`. It sees images
    in the config's channel order, 0 to 255, resized to its test size, in training as in evaluation.
    Labels 1..K are detectron2's classes 0..K-1: of its COCO models the categories by rising id."""

    def __init__(self, model: torch.nn.Module, config):
        super().__init__()
        self.model = model
        self.has_masks = config.MODEL.MASK_ON
        self.bgr = config.INPUT.FORMAT == "BGR"
        self.sides = config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST  # short, longest, in px

    def loss(self, images, targets: list[dict]) -> dict[str, torch.Tensor]:
        """Images may have any sizes, and no objects."""
        from detectron2.utils.events import EventStorage

        common.training_mode(self.model)
        # RetinaNet divides its losses by a running count of objects, which no checkpoint holds.
        vars(self.model).pop("loss_normalizer", None)
        batch = self._batch(images)
        sizes = zip(images, batch.image_sizes)
        instances = [self._instances(t, x.shape[-2:], s) for t, (x, s) in zip(targets, sizes)]
        with EventStorage():  # the heads write their statistics there
            _, losses = self._heads(batch, self._maps(batch), instances)
        return losses

    def features(self, images) -> dict[str, torch.Tensor]:
        """The backbone's maps by detectron2's names: p2, p3, ... of an FPN."""
        self.model.eval()
        return self._maps(self._batch(images))

    @torch.no_grad()
    def predict(self, images, features: dict[str, torch.Tensor] | None = None) -> list[dict]:
        self.model.eval()
        batch = self._batch(images)
        found, _ = self._heads(batch, self._maps(batch) if features is None else features)
        return [self._prediction(each, *image.shape[-2:]) for each, image in zip(found, images)]

    def _batch(self, images):
        """An ImageList, normalised and padded."""
        weight = next(self.parameters())
        resized = [self._resized(image.to(weight)) for image in images]
        return self.model.preprocess_image([{"image": image} for image in resized])

    def _resized(self, image: torch.Tensor) -> torch.Tensor:
        """(3, H, W) RGB in [0, 1] -> (3, h, w) in the config's channel order, 0 to 255; Pillow's
        bilinear filter as detectron2 has it, differentiable."""
        from detectron2.data.transforms import ResizeShortestEdge

        if self.sides[0]:  # 0: as it is
            size = ResizeShortestEdge.get_output_shape(*image.shape[-2:], *self.sides)
            image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        return 255 * (image.flip(0) if self.bgr else image)

    def _instances(self, target: dict, size: tuple, resized: tuple):
        """The target of an image of `size` (height, width), for the image resized."""
        from detectron2.structures import BitMasks, Boxes, Instances

        weight = next(self.parameters())
        (height, width), (h, w) = size, resized
        scale = torch.tensor([w / width, h / height]).repeat(2)  # of x, y, x, y
        instances = Instances(resized)
        instances.gt_boxes = Boxes((target["boxes"] * scale).to(weight))
        instances.gt_classes = target["labels"].to(weight.device) - 1
        if self.has_masks:
            masks = common.masks_of(target)[:, None].to(weight)  # (N, 1, H, W)
            instances.gt_masks = BitMasks(F.interpolate(masks, resized)[:, 0] > 0)
        return instances

    def _maps(self, batch) -> dict[str, torch.Tensor]:
        """Float32 under autocast, too: boxes that are pooled get the maps' precision."""
        maps = self.model.backbone(batch.tensor)
        return {name: each.to(batch.tensor.dtype) for name, each in maps.items()}

    def _heads(self, batch, maps: dict, instances: list | None = None) -> tuple[list, dict]:
        """Detections in the resized images, in evaluation; in training losses, from instances."""
        if hasattr(self.model, "roi_heads"):
            proposals, losses = self.model.proposal_generator(batch, maps, instances)
            found, more = self.model.roi_heads(batch, maps, proposals, instances)
            return found, {**losses, **more}
        maps = [maps[name] for name in self.model.head_in_features]
        outputs = self.model.head(maps)
        if instances is None:
            return self.model.forward_inference(batch, maps, outputs), {}
        return [], self.model.forward_training(batch, maps, outputs, instances)

    def _prediction(self, found, height: int, width: int) -> dict[str, torch.Tensor]:
        """In the image's own pixels, with our labels, on the CPU."""
        from detectron2.modeling.postprocessing import detector_postprocess

        found = detector_postprocess(found, height, width)
        prediction = {"boxes": found.pred_boxes.tensor, "scores": found.scores}
        prediction["labels"] = found.pred_classes + 1
        if self.has_masks:
            prediction["masks"] = found.pred_masks  # (N, H, W) bool
        return {name: value.cpu() for name, value in prediction.items()}


def detector(config: TaskConfig) -> Detectron2Task:
    """The network that `detectron2:<config>` names, without weights, built for those it will get.
    Published weights come with frozen batch norm. Without them it is trained, as all layers: the
    network would diverge otherwise. Raises ImportError; ValueError: no such config or weights."""
    try:
        from detectron2 import model_zoo, modeling
    except ImportError as error:
        raise ImportError(f"detectron2 cannot be imported ({error}). {INSTALL}") from error
    settings = _settings(model_zoo, config)
    model = settings.MODEL
    if config.weights in PUBLISHED:
        _url(config)  # raises
        dense = model.META_ARCHITECTURE == "RetinaNet"
        common.check_classes(config, (model.RETINANET if dense else model.ROI_HEADS).NUM_CLASSES)
    else:
        if model.RESNETS.NORM == "FrozenBN":
            model.RESNETS.NORM = "BN"
        model.BACKBONE.FREEZE_AT = 0
        model.ROI_HEADS.NUM_CLASSES = model.RETINANET.NUM_CLASSES = config.num_classes
    return Detectron2Task(modeling.build_model(settings), settings)


def load_published(network: Detectron2Task, config: TaskConfig) -> None:
    """The model zoo's weights into what `detector` built; raises as `downloads.read_state`."""
    old = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator", "anchor_generator")
    arrays = read_state(_url(config), config.name)["model"]
    state = {k: torch.tensor(array) for k, array in arrays.items() if not k.startswith(old)}
    network.model.load_state_dict(state)


def _settings(model_zoo, config: TaskConfig):
    """detectron2's settings of that config, for the CPU; raises as `detector`."""
    name = config.name.removeprefix(PREFIX)
    folder = Path(model_zoo.__file__).parent / "configs"
    files = [path for kind in KINDS for path in folder.glob(f"*/*{kind}*.yaml")]
    known = [str(path.relative_to(folder)) for path in files]
    if name not in known:
        near = ", ".join(get_close_matches(name, known, 3, 0))
        what = f"no config {name!r} of boxes or masks"
        raise InputError(f"detectron2's model zoo has {what}; nearest: {near}")
    settings = model_zoo.get_config(name)
    settings.MODEL.DEVICE = "cpu"
    if config.min_size is not None:
        settings.INPUT.MIN_SIZE_TEST = config.min_size
    return settings


def _url(config: TaskConfig) -> str:
    from detectron2 import model_zoo

    try:
        return model_zoo.get_checkpoint_url(config.name.removeprefix(PREFIX))
    except RuntimeError:
        what = f"detectron2's model zoo has no weights for {config.name}"
        raise InputError(f"{what}: set weights to a file, or to null") from None
