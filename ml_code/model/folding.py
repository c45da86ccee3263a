"""Batch norms folded into the convolutions before them: the same function in fewer passes over memory."""

import copy
import gc

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy of a network in eval mode; on CPUs a tenth faster, its output the same up to rounding.

    What torch.fx.experimental.optimization.fuse does, importing which warns of torch.jit's deprecation.
    """
    traced = fx.symbolic_trace(copy.deepcopy(network).eval())
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(
            norm := traced.get_submodule(node.target), nn.BatchNorm2d
        ):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) > 1:
            continue
        convolution = traced.get_submodule(before.target)
        if isinstance(convolution, nn.Conv2d):
            traced.set_submodule(before.target, fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.recompile()
    # What traced it holds a copy of all weights, in a cycle.
    gc.collect()
    return traced
