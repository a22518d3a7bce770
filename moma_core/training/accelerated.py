"""The mixture trained by torch in every process that Hugging Face accelerate sees, extra ``[llm]``.

Each process takes its share of each batch from its own part of the queries on disk; gradients are
averaged by accelerate. Net, losses, dropout and steps are those of the numpy path, so one process
gives what `fitting.fit_pairs` gives, to rounding. The losses themselves stay numpy (1 us a pair):
what is dear is the net, and only the net is on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import InitProcessGroupKwargs  # type: ignore[import-untyped]
from torch.multiprocessing.spawn import spawn

from moma_core.llms.heads.moe import MoEConfig, batch_size, batches, initial
from moma_core.protocols import Progress
from moma_core.training.pair_store import PairStore

if TYPE_CHECKING:
    from moma_core.training.pairs import PairTask

__all__ = ["Mixture", "join", "present", "start", "train_shard"]

_Floats = npt.NDArray[np.float32]
_WAIT = timedelta(days=7)  # the others wait while the main process encodes


class Mixture(torch.nn.Module):
    """`MoEHead`'s net: a gating net picks the top experts, whose outputs are blended (fig. 4).

    Args:
        weights: As `MoEHead` names them, without centre and spread.
        top: Experts that answer a query.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> config = MoEConfig(experts=3, width=4)
        >>> net = Mixture(initial(8, np.zeros(2), config, rng), config.top)
        >>> outputs, gate = net(torch.zeros(5, 8))
        >>> outputs.shape, gate.shape
        (torch.Size([5, 2]), torch.Size([5, 3]))
    """

    def __init__(self, weights: Mapping[str, _Floats], top: int) -> None:
        super().__init__()
        for name, values in weights.items():
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(values.copy())))
        self.top = min(top, len(weights["output"]))

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs (B, outputs) and gate weights (B, K) of inputs (B, d)."""
        own = dict(self.named_parameters())
        experts, width, _ = own["output"].shape
        logits = inputs @ own["gating"]
        least = logits.topk(self.top, dim=1).values[:, -1:]
        gate = logits.masked_fill(logits < least, -torch.inf).softmax(dim=1)
        hidden = torch.relu(inputs @ own["hidden"] + own["hidden_bias"])
        hidden = hidden.view(len(inputs), experts, width).transpose(0, 1)  # (K, B, H)
        outputs = (hidden @ own["output"]).transpose(0, 1) + own["output_bias"]  # (B, K, outputs)
        return (gate[:, None, :] @ outputs)[:, 0, :], gate


def join(cpu: bool = False) -> Accelerator:
    """Return this process's place among those that train together.

    Args:
        cpu: Leave accelerators alone.
    """
    cpu = cpu or not torch.accelerator.is_available()  # else each would train for itself
    return Accelerator(cpu=cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=_WAIT)])


def present() -> int:
    """Return how many accelerators this machine has."""
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def start(work: Callable[..., None], given: tuple[Any, ...], count: int) -> Any:
    """Start ``work(rank, *given)`` in fresh processes.

    Returns:
        What to ``join``: with a timeout, True once all have ended; what one raises, it raises.
    """
    return spawn(work, given, count, join=False)  # type: ignore[no-untyped-call]


def train_shard(
    accelerator: Accelerator, store: PairStore, task: PairTask, tell: Progress | None = None
) -> dict[str, _Floats]:
    """Train with the other processes, which call this at the same time; all get the same weights.

    Args:
        accelerator: Of this process, see `join`.
        store: The pairs; this process reads the inputs of its part of the queries only.
        task: What is trained; its batch is split among the processes.
        tell: Called as by `fit_pairs`; give it to the main process alone.

    Returns:
        The weights of `MoEHead`.
    """
    config, count = task.config.net, accelerator.num_processes
    mean, spread = store.moments.astype(np.float32)
    moments = mean, np.where(spread > 1e-6, spread, np.float32(1.0))
    rng = np.random.default_rng(task.seed)
    weights = initial(store.inputs.shape[1], task.start(), config, rng)
    if accelerator.process_index:  # the first goes on as the numpy path does
        rng = np.random.default_rng([task.seed, accelerator.process_index])
    first, own = _part(store, accelerator)
    size = -(-batch_size(len(store.inputs), config) // count)
    steps = config.epochs * -(-len(own) // size)
    net = Mixture(weights, config.top)
    model, optimiser = accelerator.prepare(net, _adam(net, config))
    grad = task.grad(store, tell, count)
    model.train()
    for done, (rows, dropped) in enumerate(batches(own, moments, config, rng, size), 1):
        for group in optimiser.param_groups:
            group["lr"] = config.rate * 0.5 * (1.0 + float(np.cos(np.pi * done / steps)))
        outputs, gate = model(torch.from_numpy(dropped).to(accelerator.device))
        gradient = grad(first + rows, outputs.detach().float().cpu().numpy())
        # Its gradient by the outputs is the loss's own; the loss's value nobody needs.
        stand_in = (outputs * torch.from_numpy(gradient).to(outputs.device)).sum() / len(rows)
        optimiser.zero_grad()
        accelerator.backward(stand_in + _crowding(accelerator, gate, config))
        optimiser.step()
    trained = {name: each.detach().cpu().numpy() for name, each in net.named_parameters()}
    return {**trained, "centre": moments[0], "spread": moments[1]}


def _part(store: PairStore, accelerator: Accelerator) -> tuple[int, npt.NDArray[np.float32]]:
    """Return where this process's queries begin, and their inputs, still on disk.

    Parts are of one length, so that all take as many steps: the last begins a few rows early.
    """
    n = len(store.inputs)
    length = -(-n // accelerator.num_processes)
    first = min(accelerator.process_index * length, n - length)
    return first, store.inputs[first : first + length]  # type: ignore[return-value]


def _adam(net: Mixture, config: MoEConfig) -> torch.optim.AdamW:
    """Adam with decoupled weight decay, none on biases."""
    named = list(net.named_parameters())
    groups = [
        {"params": [p for name, p in named if name.endswith("bias") is bias], "weight_decay": decay}
        for bias, decay in ((False, config.decay), (True, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=config.rate, eps=1e-8, fused=True)


def _crowding(accelerator: Accelerator, gate: torch.Tensor, config: MoEConfig) -> torch.Tensor:
    """The pull towards experts used equally often, over the batch of all processes together."""
    share: torch.Tensor = accelerator.reduce(gate.detach().mean(dim=0), "mean")
    return config.balance * gate.shape[1] * (share * gate.mean(dim=0)).sum()
