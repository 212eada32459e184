"""The loss of each row, from which the loss of any sample of them follows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedModel

from llm_platform.errors import TrainingError
from llm_platform.reporting import Reporter
from llm_platform.training import batches
from llm_platform.training.batches import collate
from llm_platform.training.device import autocast, explain_out_of_memory
from llm_platform.training.loss import label_logits
from llm_platform.training.rows import Rows


@torch.inference_mode()
def row_losses(model: PreTrainedModel, rows: Rows, batch_size: int, reporter: Reporter) -> NDArray[np.float64]:
    """Summed cross-entropy in nats of each row's trained tokens, [N]. Raises TrainingError, naming rows, if one is not finite."""
    losses = np.zeros(len(rows))
    for indices in batches.by_length(rows.lengths, batch_size):
        reporter.check_cancelled()
        batch = collate(rows, indices, model.device)
        with (
            explain_out_of_memory(f"measuring the loss of {len(indices)} rows", "Lower batch_size"),
            autocast(model.device, model.dtype),
        ):
            each = functional.cross_entropy(label_logits(model, batch), batch.targets, reduction="none").double()
        place = batch.positions // batch.input_ids.shape[1]
        losses[indices] = torch.zeros(len(indices), dtype=torch.float64, device=each.device).index_add_(0, place, each).cpu().numpy()
    broken = rows.numbers(np.flatnonzero(~np.isfinite(losses)))
    if broken:
        raise TrainingError(f"The loss of rows {', '.join(map(str, broken[:50]))} is not a finite number", rows=broken[:100])
    return losses
