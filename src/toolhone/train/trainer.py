"""Train an adapter with TRL's SFTTrainer on rows that are already token ids and labels.

The trainer applies no template and does not truncate or filter: `chat/render.py` has checked the rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from transformers import PrinterCallback, set_seed
from trl import SFTConfig, SFTTrainer

from toolhone.chat.render import IGNORED, Rendered
from toolhone.config import Config, TrainConfig
from toolhone.errors import UserError
from toolhone.launcher import world_size
from toolhone.run_folder import RunFolder, fingerprint, missing_adapter_files
from toolhone.train.adapter import changes_base, lora_config, lora_plus_optimizer, make_portable, start_adapter
from toolhone.train.attention import TREE_ATTENTION
from toolhone.train.batches import (
    COUNTS,
    CountingCollator,
    PrefixSampler,
    RowCollator,
    SetEpochCallback,
    TreeCollator,
    tree_features,
)
from toolhone.train.checkpoint import (
    LeaveSignals,
    MarkComplete,
    StopOnSignal,
    checkpoint_to_resume,
    copy_adapter,
    steps_of,
)
from toolhone.train.cpu import TrimHeapCallback
from toolhone.train.fused_lora import fuse_lora, fuses_lora
from toolhone.train.hardware import Hardware, peak_memory_gb
from toolhone.train.log import TrainLog
from toolhone.train.loss import row_loss, tree_loss
from toolhone.train.out_of_memory import explain_out_of_memory
from toolhone.train.packing import flex_fault, tree_attention_of
from toolhone.train.select import Measure, SelectByExactMatch


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The result of training. `finished`: it was not stopped before its last step. `asked_to_stop`: a signal to stop
    came in any step."""

    finished: bool
    asked_to_stop: bool
    steps: int
    seconds: float
    peak_memory_gb: float
    trainable_parameters: int
    total_parameters: int


class ToolCallTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that also takes prefix trees, and counts the examples and tokens of all processes."""

    log_of_steps: TrainLog
    packing: str
    lora_plus: float = 1.0
    prefix_sampler: PrefixSampler | None = None

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self.prefix_sampler is None else self.prefix_sampler

    optimizer: Any

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None and self.lora_plus != 1:
            self.optimizer = lora_plus_optimizer(self, self.model if model is None else model, self.lora_plus)
        return super().create_optimizer(model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean cross-entropy of the labelled tokens of all processes and accumulated batches, like
        SFTTrainer.

        With packing none, the loss is SFTTrainer's own.
        """
        if self.packing == "prefix_tree":
            total = tree_loss(model, inputs)
        elif self.packing == "rows":
            total = row_loss(model, inputs)
        else:
            inputs = {name: value for name, value in inputs.items() if name not in COUNTS}
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if num_items_in_batch is None:
            return total / (inputs["labels"] != IGNORED).sum().clamp(min=1)
        # Trainer counted the labels of all processes, and DDP averages their gradients.
        return total * self.accelerator.num_processes / num_items_in_batch

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        counts = [inputs[name] for name in COUNTS]
        if self.args.world_size > 1:
            of_all = torch.tensor(counts, device=self.args.device)
            counts = self.accelerator.reduce(of_all, reduction="sum").tolist()
        self.log_of_steps.count(*counts)
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        return loss


def train_adapter(
    config: Config,
    hardware: Hardware,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Rendered],
    validation: Sequence[Rendered],
    run: RunFolder,
    console: Console,
    *,
    resume: bool,
    measure: Measure | None = None,
) -> TrainResult:
    """Train on `rows` and save the adapter of the last step in the run folder, or the best one according to `measure`.
    It loads onto the unchanged base model.

    If the checkpoint to resume from is that of the last step, its adapter is saved without further training.

    Raises:
        UserError: if the adapter fits no layer of the model, the loss is not finite, or there is nothing to resume
            from.
    """
    checkpoint = checkpoint_to_resume(run.checkpoints) if resume else None
    set_seed(config.seed)
    log = TrainLog(run.train_log, console)
    stop = StopOnSignal()
    trims = hardware.device == "cpu" and config.cpu.release_memory and config.train.packing != "none"
    callbacks = [log, MarkComplete(config.train.keep_checkpoints), *([TrimHeapCallback()] if trims else [])]
    selection = None
    if measure is not None:
        selection = SelectByExactMatch(measure, run.checkpoints / "selection", config.train.patience, log)
        callbacks.append(selection)
    callbacks.append(stop)  # last, so that a signal while the step is measured stops training after this step
    trainer = make_trainer(config, hardware, model, tokenizer, rows, validation, run, callbacks, resume=resume)
    trainer.remove_callback(PrinterCallback)
    if trainer.args.world_size != world_size():
        raise UserError(
            f"the launcher started {world_size()} processes, but training sees {trainer.args.world_size}; on CPUs use "
            "torchrun, or `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu`"
        )
    started = time.perf_counter()
    step, last_step = steps_of(checkpoint) if checkpoint is not None else (0, 1)
    # From a checkpoint of the last step, Trainer would train one more step.
    is_over = step >= last_step or (selection is not None and selection.ends_at(step))
    if is_over:
        log.say(f"{checkpoint}: is the last step, so nothing is left to train; its adapter is saved")
        log.keep_lines_until(step)
    else:
        try:
            tokens = [row.tokens for row in rows]
            with stop, explain_out_of_memory(config, hardware, tokens, trainer.prefix_sampler):
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            log.close()
    result = TrainResult(
        finished=not stop.stopped,
        asked_to_stop=stop.agreed or (stop.asked and world_size() == 1),
        steps=step if is_over else trainer.state.global_step,
        seconds=round(log.earlier_seconds + time.perf_counter() - started, 1),
        peak_memory_gb=peak_memory_gb(hardware.device),
        trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        total_parameters=trainer.model.num_parameters(),
    )
    if result.finished:
        if checkpoint is None or not is_over:
            trainer.save_model(str(run.adapter))
        elif trainer.is_world_process_zero():
            copy_adapter(checkpoint, run.adapter)
        if trainer.is_world_process_zero():
            if selection is not None:
                selection.take_best(run.adapter)
            if not missing_adapter_files(run.adapter):
                make_portable(run.adapter, config.lora, run.checkpoints)
    return result


def make_trainer(
    config: Config,
    hardware: Hardware,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Rendered],
    validation: Sequence[Rendered],
    run: RunFolder,
    callbacks: list[Any],
    *,
    resume: bool = False,
) -> ToolCallTrainer:
    """Create the trainer of a config. The first callback must be the `TrainLog`, to which the trainer adds its counts.

    Raises:
        UserError: if the adapter fits no layer of the model, or a resumed training lacks the adapter it began with.
    """
    if config.train.packing == "prefix_tree":
        model.set_attn_implementation(TREE_ATTENTION)
    # When resumed, `start_adapter` repeats the saved change of the base weights instead of computing it again.
    init = "default" if resume and changes_base(config.lora) else None
    try:
        trainer = ToolCallTrainer(
            model=model,
            args=training_arguments(config, hardware, run.checkpoints, validates=bool(validation)),
            data_collator=_collator(config, hardware, model, tokenizer),
            train_dataset=_dataset(rows, config.train),
            eval_dataset=_dataset(validation, config.train) if validation else None,
            processing_class=tokenizer,
            peft_config=lora_config(config.lora, model, init=init),
            callbacks=callbacks,
        )
    except ValueError as error:
        if "Target modules" not in str(error):
            raise
        raise UserError(f"lora.targets: {list(config.lora.targets)} names no layer of {config.model.name}") from None
    start_adapter(config.lora, trainer.model, run.checkpoints, resume=resume, is_main=trainer.is_world_process_zero())
    trainer.log_of_steps, trainer.packing = callbacks[0], config.train.packing
    trainer.lora_plus = config.lora.plus
    if config.train.packing == "none":
        trainer.data_collator = CountingCollator(trainer.data_collator)
    if config.train.packing == "prefix_tree":
        sampler = prefix_sampler(rows, config.train, config.seed)
        if not sampler.is_plain:  # otherwise keep SFTTrainer's order, as without prefix trees
            trainer.prefix_sampler = sampler
            trainer.add_callback(SetEpochCallback(sampler))
    if fuses_lora(config, hardware):
        fuse_lora(trainer.model)
    _try_flex(trainer, config.train)
    if trainer.args.dataloader_num_workers:
        trainer.data_collator = LeaveSignals(trainer.data_collator)
    return trainer


def _try_flex(trainer: ToolCallTrainer, train: TrainConfig) -> None:
    """Let the collator prepare attention in blocks if FlexAttention does not work with this model on this GPU.

    Raises:
        UserError: if the config asks for FlexAttention.
    """
    collator = trainer.data_collator
    if not isinstance(collator, TreeCollator) or not collator.attention.flex:
        return
    if trainer.is_fsdp_enabled:  # the model is not on the GPU yet
        return
    with trainer.compute_loss_context_manager():
        fault = flex_fault(trainer.model, collator.attention)
    if fault is None:
        return
    if train.attention == "flex":
        raise UserError(f"train.attention: flex does not work with this model here ({fault}); set it to blocks")
    trainer.log_of_steps.say(f"train.attention: blocks instead of flex, because a trial step fails ({fault})")
    trainer.data_collator = replace(collator, attention=replace(collator.attention, flex=False))


def training_arguments(config: Config, hardware: Hardware, folder: Path, *, validates: bool) -> SFTConfig:
    """Convert the config to TRL's arguments."""
    train = config.train
    validate = "steps" if train.validate_every else "epoch"
    on_cuda = hardware.device == "cuda"
    workers = config.cuda.workers if on_cuda else 0
    # transformers 5 reads TensorBoard's folder only from the environment.
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder.parent / "tensorboard"))
    arguments = SFTConfig(
        output_dir=str(folder),
        trust_remote_code=config.model.trust_remote_code,
        run_name=config.name,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=hardware.device == "cpu",
        # Autocast copies each activation, and accelerate then copies all logits (see `fuse_lora`).
        bf16=hardware.dtype == torch.bfloat16 and not fuses_lora(config, hardware),
        fp16=hardware.dtype == torch.float16,
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.scheduler,
        warmup_steps=train.warmup,  # transformers 5 reads a number below 1 as a fraction of the steps
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=_optimizer(train, hardware),
        gradient_checkpointing=None,  # its older name, which TRL sets
        activation_checkpointing=train.activation_checkpointing,
        logging_steps=train.log_every,
        logging_nan_inf_filter=False,
        eval_strategy=validate if validates else "no",
        eval_steps=train.validate_every,
        save_strategy="steps" if train.save_every else "epoch",
        save_steps=train.save_every or 500,
        save_total_limit=None,  # MarkComplete deletes older checkpoints
        report_to=list(train.report_to) or "none",
        disable_tqdm=True,
        # The rows are final: do not truncate, filter or encode them.
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        packing=False,
        remove_unused_columns=False,
        router_aux_loss_coef=0.0,  # the routers of a mixture of experts stay frozen, so balancing them is no aim
        ddp_find_unused_parameters=False,
        average_tokens_across_devices=True,
        # From pinned memory, a batch is copied to the GPU while the GPU still computes the one before.
        accelerator_config={"dispatch_batches": False, "split_batches": False, "non_blocking": on_cuda},
        dataloader_pin_memory=on_cuda,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
    )
    if on_cuda and world_size() == 1:
        arguments._n_gpu = 1  # otherwise Trainer uses DataParallel on all visible GPUs, which TRL refuses
    return arguments


def _optimizer(train: TrainConfig, hardware: Hardware) -> str:
    if train.optimizer != "auto":
        return train.optimizer
    return "adamw_torch_fused" if hardware.device == "cuda" else "adamw_torch"


def _collator(config: Config, hardware: Hardware, model: Any, tokenizer: Any) -> TreeCollator | RowCollator | None:
    """Return the collator of prefix trees or of rows; None for SFTTrainer's own."""
    if config.train.packing == "prefix_tree":
        attention = tree_attention_of(config, hardware, model.config)
        return TreeCollator(tokenizer.pad_token_id, config.train.tree_tokens, attention)
    return RowCollator(tokenizer.pad_token_id) if config.train.packing == "rows" else None


def _dataset(rows: Sequence[Rendered], train: TrainConfig) -> Dataset:
    if train.packing != "none":
        return Dataset.from_list([tree_features(row.tokens) for row in rows])
    return Dataset.from_list([{"input_ids": row.tokens.ids, "labels": row.tokens.labels} for row in rows])


def prefix_sampler(rows: Sequence[Rendered], train: TrainConfig, seed: int) -> PrefixSampler:
    """Return the sampler that orders these rows for prefix trees."""
    conversations = [row.example.conversation_id for row in rows]
    groups = [_group(row) for row in rows]
    return PrefixSampler(groups, conversations, train.batch_size, train.groups_per_batch, seed)


def _group(row: Rendered) -> str:
    """Return a key that is equal for rows with the same system prompt and tools."""
    system = [message.content for message in row.example.prompt[:1] if message.role == "system"]
    return fingerprint(system, [tool.to_json() for tool in row.example.tools])
