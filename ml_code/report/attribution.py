"""Which parts of a picture an answer hangs on, by Captum."""

from __future__ import annotations

from typing import Any

import captum
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from model.artifact import LoadedModel

GRID = 8
"""Importance is kept for 8 x 8 cells of a picture: that is shown, and that is what the deletion score tests."""
_STEPS = 24
# With fewer cells than a ResNet's 7 x 7 at 224 pixels, Grad-CAM cannot say where.
_LEAST_CELLS = 49


def importance(model: LoadedModel, images: Tensor, targets: Tensor) -> tuple[Tensor, str]:
    """How much each cell speaks for class `targets` [N], and how that was found: [N, 8, 8], at least 0, sums 1.

    `images` are preprocessed, [N, 3, S, S], on the model's device. Grad-CAM (Selvaraju et al., 2017) looks at the
    last layer that keeps the picture's plane; where that is too coarse, because pictures are small, integrated
    gradients (Sundararajan et al., 2017) from a picture of the mean colour look at the pixels.
    """
    network, images = model.network, images.detach().clone().requires_grad_(True)
    name, layer, cells = _last_plane(network, images)
    if cells >= _LEAST_CELLS:
        maps = LayerGradCam(network, layer).attribute(images, target=targets, relu_attributions=True)
        method = f"Grad-CAM on layer {name}"
        maps = interpolate(maps.detach(), images.shape[2:], mode="bilinear", align_corners=False)
    else:
        gradients = IntegratedGradients(network)
        maps = gradients.attribute(images, target=targets, n_steps=_STEPS, internal_batch_size=32)
        method = f"integrated gradients of the pixels, {_STEPS} steps from the mean colour"
        maps = maps.detach().sum(dim=1, keepdim=True).abs()
    grid = adaptive_avg_pool2d(maps.float(), GRID)[:, 0].cpu()
    total = grid.sum(dim=(1, 2), keepdim=True)
    # Nothing speaks for the class: every cell counts the same.
    even = torch.full_like(grid, 1 / GRID**2)
    return torch.where(total > 0, grid / total.clamp_min(torch.finfo().tiny), even), (
        f"{method} (Captum {captum.__version__})"
    )


def _last_plane(network: nn.Module, images: Tensor) -> tuple[str, nn.Module, int]:
    """The last module to end, of those used once, whose output is [N, K, h, w] with h x w above 1; and h x w."""
    ended: list[tuple[str, nn.Module, int]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            plane = (
                output.shape[2] * output.shape[3] if isinstance(output, Tensor) and output.ndim == 4 else 0
            )
            ended.append((name, module, plane))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        with torch.inference_mode():
            network(images[:1].detach())
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, *_ in ended]
    planes = [
        (name, module, plane)
        for name, module, plane in ended
        if plane > 1 and names.count(name) == 1 and not isinstance(module, nn.Identity)
    ]
    return planes[-1] if planes else ("", network, 0)
