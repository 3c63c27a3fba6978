"""The same small data written as Pascal VOC, COCO and YOLO, for tests of the readers."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

COLOURS = [(220, 30, 30), (30, 200, 30), (30, 30, 220), (200, 200, 30), (30, 200, 200)]
NAMES = ("ant", "cat", "dog")


@dataclass
class Drawn:
    """An image of one grey with filled rectangles: boxes (x0, y0, x1, y1) in whole pixels, labels, crowds."""

    width: int
    height: int
    boxes: list = field(default_factory=list)
    labels: list = field(default_factory=list)
    crowds: list = field(default_factory=list)

    def image(self):
        pixels = np.full((self.height, self.width, 3), 128, np.uint8)
        for i, (x0, y0, x1, y1) in enumerate(self.boxes):
            pixels[y0:y1, x0:x1] = COLOURS[i]
        return Image.fromarray(pixels)


def drawn(rng, objects=3):
    """An image of random size with up to so many rectangles, each in a cell of its own."""
    width, height = (int(side) for side in rng.integers(24, 60, 2))
    count, cell = int(rng.integers(0, objects + 1)), width // max(objects, 1)
    boxes = []
    for i in range(count):
        (x0, x1), (y0, y1) = (_span(rng, side) for side in (cell, height))
        boxes.append([i * cell + x0, y0, i * cell + x1, y1])
    labels, crowds = rng.integers(0, len(NAMES), count).tolist(), (rng.random(count) < 0.2).tolist()
    return Drawn(width, height, boxes, labels, crowds)


def _span(rng, side):
    """Two edges at least two pixels apart: Pascal VOC's reader takes xmin = xmax as no area."""
    low = int(rng.integers(0, side - 1))
    return low, int(rng.integers(low + 2, side + 1))


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_voc(root, images, names=NAMES, split="train"):
    for stem, one in images.items():
        objects = "".join(
            f"<object><name>{escape(names[label])}</name><difficult>{int(crowd)}</difficult><bndbox>"
            f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for (x0, y0, x1, y1), label, crowd in zip(one.boxes, one.labels, one.crowds, strict=True)
        )
        size = f"<size><width>{one.width}</width><height>{one.height}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{stem}.png</filename>{size}{objects}</annotation>"
        write_text(root / f"Annotations/{stem}.xml", text)
        save(root / f"JPEGImages/{stem}.png", one.image())
    write_text(root / f"ImageSets/Main/{split}.txt", "\n".join(images))


def coco(images, names=NAMES, ids=None):
    """The content of a file of annotations; category ids have gaps."""
    content = {"images": [], "annotations": [], "categories": []}
    for label in reversed(range(len(names))):
        content["categories"].append({"id": 7 * label + 1, "name": names[label]})
    for number, (stem, one) in enumerate(images.items()):
        image_id = (ids or {}).get(stem, number + 10)
        size = {"width": one.width, "height": one.height}
        content["images"].append({"id": image_id, "file_name": f"{stem}.png", **size})
        for (x0, y0, x1, y1), label, crowd in zip(one.boxes, one.labels, one.crowds, strict=True):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": 7 * label + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": int(crowd),
                }
            )
    return content


def write_coco(root, images, names=NAMES, split="train"):
    write_text(root / f"annotations/instances_{split}2017.json", json.dumps(coco(images, names)))
    for stem, one in images.items():
        save(root / f"{split}2017/{stem}.png", one.image())


def write_yolo(root, images, names=NAMES, split="train"):
    write_text(root / "data.yaml", f"train: images/train\nval: images/val\nnames: {json.dumps(list(names))}\n")
    for stem, one in images.items():
        lines = [
            f"{label} {(x0 + x1) / 2 / one.width} {(y0 + y1) / 2 / one.height} "
            f"{(x1 - x0) / one.width} {(y1 - y0) / one.height}"
            for (x0, y0, x1, y1), label in zip(one.boxes, one.labels, strict=True)
        ]
        write_text(root / f"labels/{split}/{stem}.txt", "\n".join(lines))
        save(root / f"images/{split}/{stem}.png", one.image())


WRITERS = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo}


def read_back(data):
    """A data set as `Drawn` images by stem, to be written again; boxes to the whole pixel."""
    images = {}
    for index in range(len(data)):
        image, target = data[index]
        boxes = target["boxes"].double().numpy() * [image.width, image.height, image.width, image.height]
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
        whole = np.rint(corners)
        assert np.abs(corners - whole).max(initial=0) < 1e-3
        stem = Path(data.path(index)).stem
        crowds = target["iscrowd"].tolist()
        images[stem] = Drawn(*image.size, whole.astype(int).tolist(), target["labels"].tolist(), crowds)
    return images
