"""A class for every pixel of a picture, from its patches (linear segmentation: DINOv2, Oquab et al. 2023)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image as Picture
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from mmpt.downstream.encoder import Encoder
from mmpt.encoders.image import Image
from mmpt.errors import ConfigError, DataError
from mmpt.finetune import classes
from mmpt.finetune.class_weights import ClassWeights, by_name, check_names, class_weights
from mmpt.finetune.classes import UNKNOWN
from mmpt.finetune.metrics import Metric, values
from mmpt.finetune.objective import labels_of
from mmpt.finetune.stream_task import StreamTask
from mmpt.finetune.tasks import Inputs, Sample
from mmpt.tokens import Batch, Content, Labels

if TYPE_CHECKING:
    from mmpt.finetune.examples import Examples

METRICS = {"mean_iou": Metric(classes.mean_iou), "pixel_accuracy": Metric(classes.accuracy)}
MOST_CLASSES = 1000  # more values are measurements


class Segmenter(StreamTask):
    """A label picture of whole numbers, as large as the picture: an array H x W, or a grey picture.

    Each patch gets a number a class, and these are made as large as the picture that the encoder reads, bilinearly; the
    loss and all metrics count its pixels. The label goes through the same crop, resizing (to the nearest pixel) and
    mirroring as its picture. A prediction is an array (size, size) of the label's own numbers, of the square that was
    read. The mean intersection over union is over classes that are there or were said.

    Args:
        encoder, label, stream, inputs: see `StreamTask`; the stream has to be of pictures.
        ignore: numbers of pixels that count nothing.
        class_weights: `balanced` makes every class count as much as every other, as scikit-learn does; or a weight by
            class, 1 where none is given.
    """

    metrics = METRICS
    checks = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        label: str,
        stream: str,
        inputs: Inputs = None,
        ignore: tuple[int, ...] | list[int] = (255,),
        class_weights: ClassWeights = None,
    ) -> None:
        super().__init__(encoder, label=label, stream=stream, inputs=inputs)
        if not isinstance(self.modality, Image):
            raise ConfigError(
                f"stream: pictures are divided into classes, and '{stream}' is a stream of {self.modality.kind}"
            )
        self.ignore, self.image = tuple(ignore), self.modality
        self.class_weights: ClassWeights = by_name(class_weights)

    def given(self, examples: "Examples") -> Sequence[Any]:
        """As they are."""
        return examples.labels

    def parse(self, label: Any) -> Int[np.ndarray, "height width"]:
        """Whole numbers."""
        return _pixels(label)

    def learn(self, labels: Sequence[Any]) -> dict[str, Any]:
        """The classes' numbers in order, and how many pixels each has."""
        counts: Counter[int] = Counter()
        for label in labels:
            found, often = np.unique(self.parse(label), return_counts=True)
            counts.update(dict(zip(found.tolist(), often.tolist(), strict=True)))
        known = sorted(set(counts) - set(self.ignore))
        if len(known) < 2:
            only = f"is {known[0]} in every pixel" if known else "has no pixel that counts in any"
            raise DataError(f"label '{self.label}' {only} of all {len(labels)} training samples")
        if len(known) > MOST_CLASSES:
            raise DataError(f"label '{self.label}' has {len(known)} different numbers of pixels, which are no classes")
        check_names(self.class_weights, known)
        return {"classes": known, "counts": [counts[name] for name in known]}

    @property
    def size(self) -> int:
        """Classes."""
        return len(self.facts["classes"])

    def read(self, label: Any) -> np.ndarray:
        """The number of the class of every pixel, int16 (H, W)."""
        pixels, known = self.parse(label), np.array(self.facts["classes"])
        numbers = np.searchsorted(known, pixels).clip(max=len(known) - 1)
        ignored = np.isin(pixels, self.ignore)
        unknown = pixels[(known[numbers] != pixels) & ~ignored]
        if unknown.size:
            there = ", ".join(map(str, known[:10]))
            raise DataError(f"{unknown[0]} is no class of the training samples, which have {there}")
        return np.where(ignored, UNKNOWN, numbers).astype(np.int16)

    def align(self, label: np.ndarray | None, sample: Sample) -> np.ndarray | None:
        """What of it is read of the picture, (size, size)."""
        if label is None:
            return None
        if self.stream not in sample.raw:
            raise DataError(f"the sample has no '{self.stream}'")
        width, height = sample.raw[self.stream].size
        if label.shape != (height, width):
            told = " x ".join(map(str, label.shape))
            raise DataError(f"a label of {told} pixels (rows x columns) for a picture of {height} x {width}")
        box, mirrored = self.image.view((width, height), sample.draw)
        shape = self.image.size, self.image.size
        picture = Picture.fromarray(label.astype(np.int32))
        pixels = np.asarray(picture.resize(shape, Picture.Resampling.NEAREST, box=box), dtype=np.int16)
        return pixels[:, ::-1] if mirrored else pixels

    def collate(self, labels: Sequence[np.ndarray | None], streams: Mapping[str, Content]) -> Labels:
        """Pixels (B, size, size)."""
        nothing = np.full((self.image.size, self.image.size), UNKNOWN, np.int16)
        numbers = torch.from_numpy(np.stack([nothing if label is None else label for label in labels]).astype(np.int64))
        known = numbers != UNKNOWN
        return Labels(torch.where(known, numbers, 0), known)

    def _pixelwise(self, outputs: Float[Tensor, "B N V"]) -> Float[Tensor, "B V height width"]:
        """The patches' numbers, without the class token's, at the size of the picture."""
        grid = outputs[:, 1:].float().transpose(1, 2).unflatten(2, (self.image.side, self.image.side))
        return interpolate(grid, size=(self.image.size, self.image.size), mode="bilinear", align_corners=False)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Nats a pixel, (B, size, size)."""
        weight = class_weights(self.class_weights, self.facts["classes"], self.facts["counts"], outputs.device)
        return cross_entropy(self._pixelwise(outputs), labels_of(batch).values, weight, reduction="none")

    def scores(self, outputs: Tensor, batch: Batch) -> Sequence[np.ndarray]:
        """The number of the most probable class of every pixel, int16 (size, size): probabilities would fill memory.

        -1 throughout where a sample has no picture.
        """
        guesses = self._pixelwise(outputs).argmax(1)
        there = batch.streams[self.stream].valid.any(1)
        return list(torch.where(there[:, None, None], guesses, UNKNOWN).to(torch.int16).numpy())

    def truth(self, batch: Batch) -> Sequence[np.ndarray]:
        """Numbers of classes."""
        labels = labels_of(batch)
        return list(torch.where(labels.known, labels.values, UNKNOWN).to(torch.int16).numpy())

    def evidence(self, true: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> tuple[Int[np.ndarray, "B V V"]]:
        """How often each class was taken for each."""
        return (classes.confusions(true, scores, self.size),)

    def decode(self, scores: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        """In the label's own numbers; None where a sample has no picture."""
        names = np.array(self.facts["classes"])
        return [None if (own == UNKNOWN).any() else names[own] for own in scores]

    def confusion(self, evidence: tuple[np.ndarray, ...]) -> Int[np.ndarray, "V V"]:
        """Over all samples."""
        return evidence[0].sum(0)

    def trivial(self, true: Sequence[np.ndarray]) -> dict[str, float]:
        """The commonest class for every pixel."""
        guess = int(np.argmax(self.facts["counts"]))
        return values(self.metrics, self.evidence(true, [np.full_like(own, guess) for own in true]))


def _pixels(label: Any) -> Int[np.ndarray, "height width"]:
    """Of an array, a grey picture or lists; raises DataError for anything else."""
    expected = "expected a label picture: whole numbers of H x W, or a grey picture"
    try:
        pixels = np.asarray(label)
    except ValueError as error:
        raise DataError(f"{expected}, got rows of different lengths") from error
    if pixels.ndim == 3 and (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, 0]  # as pictures in a data set are decoded
    if pixels.ndim != 2 or not pixels.size:
        raise DataError(f"{expected}, got {' x '.join(map(str, pixels.shape)) or type(label).__name__}")
    if pixels.dtype.kind == "f" and np.isfinite(pixels).all() and (pixels % 1 == 0).all():
        pixels = pixels.astype(np.int64)
    if pixels.dtype.kind not in "iu":
        odd = "NaN among them" if pixels.dtype.kind == "f" and np.isnan(pixels).any() else f"{pixels.dtype}"
        raise DataError(f"{expected}, got {odd}")
    return pixels.astype(np.int64)
