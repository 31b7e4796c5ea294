"""What the tests of both libraries' task networks share."""

import numpy as np
import torch

from icmlib.io import fingerprint


def pictures() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in ((48, 64), (70, 40))]


def target(image: torch.Tensor, *labels: int) -> dict:
    masks = torch.zeros(len(labels), *image.shape[-2:], dtype=torch.uint8)
    masks[:, 8:32, 8:32] = 1
    boxes = torch.tensor([[8.0, 8, 32, 32]]).repeat(len(labels), 1)
    return {"image_id": 1, "boxes": boxes, "labels": torch.tensor(labels).long(), "masks": masks}


def without_masks(target: dict) -> dict:
    return {key: value for key, value in target.items() if key != "masks"}


def assert_loss_reaches(images, terms: dict[str, torch.Tensor], names: set[str]) -> None:
    assert set(terms) == names
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
    gradients = torch.autograd.grad(sum(terms.values()), images)
    assert all(each.isfinite().all() and each.abs().sum() > 0 for each in gradients)


def assert_trains(network, targets: list[dict]) -> None:
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    before = fingerprint(dict(network.named_buffers()))
    history = []
    for _ in range(5):
        torch.manual_seed(0)
        loss = sum(network.loss(pictures(), targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert all(p.grad is not None for p in network.parameters())
    assert fingerprint(dict(network.named_buffers())) != before
    assert np.isfinite(history).all() and history[-1] < 0.9 * history[0]


def assert_predictions(images, predictions: list[dict], classes: int, masks: bool) -> None:
    """As `icmlib.tasks.TaskNetwork` documents them, in the images' own pixels."""
    for image, found in zip(images, predictions, strict=True):
        height, width = image.shape[-2:]
        count = len(found["scores"])
        assert found["boxes"].shape == (count, 4) and found["labels"].shape == (count,)
        assert found["labels"].dtype == torch.int64 and ("masks" in found) == masks
        if masks:
            assert found["masks"].shape == (count, height, width)
            assert found["masks"].dtype == torch.bool
        if count:
            assert 1 <= found["labels"].min() and found["labels"].max() <= classes
            assert found["boxes"].min() >= 0 and found["boxes"][:, 3].max() <= height
            assert 0.8 * width < found["boxes"][:, 2].max() <= width
            assert not found["scores"].requires_grad


def assert_same(predictions: list[dict], others: list[dict]) -> None:
    for one, other in zip(predictions, others, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def assert_gradient(network, images: list[torch.Tensor], size: float = 1e-6) -> None:
    """Of the features, that of finite differences along a random direction, in double precision."""

    def score(images: list[torch.Tensor]) -> torch.Tensor:
        return sum((m * m).mean() for m in network.features(images).values())

    images = [image.double().requires_grad_() for image in images]
    gradients = torch.autograd.grad(score(images), images)
    generator = torch.Generator().manual_seed(1)
    steps = [size * torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in images]
    with torch.no_grad():
        above = score([x + step for x, step in zip(images, steps)])
        below = score([x - step for x, step in zip(images, steps)])
    expected = sum((g * step).sum() for g, step in zip(gradients, steps))
    torch.testing.assert_close((above - below) / 2, expected, rtol=1e-4, atol=0)
