"""Images with labels: the data set type, and the way to tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset


class ImageDataset(Dataset):
    """Grey images with labels, with the attributes and items of torchvision's MNIST family.

    An item is `(PIL.Image of mode "L", int)`, after the transforms.

    Attributes:
        data: the images, uint8 of shape (N, H, W).
        targets: the labels, int64 of shape (N,).
        classes: the name of each label.
    """

    def __init__(
        self,
        data: Tensor,
        targets: Tensor,
        classes: Sequence[str],
        transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:
        self.data, self.targets = data, targets
        self.classes = list(classes)
        self.class_to_idx = {name: index for index, name in enumerate(self.classes)}
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image: Any = Image.fromarray(self.data[index].numpy())
        target: Any = int(self.targets[index])
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target


def tensors(dataset: Dataset, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Stack the first `limit` items (all by default) of a data set of images with labels.

    Images of 8 bits are scaled to [0, 1]; float tensors, which a transform has made, stay as
    they are.

    Returns:
        The images, float32 of shape (N, C, H, W), and the labels, int64 of shape (N,).
    """
    count = len(dataset) if limit is None else min(limit, len(dataset))
    if _is_untransformed(dataset):
        # One conversion of the whole array, instead of one for each item.
        images = _channels_first(torch.as_tensor(dataset.data[:count]))
        return _unit_float(images), torch.as_tensor(dataset.targets[:count], dtype=torch.int64)
    items = [dataset[index] for index in range(count)]
    images = torch.stack([_unit_float(_image_tensor(image)) for image, _ in items])
    return images, torch.tensor([int(label) for _, label in items])


def on_canvas(
    images: Tensor, size: int = 16, shift: int = 0, generator: torch.Generator | None = None
) -> Tensor:
    """Paste each image in the middle of a black square, displaced at random.

    Args:
        images: shape (N, C, H, W).
        size: height and width of the canvas in pixels.
        shift: each image moves by a whole number of pixels from -shift to shift, down and to the
            right, every number equally likely.
        generator: a CPU generator that draws the displacements.

    Returns:
        Shape (N, C, size, size), with the type and device of `images`.

    Raises:
        ValueError: an image would leave the canvas.
    """
    count, channels, height, width = images.shape
    top, left = (size - height) // 2, (size - width) // 2
    if not 0 <= shift <= min(top, left):
        raise ValueError(
            f"Images of {height} x {width} moved by up to {shift} pixels need a canvas of at least "
            f"{max(height, width) + 2 * shift}, not {size}, and shift must not be negative."
        )
    moves = torch.randint(-shift, shift + 1, (2, count, 1), generator=generator)
    rows = top + moves[0] + torch.arange(height)  # (N, H)
    columns = left + moves[1] + torch.arange(width)  # (N, W)
    canvas = images.new_zeros(count, size, size, channels)
    canvas[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]] = (
        images.permute(0, 2, 3, 1)
    )
    return canvas.permute(0, 3, 1, 2).contiguous()


def _is_untransformed(dataset: Dataset) -> bool:
    return (
        isinstance(getattr(dataset, "data", None), Tensor | np.ndarray)
        and hasattr(dataset, "targets")
        and getattr(dataset, "transform", None) is None
        and getattr(dataset, "target_transform", None) is None
    )


def _channels_first(images: Tensor) -> Tensor:
    """(N, H, W) or (N, H, W, C) to (N, C, H, W), as torchvision stores grey and colour images."""
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _image_tensor(image: Image.Image | np.ndarray | Tensor) -> Tensor:
    """A tensor (C, H, W) stays as it is; a picture or an array (H, W) or (H, W, C) becomes one."""
    if isinstance(image, Tensor):
        return image
    return _channels_first(torch.from_numpy(np.array(image))[None])[0]


def _unit_float(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()
