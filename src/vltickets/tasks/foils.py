"""Is a caption told from a false wording of it, by what is false? A mean hides what was not grounded."""

from __future__ import annotations

import numpy as np

from vltickets.data import Captions, assemble
from vltickets.tasks.masking import stacked
from vltickets.tasks.protocol import Model, evaluation_batches, mean_by


def accuracy_by_foil(model: Model, captions: Captions) -> dict[str, float]:
    """Return matching's accuracy over captions and their foils, by what is false in the foil: `itm_accuracy/KIND`.

    The model's head is one of pre-training, with `itm_output`; 0.5 is chance. Nothing where the captions have no foils.
    """
    if captions.foils is None or not captions.foil_kinds:
        return {}
    texts, count = stacked(captions.texts, captions.foils), len(captions.texts)
    images = np.tile(captions.images, 2)
    right = np.zeros(2 * count, dtype=np.float32)
    for rows in evaluation_batches(texts.lengths + captions.regions.features.lengths[images]):
        inputs = assemble(texts, rows, captions.regions, images[rows]).to(model.device)
        logits = model.head.itm_output(model.backbone(inputs).pooled)  # type: ignore[operator]
        right[rows] = (logits.argmax(-1) == 1).cpu().numpy() == (rows < count)
    return mean_by(right, 2 * captions.foil_kinds, "itm_accuracy")
