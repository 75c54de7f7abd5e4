"""Explain a GPU that runs out of memory while training: which config key to change, and to what.

The advice comes from the dry run's estimate. It compares the estimate with the memory of the whole GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from toolhone.chat.render import LabelledTokens
from toolhone.config import Config
from toolhone.errors import UserError
from toolhone.pretrained import load_model_config
from toolhone.train.estimate import estimate
from toolhone.train.hardware import Hardware


@contextmanager
def explain_out_of_memory(
    config: Config, hardware: Hardware, rows: Sequence[LabelledTokens], order: Iterable[int] | None
) -> Iterator[None]:
    """Turn torch's error into advice. `order` is that of the rows in an epoch; None: shuffled.

    Raises:
        UserError: if the memory runs out. It names the keys to change and the largest size that fits.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        gigabytes = torch.cuda.mem_get_info()[1] / 1e9
        advice = "; or ".join(_advice(config, hardware, rows, None if order is None else list(order), gigabytes))
        raise UserError(
            f"train: the GPU's memory of {gigabytes:.1f} GB ran out; {advice}. Complete checkpoints are kept"
        ) from None


def _advice(
    config: Config, hardware: Hardware, rows: Sequence[LabelledTokens], order: Sequence[int] | None, limit_gb: float
) -> Iterator[str]:
    """Yield changes to the config. Each is enough by the estimate, and there is always one."""
    model_config = load_model_config(config.model)
    train = config.train

    def needed_gb(some: Sequence[LabelledTokens], **changes: Any) -> float:
        changed = config.model_copy(update={"train": train.model_copy(update=changes)})
        return estimate(changed, hardware, model_config, some, order if len(some) == len(rows) else None).memory_gb

    def fits(recomputes: bool, size: int) -> bool:
        return needed_gb(rows, batch_size=size, activation_checkpointing=recomputes) <= limit_gb

    estimated = needed_gb(rows)
    if estimated <= limit_gb:
        yield (
            f"the estimate is {estimated:.1f} GB, so check with nvidia-smi that no other program uses this GPU, or "
            f"lower train.batch_size ({train.batch_size})"
        )
        return
    is_advised = False
    for recomputes in (False, True)[train.activation_checkpointing :]:
        size = _largest(train.batch_size, partial(fits, recomputes))
        changes = []
        if recomputes and not train.activation_checkpointing:
            changes.append("set train.activation_checkpointing: true")
        if size < train.batch_size:
            accumulation = train.gradient_accumulation * math.ceil(train.batch_size / max(size, 1))
            changes.append(
                f"lower train.batch_size from {train.batch_size} to {size}, the largest that fits by the estimate, and "
                f"raise train.gradient_accumulation to {accumulation}"
            )
        if size:
            is_advised = True
            yield " and ".join(changes)
    if is_advised:
        return
    by_length = sorted(rows, key=len)
    count = _largest(
        len(rows),
        lambda count: needed_gb(by_length[count - 1 : count], batch_size=1, activation_checkpointing=True) <= limit_gb,
    )
    if count:
        yield (
            f"set train.batch_size: 1, train.activation_checkpointing: true and chat.max_tokens: "
            f"{len(by_length[count - 1])}, the longest row that fits by the estimate"
        )
    else:
        yield "set model.quantize: nf4 or choose a smaller model, because not even the shortest row fits"


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest count up to `most` that fits, by bisection; 0 if none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
