"""The explanations once more in the shape of SageMaker Clarify's analysis.json, for tools that read it.

It is the shape of Clarify's kernel SHAP over features: `explanations.kernel_shap.LABEL.global_shap_values` and
`expected_value`. A picture's features are 4 x 4 parts of it, `row 0 column 0` the upper left one.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from captum.attr import KernelShap
from torch import Tensor

from model.artifact import LoadedModel
from report.document import write_json
from report.explanations import Explained

PARTS = 4
SAMPLES = 512


def write_analysis(path: Path, model: LoadedModel, explained: Explained) -> None:
    """Kernel SHAP (Lundberg and Lee, 2017) of each explained image's answer; means over the images of a label.

    Global values are mean absolute SHAP values in probability, `expected_value` is the label's probability for a
    picture of the mean colour.
    """
    size = explained.images.shape[-1]
    place = torch.arange(size) * PARTS // size
    parts = (place[:, None] * PARTS + place[None, :]).to(explained.images.device)

    def answer(images: Tensor) -> Tensor:
        return model.network(images).softmax(dim=1)  # type: ignore[no-any-return]

    values: dict[int, list[Tensor]] = defaultdict(list)
    blank = torch.zeros_like(explained.images[:1])
    with torch.inference_mode():
        expected = answer(blank)[0]
        for image, target in zip(explained.images, explained.targets.tolist(), strict=True):
            torch.manual_seed(0)
            shap = KernelShap(answer).attribute(
                image[None],
                baselines=blank,
                target=target,
                feature_mask=parts[None, None],
                n_samples=SAMPLES,
                perturbations_per_eval=32,
                return_input_shape=False,
            )
            values[target].append(shap[0].cpu())
    names = [f"row {i} column {j}" for i in range(PARTS) for j in range(PARTS)]
    labels: dict[str, Any] = {
        model.classes[target]: {
            "global_shap_values": dict(
                zip(names, torch.stack(found).abs().mean(dim=0).tolist(), strict=True)
            ),
            "expected_value": float(expected[target]),
        }
        for target, found in values.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"version": "1.0", "explanations": {"kernel_shap": labels}})
