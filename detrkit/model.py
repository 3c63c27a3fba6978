"""Detector and build: the one place where names become modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detrkit.backbones import Backbone
from detrkit.box_coders import BoxCoder
from detrkit.building import Parts, box_head, too_small_a_table
from detrkit.classification import Classification
from detrkit.config import DetectorConfig
from detrkit.denoising import Denoising, Noised
from detrkit.encoders import Encoder
from detrkit.errors import ConfigError
from detrkit.fitting import LABELS
from detrkit.heads import head_of, heads, start, told, unrounded
from detrkit.inputs import check_images, mask_at, valid_share
from detrkit.labels import LabelSpace
from detrkit.necks import Neck
from detrkit.outputs import DetectorOutput, LayerOutput, Restored
from detrkit.padding import ExactPadding, every_nth
from detrkit.positional import Positional
from detrkit.presets import config as preset_config
from detrkit.queries import ObjectQueries
from detrkit.registry import REGISTRY
from detrkit.selection import Selection
from detrkit.targets import check_targets
from detrkit.transformer import Decoder, Memory, Queries, with_position

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from detrkit.checkpoints.report import LoadReport
    from detrkit.detections import Detections

__all__ = ["Detector", "DetectorOutput", "LayerOutput", "Restored", "build", "check_images", "mask_at"]


class Detector(nn.Module):
    """A detector of the DETR family: trunk, tokens, encoder, queries, decoder, heads (DETR, figure 2).

    Use `build` to make one.

    Attributes:
        config: what it was built from.
        label_space: the classes it knows.
        loaded: what became of every tensor when it was loaded from a file; None for a fresh one.
    """

    loaded: LoadReport | None = None

    def __init__(
        self,
        config: DetectorConfig,
        label_space: LabelSpace,
        *,
        backbone: Backbone,
        neck: Neck,
        positional: Positional | None,
        encoder: Encoder,
        queries: ObjectQueries,
        decoder: Decoder,
        box_coder: BoxCoder,
        classification: Classification,
        selection: Selection,
        denoising: Denoising | None = None,
        exact_padding: ExactPadding | None = None,
    ) -> None:
        super().__init__()
        self.config, self.label_space = config, label_space
        self.box_coder, self.classification = box_coder, classification
        self.backbone, self.positional = backbone, positional
        self.neck = neck
        self.encoder, self.queries, self.decoder = encoder, queries, decoder
        self.selection, self.denoising = selection, denoising
        self.exact_padding = exact_padding
        layers = None if config.share_heads else config.dec_layers
        self.class_embed = heads(lambda: nn.Linear(config.d_model, self.classification.num_logits), layers)
        self.bbox_embed = heads(lambda: box_head(config), layers)
        start(self.class_embed, self.bbox_embed, prior=classification.prior, box_bias=self.box_bias())
        self.layers_told = config.dec_layers if config.aux_loss else 1

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"],
        mask: Bool[Tensor, "B H W"] | None = None,
        targets: Sequence[Any] | None = None,
    ) -> DetectorOutput:
        """Detect.

        Args:
            images: [B, 3, H, W] floating point, normalised by ImageNet's mean and deviation; padded right and below.
            mask: [B, H, W] bool, True = padding; None when nothing is padded.
            targets: of the images, see `SetCriterion`; used in training where the detector restores noised objects.

        Raises:
            ShapeError: images or mask of another dtype or shape, or images that look unnormalised.
        """
        check_images(images, mask)
        memory = self.encoder(self.tokenize(images, mask))
        queries = self.queries(memory)
        noised = self.noise(targets) if self.training and targets is not None else None
        if noised is not None:
            placed = with_noised(queries, noised, self.queries.embed(noised.labels))
        else:
            placed = self.with_every_gradient(queries)
        decoded = self.decoder(placed, memory, self.refine if self.config.refinement != "none" else None)
        states, references = decoded.states[-self.layers_told :], decoded.references[-self.layers_told :]
        logits, offsets = (told(head, states) for head in (self.class_embed, self.bbox_embed))
        boxes = torch.stack([self.box_coder.decode(o, r) for o, r in zip(offsets, references, strict=True)])
        count = queries.content.shape[1]
        found = DetectorOutput(logits[:, :, :count], boxes[:, :, :count], queries.proposals, groups=queries.groups)
        if noised is None:
            return found
        return found._replace(restored=Restored(logits[:, :, count:], boxes[:, :, count:], noised))

    def with_every_gradient(self, queries: Queries) -> Queries:
        """The same queries; in training without noised ones, what embeds those still gets a gradient, of zero."""
        if not (self.training and LABELS in self.queries.gives):
            return queries
        label = torch.zeros(1, dtype=torch.int64, device=queries.content.device)
        return queries._replace(content=queries.content + 0 * self.queries.embed(label).sum())

    def noise(self, targets: Sequence[Any]) -> Noised | None:
        """Noised queries of the truth, where the detector is trained with them."""
        if self.denoising is None:
            return None
        like = next(self.parameters())
        return self.denoising.noise(check_targets(targets, self.config.num_classes, like=like))

    def shed(self) -> None:
        """Drop what only training asks for: denoising, and the answers of all decoder layers but the last."""
        self.denoising, self.layers_told = None, 1
        self.class_embed = head_of(self.class_embed, -1)
        if self.config.refinement == "none":
            self.bbox_embed = head_of(self.bbox_embed, -1)

    def box_bias(self) -> float | None:
        """What width and height of boxes start from; None where boxes are told from no reference."""
        if self.queries.box_bias is not None:
            return self.queries.box_bias
        return self.decoder.placement.box_bias

    def refine(
        self, layer: int, states: Float[Tensor, "B Q D"], references: Float[Tensor, "B Q P"]
    ) -> Float[Tensor, "B Q 4"]:
        """Where references, points or boxes, move after a decoder layer: to its boxes."""
        return self.box_coder.decode(unrounded(head_of(self.bbox_embed, layer), states), references)

    def tokenize(self, images: Float[Tensor, "B 3 H W"], mask: Bool[Tensor, "B H W"] | None) -> Memory:
        """Images -> tokens with positions, before the encoder."""
        levels = self.see(images, mask)
        shapes = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        paddings = None
        if mask is not None:
            where = zip(self.neck.strides, shapes, strict=True)
            paddings = [self.padding_at(mask, stride, *shape) for stride, shape in where]
        positions = self.positions_of(images, shapes, paddings)
        tokens = self.config.feature_scale * torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)
        if self.config.position_at == "input":
            tokens, positions = with_position(tokens, positions), None
        if paddings is None:
            return Memory(tokens, positions, None, shapes)
        padding = torch.cat([padding.flatten(1) for padding in paddings], dim=1)
        return Memory(
            tokens, positions, padding, shapes, torch.stack([valid_share(p, tokens) for p in paddings], dim=1)
        )

    def positions_of(
        self, images: Tensor, shapes: Sequence[tuple[int, int]], paddings: Sequence[Tensor] | None
    ) -> Tensor | None:
        """Codes of all cells [B, N, D], those of a level told apart by the neck; without positions, by this alone."""
        if self.positional is None and self.neck.level_embed is None:
            return None
        codes = []
        for level, (height, width) in enumerate(shapes):
            if self.positional is None:
                code = images.new_zeros((images.shape[0], height * width, self.config.d_model))
            else:
                nowhere = images.new_zeros((images.shape[0], height, width), dtype=torch.bool)
                code = self.positional(nowhere if paddings is None else paddings[level]).flatten(2).transpose(1, 2)
            codes.append(code if self.neck.level_embed is None else code + self.neck.level_embed[level])
        return torch.cat(codes, dim=1)

    def see(self, images: Float[Tensor, "B 3 H W"], mask: Bool[Tensor, "B H W"] | None) -> list[Tensor]:
        """One map of the transformer's width a level."""
        if mask is None or self.exact_padding is None:
            return self.neck(self.backbone(images))
        with self.exact_padding.hiding(mask):
            return self.neck(self.backbone(images))

    def padding_at(self, mask: Bool[Tensor, "B H W"], stride: int, height: int, width: int) -> Bool[Tensor, "B h w"]:
        """Which cells of a level are padding."""
        if self.exact_padding is None:
            return mask_at(mask, height, width)
        return every_nth(mask, stride, height, width)

    def predict(
        self,
        images: Iterable[Any],
        *,
        threshold: float = 0.5,
        batch_size: int = 8,
        progress: bool | None = None,
    ) -> list[Detections]:
        """Detect in images of any source: paths, PIL images, arrays [H, W, C] uint8, tensors [C, H, W] uint8.

        Args:
            images: what to look at, read a batch at a time; grey, RGB or RGBA (not BGR). Each is resized, normalised
                and padded as in training.
            threshold: least score of a detection, in [0, 1].
            batch_size: most images at a time. Those of a batch come to one size, so that none is padded: what is found
                in an image does not depend on the others.
            progress: show a progress bar on stderr; None: where that is no terminal, a line every half minute instead,
                and nothing for a single batch.

        Returns:
            One `Detections` an image: xyxy boxes in pixels of the original image, best first; no NMS.

        Raises:
            DataError: a file that cannot be read; names its path.
            ShapeError: something else that is no image; names its place.
        """
        from detrkit.prediction import predict

        return predict(self, images, threshold=threshold, batch_size=batch_size, progress=progress)

    def stream(self, images: Iterable[Any], *, threshold: float = 0.5, batch_size: int = 8) -> Iterator[Detections]:
        """Detect in images without end, in their order, the same as `predict` finds.

        No more than six batches are in memory. Images are read by a thread of its own while the net works on others.
        Frames of videos: ``model.stream(frame.image for frame in detrkit.streaming.Files(["clip.mp4"]))``.

        Args:
            images: what `predict` takes; an iterator is read some batches ahead.
            threshold: least score of a detection, in [0, 1].
            batch_size: most images at a time.

        Raises:
            DetrkitError: an option out of range, at once; what `predict` raises, when its turn comes.
        """
        from detrkit.prediction import stream

        return stream(self, images, threshold=threshold, batch_size=batch_size)

    def for_inference(
        self, *, fold: bool = True, amp: Literal["none", "bf16"] = "none", compile: bool = False
    ) -> Detector:
        """A copy that says the same in less time and learns nothing more; see `detrkit.inference.for_inference`."""
        from detrkit.inference import for_inference

        return for_inference(self, fold=fold, amp=amp, compile=compile)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder to publish: a readable ``config.json`` and ``model.safetensors``, bound by a hash.

        Raises:
            WriteError: the folder cannot be written.
        """
        from detrkit.checkpoints import save_pretrained

        save_pretrained(self, folder)

    @staticmethod
    def from_pretrained(folder: str | Path) -> Detector:
        """The detector of a folder that `save_pretrained` wrote, in evaluation mode; `detrkit.load` reads it too.

        Raises:
            CheckpointError: something is missing, damaged, or of another save.
        """
        from detrkit.checkpoints import load_pretrained

        return load_pretrained(folder)


def with_noised(queries: Queries, noised: Noised, content: Float[Tensor, "B G n D"]) -> Queries:
    """The queries with denoising ones behind them."""
    boxes = noised.boxes.flatten(1, 2)
    if queries.references is None or queries.references.shape[-1] != boxes.shape[-1]:
        raise ConfigError(["denoising: needs queries whose references are boxes, such as queries=labelled or mixed"])
    return queries._replace(
        content=torch.cat([queries.content, content.flatten(1, 2)], dim=1),
        references=torch.cat([queries.references, boxes], dim=1),
        empty=noised.empty,
    )


def build(
    config: DetectorConfig | str,
    *,
    label_space: LabelSpace | None = None,
    init_from: str | Path | Detector | None = None,
    **changes: Any,
) -> Detector:
    """Build a detector from a configuration or a preset's name.

    Args:
        config: what to build.
        label_space: the classes; gives `num_classes`. By default as many nameless ones as the configuration says.
        init_from: a detector, or anything `detrkit.load` takes, to carry over what fits: class rows by name, the first
            queries or all of them in turn, the trunk if it is the same. ``print(model.loaded)`` tells what became of
            each tensor.
        changes: fields of the configuration to change.

    Raises:
        ConfigError: everything that is wrong with the configuration, before a tensor exists.
        CheckpointError: nothing can be carried over.
    """
    if label_space is not None:
        changes = {"num_classes": len(label_space), **changes}
    config = preset_config(config, **changes) if isinstance(config, str) else config.replace(**changes).check()
    label_space = label_space or LabelSpace.numbered(config.num_classes)
    if len(label_space) != config.num_classes:
        raise ConfigError(
            [
                f"num_classes={config.num_classes}, but the label space has {len(label_space)} classes: "
                f"{', '.join(label_space.names)}"
            ]
        )
    model = _assemble(config, label_space)
    if init_from is not None:
        from detrkit.checkpoints import initialize_from

        initialize_from(model, init_from)
    return model


def _assemble(config: DetectorConfig, label_space: LabelSpace) -> Detector:
    backbone = REGISTRY.make("backbones", config.backbone)
    parts = Parts(config, backbone)
    neck, positional = parts.make("necks", config.neck), parts.make("positional", config.positional)
    parts.dimensions |= {"num_levels": len(neck.strides), "level_strides": neck.strides}
    if problem := too_small_a_table(config, positional, backbone):
        raise ConfigError([problem])
    exact_padding = ExactPadding(backbone, neck) if config.padding_exact else None
    if exact_padding is not None and (problem := exact_padding.problem(config, positional)):
        raise ConfigError([problem])
    return Detector(
        config,
        label_space,
        backbone=backbone,
        neck=neck,
        positional=positional,
        encoder=parts.encoder(),
        queries=parts.queries(),
        decoder=parts.decoder(),
        box_coder=parts.dimensions["box_coder"],
        classification=parts.make("classification", config.classification),
        selection=parts.make("selection", config.selection),
        denoising=parts.make("denoising", config.denoising),
        exact_padding=exact_padding,
    )
