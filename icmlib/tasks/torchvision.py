"""torchvision's detectors as task networks."""

from functools import partial

import torch
from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.detection import anchor_utils, faster_rcnn, mask_rcnn, transform
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from icmlib.config import TaskConfig
from icmlib.downloads import read_state
from icmlib.io import InputError
from icmlib.tasks import common

SMALL = {"small_mask_rcnn": 1, "medium_mask_rcnn": 2}  # name -> scale
DETECTORS = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
)
PUBLISHED = ("COCO_V1", "DEFAULT")  # torchvision's names of its weights


class TorchvisionTask(nn.Module):
    """Any torchvision R-CNN behind the `icmlib.tasks.TaskNetwork` protocol; `outputs`: which of
    the classifier's outputs label 1, 2, ... is, by default that of its number."""

    def __init__(self, model: nn.Module, outputs: list[int] | None = None):
        super().__init__()
        self.model = model
        count = model.roi_heads.box_predictor.cls_score.out_features
        outputs = torch.tensor(outputs or range(1, count))  # output 0 is the background
        self.register_buffer("_outputs", outputs, persistent=False)

    @property
    def recordable(self) -> bool:
        """Whether `features` never waits for a GPU; see `icmlib.training.steps.Recorded`."""
        return isinstance(self.model.transform, AsItIs)

    def loss(self, images, targets: list[dict]) -> dict[str, torch.Tensor]:
        """RPN, box and (of a Mask R-CNN) mask losses. Images may have any sizes, and no objects."""
        common.training_mode(self.model)
        targets = [self._target(target) for target in targets]
        return self.model([x.to(self._outputs.device) for x in images], targets)

    def _target(self, target: dict) -> dict[str, torch.Tensor]:
        read = {"boxes": target["boxes"], "labels": self._outputs[target["labels"] - 1]}
        if self.model.roi_heads.has_mask():
            read["masks"] = common.masks_of(target)
        return {key: value.to(self._outputs.device) for key, value in read.items()}

    def features(self, images) -> dict[str, torch.Tensor]:
        """The backbone's (FPN) maps, finest first."""
        self.model.eval()
        images, _ = self.model.transform([x.to(self._outputs.device) for x in images])
        return dict(self.model.backbone(images.tensors))

    @torch.no_grad()
    def predict(self, images, features: dict[str, torch.Tensor] | None = None) -> list[dict]:
        self.model.eval()
        features = self.features(images) if features is None else features
        sizes = [tuple(x.shape[-2:]) for x in images]
        images, _ = self.model.transform([x.to(self._outputs.device) for x in images])
        proposals, _ = self.model.rpn(images, features)
        predictions, _ = self.model.roi_heads(features, proposals, images.image_sizes)
        predictions = self.model.transform.postprocess(predictions, images.image_sizes, sizes)
        return [self._prediction(prediction) for prediction in predictions]

    def _prediction(self, found: dict) -> dict[str, torch.Tensor]:
        """With our labels, on the CPU; detections without one are left out."""
        index, label = (found["labels"][:, None] == self._outputs).nonzero(as_tuple=True)
        found = {k: v[index].cpu() for k, v in found.items()} | {"labels": label.cpu() + 1}
        if "masks" in found:  # (N, 1, H, W) probabilities -> (N, H, W) bool
            found["masks"] = found["masks"][:, 0] > 0.5
        return found


class AsItIs(transform.GeneralizedRCNNTransform):
    """Normalises and batches images; their size stays."""

    def resize(self, image, target=None):
        return image, target

    def normalize(self, image):
        return (image - 0.5) / 0.25  # torchvision's brings its constants to the GPU each time


def detector(config: TaskConfig) -> TorchvisionTask:
    """One of SMALL or of DETECTORS without weights, built for those that the config names.
    torchvision's own have 91 outputs, COCO's category ids with gaps; ours are 1..80 in that order.
    Their batch norm is frozen. Otherwise it is trained, and needs batches of 8 images or more (Wu &
    He 2018, Figure 1). Raises ValueError for settings that do not fit."""
    if config.name in SMALL:
        if config.weights in PUBLISHED or config.min_size is not None:
            what = f"{config.name} takes images as they are and has no published weights"
            raise InputError(f"{what}: set weights to a file or null, and min_size to null")
        return small_mask_rcnn(config.num_classes, SMALL[config.name])
    options = {"weights": None, "weights_backbone": None}  # else it downloads both
    if config.min_size is not None:
        options["min_size"] = config.min_size
    if config.weights not in PUBLISHED:
        model = get_model(config.name, num_classes=config.num_classes + 1, **options)
        return TorchvisionTask(model)
    categories = get_model_weights(config.name)[config.weights].meta["categories"]
    outputs = [i for i, name in enumerate(categories) if name not in ("__background__", "N/A")]
    common.check_classes(config, len(outputs))
    model = get_model(config.name, num_classes=len(categories), **options)
    eps = 0.0 if config.name.endswith("resnet50_fpn") else 1e-5  # what they were trained with
    for name, layer in [*model.named_modules()]:
        if isinstance(layer, nn.BatchNorm2d):
            model.set_submodule(name, FrozenBatchNorm2d(layer.num_features, eps))
    return TorchvisionTask(model, outputs)


def load_published(network: TorchvisionTask, config: TaskConfig) -> None:
    """torchvision's weights into what `detector` built; raises as `icmlib.downloads.read_state`."""
    weights = get_model_weights(config.name)[config.weights]
    network.model.load_state_dict(read_state(weights.url, f"{config.name} {config.weights}"))


CONV = partial(Conv2dNormActivation, norm_layer=partial(nn.GroupNorm, 8))


class SmallBackbone(nn.Module):
    """Four stride-2 stages and a feature pyramid at strides 4, 8, 16 and 32."""

    def __init__(self, widths: tuple[int, ...], out_channels: int):
        super().__init__()
        self.out_channels = out_channels
        self.stages = nn.ModuleList(
            nn.Sequential(CONV(narrow, wide, stride=2), CONV(wide, wide))
            for narrow, wide in zip((3, *widths), widths)
        )
        self.fpn = FeaturePyramidNetwork(list(widths[1:]), out_channels, LastLevelMaxPool())

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = [x := stage(x) for stage in self.stages]  # (B, widths[i], H / 2^(i+1), W / 2^(i+1))
        return self.fpn(dict(zip("012", maps[1:])))


def small_mask_rcnn(num_classes: int, scale: int = 1) -> TorchvisionTask:
    """A Mask R-CNN of 2.0 M parameters for scenes of about 128x128; of 6.1 M for those of 256x256
    with a `scale` of 2, on channels and anchors. `num_classes` is without the background."""
    wide = 64 * scale
    anchors = tuple((side * scale,) for side in (14, 28, 48, 72))
    model = mask_rcnn.MaskRCNN(
        SmallBackbone(tuple(width * scale for width in (32, 64, 128, 192)), wide),
        rpn_anchor_generator=anchor_utils.AnchorGenerator(anchors, ((1.0,),) * 4),
        rpn_pre_nms_top_n_train=500,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=64,
        box_head=nn.Sequential(
            nn.Flatten(), nn.Linear(wide * 7 * 7, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
        ),
        box_predictor=faster_rcnn.FastRCNNPredictor(256, num_classes + 1),
        box_batch_size_per_image=32,
        box_detections_per_img=30,
        mask_head=mask_rcnn.MaskRCNNHeads(wide, (wide, wide), 1),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(wide, wide, num_classes + 1),
    )
    model.transform = AsItIs(800, 1333, [0.5] * 3, [0.25] * 3)
    return TorchvisionTask(model)
