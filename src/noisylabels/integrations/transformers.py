"""A loss in the Trainer of Hugging Face's ``transformers``.

Both parts of it are given to the Trainer::

    from noisylabels.integrations.transformers import LossFunction, LossProgress
    from noisylabels.losses import DynamicsAwareLoss

    loss = DynamicsAwareLoss(q_start=0.4)
    trainer = Trainer(
        model,
        arguments,
        train_dataset=train,
        compute_loss_func=LossFunction(loss),
        callbacks=[LossProgress(loss)],
    )
"""

import copy
import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from noisylabels.atomic import replacing
from noisylabels.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MissingExtraError,
    check_range,
)
from noisylabels.integrations import set_progress
from noisylabels.losses import Loss

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise MissingExtraError("transformers", "transformers") from error

IGNORED = -100
"""The label that the Trainer does not count."""
STATE = "noisylabels.pt"
"""The file of a checkpoint that has the loss's state."""


class LossFunction:
    r"""What a Trainer takes as ``compute_loss_func``: a loss for heads that classify.

    The Trainer divides neither by the batches of a step (``gradient_accumulation_steps``) nor by
    the processes once it has one, so this is

    .. math:: \frac{1}{N} \sum_i \ell_i

    over the examples (or tokens) of a batch, with :math:`N` those of the whole step, of which the
    Trainer says how many there are; those labelled -100 count for nothing. Class weights and
    smoothing are the loss's own, and N counts examples, not their weights: choose weights whose
    mean over the examples is 1.

    Evaluation (whatever is computed without gradients) takes the same loss, but with the
    hyper-parameters of ``evaluation_progress``. So ``eval_loss`` means the same after every
    epoch, and ``load_best_model_at_end`` compares models, not exponents. By default they are those
    of the beginning, where a dynamic loss is nearest to cross entropy and nothing in it rewards
    confidence whatever the label is.

    Args:
        loss: The loss to train with. Its ``reduction`` is not used.
        evaluation_progress: The progress that evaluation takes, in [0, 1].

    Raises:
        ConfigError: ``evaluation_progress`` is out of its range, there is no loss, or it ignores
            another label than -100, which the Trainer would count.

    Example:
        >>> from noisylabels.losses import DynamicsAwareLoss
        >>> function = LossFunction(DynamicsAwareLoss())
        >>> outputs = {"logits": torch.zeros(2, 4)}
        >>> function(outputs, torch.tensor([3, 0]), num_items_in_batch=8)
        tensor(0.2353)
    """

    def __init__(self, loss: Loss, *, evaluation_progress: float = 0.0) -> None:
        check_range("evaluation_progress", evaluation_progress, high=1.0)
        if not isinstance(loss, Loss):
            raise ConfigError(
                f"expected a loss, such as DynamicsAwareLoss() or build('dal'), got {loss!r}"
            )
        if loss.ignore_index != IGNORED:
            raise ConfigError(
                f"ignore_index must be {IGNORED}, which the Trainer counts by, "
                f"got {loss.ignore_index}"
            )
        self.loss = loss
        self._fixed = copy.deepcopy(loss).eval()
        self._fixed.progress = evaluation_progress

    def __call__(
        self,
        outputs: Mapping[str, Any] | tuple[Any, ...],
        labels: Tensor | None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Compute a batch's part of the loss of a step.

        Args:
            outputs: What the model returned: logits of shape (..., K) under ``"logits"``, or first.
            labels: Classes of shape (...), or class probabilities of the shape of the logits.
            num_items_in_batch: How many labels the step has, as the Trainer counts: every number
                in ``labels`` that is not -100, those of class probabilities included. By default
                those of this batch.

        Returns:
            A scalar; 0 for a batch without labels to learn from.

        Raises:
            ConfigError: The outputs are of a causal language model, whose labels must be shifted.
            DataError: There are no labels, their shape does not fit, or, but on a GPU, one is no
                class.
        """
        logits = _logits(outputs)
        logits, labels = _flatten(logits, labels)
        classes = logits.shape[1] if labels.is_floating_point() else 1
        if num_items_in_batch is None:
            count = labels.new_tensor(len(labels), dtype=torch.long)
            if not labels.is_floating_point():
                count = labels.ne(IGNORED).sum()
        else:
            # Under DataParallel there is one for each device, and what is returned is multiplied
            # by their number (or the number was divided by it).
            count = torch.as_tensor(num_items_in_batch, device=logits.device).sum() / classes
        # A step of ignored examples alone must leave the weights as they are.
        return self._sum(logits, labels) / count.clamp(min=1)

    def _sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = self.loss if torch.is_grad_enabled() else self._fixed
        loss.to(logits.device)
        reduction, loss.reduction = loss.reduction, "sum"
        try:
            total: Tensor = loss(logits, labels)
        except IndexError as error:
            raise DataError(
                f"a label is no class of the model, which has {logits.shape[1]} (`num_labels`), "
                f"nor {IGNORED}: {error}"
            ) from None
        finally:
            loss.reduction = reduction
        return total


class LossProgress(TrainerCallback):
    """Sets the progress of a loss before every step of a Trainer, and keeps its state.

    Progress is ``global_step / max_steps``, both of which a Trainer resumes from its checkpoints,
    within an epoch too. What else a loss remembers is a file of each checkpoint's folder,
    :data:`STATE`, from which training that is resumed goes on.

    Args:
        loss: The loss that was given to :class:`LossFunction`, or a module that holds losses.
        resume_from_checkpoint: The folder that the Trainer is told to resume from, where it is
            neither in its ``output_dir`` nor in its arguments: it does not tell its callbacks.

    Raises:
        ConfigError: It is no module; or, when training starts, the module holds no loss.
        CheckpointError: When training is resumed: the file cannot be read, or is of another loss.
    """

    def __init__(
        self, loss: nn.Module, *, resume_from_checkpoint: str | os.PathLike[str] | None = None
    ) -> None:
        if not isinstance(loss, nn.Module):
            raise ConfigError(
                f"expected the loss that LossFunction was given, or a module that holds losses, "
                f"got {loss!r}"
            )
        self.loss = loss
        self.resume_from_checkpoint = resume_from_checkpoint

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Restore the state to resume with, and set the progress before the first step."""
        if state.global_step:
            self._restore(args, state)
        self.on_step_begin(args, state, control)

    def on_step_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Set the progress before a step."""
        set_progress(self.loss, min(1.0, state.global_step / max(1, state.max_steps)))

    def on_save(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Write the loss's state beside the Trainer's."""
        folder = _own_folder(args, state)
        # A search of hyper-parameters has other folders, and never resumes.
        if state.is_world_process_zero and folder.is_dir():
            losses = {name: loss.state_dict() for name, loss in _find_losses(self.loss).items()}
            with replacing(folder / STATE) as path:
                torch.save({"run": _identify(state), "losses": losses}, path)

    def _restore(self, args: "TrainingArguments", state: "TrainerState") -> None:
        named = self.resume_from_checkpoint or args.resume_from_checkpoint
        folders = [Path(named)] if isinstance(named, str | os.PathLike) else []
        for folder in [*folders, _own_folder(args, state)]:
            path = folder / STATE
            if not path.exists():
                continue
            try:
                saved = torch.load(path, map_location="cpu", weights_only=True)
                # Another run may have left a checkpoint of as many steps.
                if saved["run"] != _identify(state):
                    continue
                for name, loss in _find_losses(self.loss).items():
                    loss.load_state_dict(saved["losses"][name])
            except (RuntimeError, OSError, KeyError, EOFError, UnpicklingError) as error:
                # Torch's messages have lines.
                raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error
            return
        if any(map(_remembers, self.loss.modules())):
            warnings.warn(
                f"the loss goes on from step {state.global_step} without what it remembered: "
                f"{_own_folder(args, state)} has no {STATE} of this run; if training is resumed "
                f"from another folder, write LossProgress(loss, resume_from_checkpoint=folder)",
                stacklevel=2,
            )


def _find_losses(module: nn.Module, path: str = "loss") -> dict[str, Loss]:
    """Return the losses in a module by where they are, without those that losses are made of."""
    if isinstance(module, Loss):
        return {path: module}
    found: dict[str, Loss] = {}
    for name, child in module.named_children():
        found |= _find_losses(child, f"{path}.{name}")
    return found


def _own_folder(args: "TrainingArguments", state: "TrainerState") -> Path:
    return Path(str(args.output_dir), f"checkpoint-{state.global_step}")


def _identify(state: "TrainerState") -> str:
    """Return what tells a run from others at the same step: all that it has logged."""
    text = json.dumps([state.global_step, state.log_history], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _remembers(module: nn.Module) -> bool:
    """Say whether a module is a loss whose state is more than its progress."""
    if not isinstance(module, Loss):
        return False
    state = module.get_extra_state()
    return bool(state["schedules"]) or not state.keys() <= {"progress", "schedules"}


def _logits(outputs: Mapping[str, Any] | tuple[Any, ...]) -> Tensor:
    kind = type(outputs).__name__
    if "CausalLM" in kind:
        raise ConfigError(
            f"{kind}: a causal language model predicts the next token, and this loss is for heads "
            f"that classify"
        )
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else outputs[0]
    if not isinstance(logits, Tensor):
        raise ConfigError(f"{kind}: expected a tensor of `logits`, got {type(logits).__name__}")
    return logits


def _flatten(logits: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Bring logits and labels to shapes (N, K) and (N) or (N, K)."""
    if labels is None:
        raise DataError("the batch has no labels: expected a column `labels` in the training data")
    given = labels.shape
    fits = logits.shape if labels.is_floating_point() else logits.shape[:-1]
    if logits.ndim < 2 or given != fits:
        raise DataError(
            f"labels of shape {tuple(given)} do not fit logits of shape {tuple(logits.shape)}: "
            f"expected classes of shape (..., ) or class probabilities (floats) of shape (..., K)"
        )
    # A model spread over several devices returns its logits on the last one.
    logits, labels = logits.flatten(0, -2), labels.to(logits.device)
    if not labels.is_floating_point():
        # Of any whole numbers: data sets have short ones.
        return logits, labels.flatten().long()
    labels = labels.flatten(0, -2)
    known = labels.ne(IGNORED).all(1)
    return logits[known], labels[known]
