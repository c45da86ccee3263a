"""Several processes that train one tail: each takes its part of every batch, all take the same step."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of one training. A group of one needs no `torch.distributed`, and calls none of it."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    """Processes on this host, which share its processors."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This process's rows of `count`: the parts differ by one at most and may be empty, but not the first's."""
        start, stop = (-(-rank * count // self.size) for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def from_first(self, value: T) -> T:
        """The first process's value, on all."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def wrap(self, tail: nn.Module) -> nn.Module:
        """A module that computes what `tail` does, with its parameters, for all parts of a batch together.

        Gradients become means over the processes, batch norms use the whole batch's statistics, which makes all
        buffers the same everywhere: there is nothing for DDP to send along.
        """
        if self.size == 1:
            return tail
        device = next(tail.parameters()).device
        if device.type == "cuda":
            return DistributedDataParallel(
                nn.SyncBatchNorm.convert_sync_batchnorm(tail),  # type: ignore[no-untyped-call]
                device_ids=[device.index],
                broadcast_buffers=False,
            )
        for name, module in list(tail.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                tail.set_submodule(name, WholeBatchNorm(module))
        return DistributedDataParallel(tail, broadcast_buffers=False)


class WholeBatchNorm(nn.BatchNorm2d):
    """A batch norm over the parts of all processes; torch's SyncBatchNorm takes no tensors on CPUs.

    Where it is: `need_sync` in https://github.com/pytorch/pytorch/blob/main/torch/nn/modules/batchnorm.py.
    """

    def __init__(self, original: nn.BatchNorm2d) -> None:
        super().__init__(original.num_features, original.eps, original.momentum)
        self._parameters, self._buffers = original._parameters, original._buffers
        self.train(original.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """float [n, C, H, W] to the same; n may be 0."""
        if not self.training:
            return super().forward(inputs)
        shape, dims = (1, -1, 1, 1), (0, 2, 3)
        x = inputs.float()
        count = dist_sum(x.new_tensor(x.numel() // self.num_features))
        mean = dist_sum(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = dist_sum(centred.square().sum(dims)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(inputs.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert isinstance(self.num_batches_tracked, Tensor)
        self.num_batches_tracked.add_(1)
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            assert isinstance(running, Tensor)
            assert self.momentum is not None
            running.lerp_(value, self.momentum)


class _Sum(torch.autograd.Function):
    """A sum over the processes; what each of them does with it comes back as a sum too."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def dist_sum(tensor: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total
