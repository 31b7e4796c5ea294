"""torchvision's detectors as task networks."""

from collections import OrderedDict

import torch
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool


class TorchvisionTask(nn.Module):
    """Any torchvision R-CNN behind the `icmlib.tasks.TaskNetwork` protocol."""

    def __init__(self, model: GeneralizedRCNN):
        super().__init__()
        self.model = model

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def loss(self, images, targets: list[dict]) -> dict[str, torch.Tensor]:
        """RPN, box and mask losses; torchvision gives them in training mode only."""
        self.model.train()
        for module in self.model.modules():  # a given network keeps its running statistics
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        keys = ("boxes", "labels", "masks")
        targets = [{k: t[k].to(self.device) for k in keys} for t in targets]
        return self.model([x.to(self.device) for x in images], targets)

    def features(self, images) -> dict[str, torch.Tensor]:
        """The backbone's (FPN) maps, finest first."""
        self.model.eval()
        images, _ = self.model.transform([x.to(self.device) for x in images])
        return dict(self.model.backbone(images.tensors))

    @torch.no_grad()
    def predict(self, images, features: dict[str, torch.Tensor] | None = None) -> list[dict]:
        self.model.eval()
        features = self.features(images) if features is None else features
        sizes = [tuple(x.shape[-2:]) for x in images]
        images, _ = self.model.transform([x.to(self.device) for x in images])
        proposals, _ = self.model.rpn(images, features)
        predictions, _ = self.model.roi_heads(features, proposals, images.image_sizes)
        predictions = self.model.transform.postprocess(predictions, images.image_sizes, sizes)
        predictions = [{k: v.cpu() for k, v in p.items()} for p in predictions]
        for prediction in predictions:
            if "masks" in prediction:  # (N, 1, H, W) probabilities -> (N, H, W) bool
                prediction["masks"] = prediction["masks"][:, 0] > 0.5
        return predictions


class AsItIs(GeneralizedRCNNTransform):
    """Normalises and batches images; their size stays (torchvision makes the short side 800)."""

    def resize(self, image, target=None):
        return image, target


class SmallBackbone(nn.Module):
    """Four stride-2 stages and a feature pyramid of 64 channels at strides 4, 8, 16 and 32."""

    out_channels = 64

    def __init__(self, widths=(32, 64, 128, 192)):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(narrow, wide, stride=2), _conv(wide, wide))
            for narrow, wide in zip((3, *widths), widths)
        )
        self.fpn = FeaturePyramidNetwork(list(widths[1:]), 64, LastLevelMaxPool())

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        maps = OrderedDict()
        for i, stage in enumerate(self.stages):
            x = stage(x)  # (B, widths[i], H / 2^(i+1), W / 2^(i+1))
            if i > 0:
                maps[str(i - 1)] = x
        return self.fpn(maps)


def _conv(narrow: int, wide: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(narrow, wide, 3, stride, 1, bias=False), nn.GroupNorm(8, wide), nn.ReLU()
    )


def small_mask_rcnn(num_classes: int) -> TorchvisionTask:
    """A Mask R-CNN of 2.0 M parameters for scenes of about 128x128, trained from scratch.

    Args:
        num_classes: classes without the background.
    """
    levels = ["0", "1", "2"]
    model = MaskRCNN(
        SmallBackbone(),
        rpn_anchor_generator=AnchorGenerator(((14,), (28,), (48,), (72,)), ((1.0,),) * 4),
        rpn_pre_nms_top_n_train=500,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(levels, 7, 2),
        box_head=nn.Sequential(
            nn.Flatten(), nn.Linear(64 * 7 * 7, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
        ),
        box_predictor=FastRCNNPredictor(256, num_classes + 1),
        box_batch_size_per_image=32,
        box_detections_per_img=30,
        mask_roi_pool=MultiScaleRoIAlign(levels, 14, 2),
        mask_head=MaskRCNNHeads(64, (64, 64), 1),
        mask_predictor=MaskRCNNPredictor(64, 64, num_classes + 1),
    )
    model.transform = AsItIs(800, 1333, [0.5, 0.5, 0.5], [0.25, 0.25, 0.25])
    return TorchvisionTask(model)
