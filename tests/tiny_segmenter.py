"""A segmentation model that learns red and blue squares in seconds: class scores at an eighth of the size."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from components.core.bundle import Bundle
from components.core.heads import SemanticHead
from components.core.manifest import Manifest
from components.core.masks import ClassMap, encode_mask
from tests.images import job_with_images, squares

CLASSES = ("ground", "red", "blue")
STRIDE = 8
SIZE = 96


def job_with_masks(job_root: Path, counts: dict[str, int], seed: int = 0) -> Manifest:
    """As ``job_with_images``, with a mask for each image instead of boxes."""
    manifest = job_with_images(job_root, counts, seed)
    uris = []
    for row in manifest.rows():
        data = encode_mask(
            painted([(a["class_id"], [a[k] for k in ("x1", "y1", "x2", "y2")]) for a in row["annotations"]])
        )
        digest = hashlib.sha256(data).hexdigest()
        blob = job_root / "blobs" / digest[:2] / f"{digest}.png"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        uris.append(blob.as_uri())
    empty = pl.lit(None, manifest.table.schema["annotations"])
    table = manifest.table.with_columns(empty.alias("annotations"), pl.Series("mask", uris))
    return replace(manifest, table=table, classes=CLASSES)


def painted(boxes) -> ClassMap:
    """The mask of an image of ``squares``: later ones lie on earlier ones."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for class_id, box in boxes:
        x1, y1, x2, y2 = map(int, box)
        mask[y1:y2, x1:x2] = 1 + class_id
    return mask


def train_network(steps=120, batch=16):
    """A torch network from (N, 3, 96, 96) in 0..1 to logits (N, 3, 12, 12)."""
    import torch
    from torch import nn

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    widths = [(3, 16, 2), (16, 32, 2), (32, 32, 2), (32, 32, 1)]
    body = [
        layer
        for before, after, stride in widths
        for layer in (nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.SiLU())
    ]
    network = nn.Sequential(*body, nn.Conv2d(32, len(CLASSES), 1))
    optimiser = torch.optim.AdamW(network.parameters(), lr=8e-3)
    for _ in range(steps):
        drawn = [squares(rng, SIZE) for _ in range(batch)]
        images = np.stack([image for image, _ in drawn]).transpose(0, 3, 1, 2).astype(np.float32) / 255
        masks = torch.from_numpy(np.stack([painted(boxes) for _, boxes in drawn]).astype(np.int64))
        logits = nn.functional.interpolate(network(torch.from_numpy(images)), size=(SIZE, SIZE), mode="bilinear")
        loss = nn.functional.cross_entropy(logits, masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.set_num_threads(threads)
    return network.eval()


def write_bundle(folder: Path, network, *, image_size=(SIZE, SIZE)) -> Path:
    """Export a network as a bundle."""
    import torch

    folder.mkdir(parents=True)
    torch.onnx.export(
        network, (torch.zeros(1, 3, *image_size),), str(folder / "model.onnx"), dynamo=False, opset_version=19,
        input_names=["images"], output_names=["logits"],
    )  # fmt: skip
    Bundle(
        classes=CLASSES,
        image_size=image_size,
        estimator="tiny",
        task="segmentation",
        head=SemanticHead(stride=STRIDE),
        confidence_threshold=0.25,
        nms_threshold=0.7,
        outputs=("logits",),
    ).write(folder)
    return folder
