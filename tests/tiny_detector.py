"""A detector that learns red and blue squares in seconds: a YOLO in small, with split outputs at one scale."""

from pathlib import Path

import numpy as np

from components.core.bundle import Bundle
from components.core.heads import SplitHead
from tests.images import CLASSES, squares

STRIDE = 8
SIZE = 96


def train_network(steps=150, batch=16):
    """A torch network from (N, 3, 96, 96) in 0..1 to box distances (N, 4, 12, 12) and scores (N, 2, 12, 12)."""
    import torch
    from torch import nn

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # it is too small to share out, and on a busy machine ten times slower if shared
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = _network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, total_steps=steps)
    for _ in range(steps):
        images, boxes, classes = _batch(rng, batch)
        distances, scores = network(images)
        sure = classes.amax(dim=1, keepdim=True)
        loss = nn.functional.binary_cross_entropy(scores, classes, reduction="sum") / sure.sum()
        loss = loss + (sure * nn.functional.smooth_l1_loss(distances, boxes, reduction="none")).sum() / sure.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    torch.set_num_threads(threads)
    return network.eval()


def write_bundle(folder: Path, network, *, confidence_threshold=0.5, opset=19, image_size=(SIZE, SIZE)) -> Path:
    """Export a network as a bundle."""
    import torch

    folder.mkdir(parents=True)
    (folder / "model.pt").write_bytes(b"the trainer's own")
    torch.onnx.export(
        network, (torch.zeros(1, 3, *image_size),), str(folder / "model.onnx"), dynamo=False, opset_version=opset,
        input_names=["images"], output_names=["box0", "cls0"],
    )  # fmt: skip
    Bundle(
        classes=CLASSES,
        image_size=image_size,
        estimator="tiny",
        head=SplitHead(strides=(STRIDE,), reg_max=1, end_to_end=False),
        confidence_threshold=confidence_threshold,
        nms_threshold=0.5,
        outputs=("box0", "cls0"),
        lineage={"base_model": "none"},
    ).write(folder)
    return folder


def through_one_tensor(network):
    """The same network, whose boxes in pixels and scores pass through one tensor, as in a graph of one output."""
    import torch
    from torch import nn

    class OneTensor(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            distances, scores = self.network(images)
            joined = torch.cat([distances * 100, scores], dim=1).flatten(2)
            return joined[:, :4].reshape(distances.shape) / 100, joined[:, 4:].reshape(scores.shape)

    return OneTensor().eval()


def _network():
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [(3, 16, 2), (16, 32, 2), (32, 48, 2), (48, 48, 1), (48, 48, 1)]
            self.body = nn.Sequential(
                *(
                    layer
                    for before, after, stride in widths
                    for layer in (nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.SiLU())
                )
            )
            self.boxes = nn.Conv2d(48, 4, 1)
            self.scores = nn.Conv2d(48, len(CLASSES), 1)
            nn.init.constant_(self.scores.bias, -4.0)

        def forward(self, images):
            features = self.body(images)
            return self.boxes(features), self.scores(features).sigmoid()

    return Network()


def _batch(rng, size):
    import torch

    drawn = [squares(rng, SIZE) for _ in range(size)]
    images = np.stack([image for image, _ in drawn]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    goals = [_goal(boxes) for _, boxes in drawn]
    return (torch.from_numpy(array) for array in (images, *(np.stack(one) for one in zip(*goals, strict=True))))


def _goal(boxes):
    """For each cell near the middle of a box, its distances to the sides in cells, and its class."""
    cells = SIZE // STRIDE
    distances = np.zeros((4, cells, cells), np.float32)
    classes = np.zeros((len(CLASSES), cells, cells), np.float32)
    y, x = (np.mgrid[:cells, :cells] + 0.5).astype(np.float32)
    for class_id, box in boxes:
        x1, y1, x2, y2 = np.array(box, np.float32) / STRIDE
        near = (abs(x - (x1 + x2) / 2) < 0.75) & (abs(y - (y1 + y2) / 2) < 0.75)
        distances[:, near] = np.stack([x - x1, y - y1, x2 - x, y2 - y])[:, near]
        classes[:, near] = 0
        classes[class_id, near] = 1
    return distances, classes
