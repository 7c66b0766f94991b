"""Which networks a method can explain: some change what single layers do, and so must know every layer of a pass.

A rectifier called as a function, or a sum of two branches, is no module that such a method could hook. Its maps would come
out all the same, and be wrong. The pass of a network is therefore traced (`torch.fx`) and compared with what a method knows.
"""

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from pretrain_xai.methods import deep_lift
from pretrain_xai.methods.further_methods import FOLLOWS_GRADIENT, zennit_layers

#: functions and methods of tensors that only move values
_MOVES = (torch.flatten, torch.reshape, operator.getitem, getattr, "flatten", "reshape", "view", "size", "contiguous")
#: functions and methods of tensors that are linear, so that the gradient is their rule
_LINEAR = (*_MOVES, operator.add, torch.add, "add", torch.cat, torch.mean, "mean")


@dataclass(frozen=True)
class LayerRules:
    """What a method knows: types of modules, functions in between, and whether a module may be called twice in a pass."""

    #: a function, since it may import a library that takes seconds
    modules: Callable[[], tuple[type, ...]]
    functions: tuple[Any, ...] = _MOVES
    #: whether a type must be named itself, and its children are unknown
    exact: bool = False
    reuse: bool = False

    def unknown(self, network: nn.Module) -> str | None:
        """Return in words the first step of the network's pass for which there is no rule; None if there is none."""
        try:
            nodes = list(fx.Tracer().trace(network).nodes)
        except Exception as error:  # tracing runs the user's code
            what = " ".join(f"{type(error).__name__}: {error}".split())[:150]
            return f"its pass can't be traced by torch.fx ({what})"
        modules, calls = self.modules(), Counter(node.target for node in nodes if node.op == "call_module")
        for node in nodes:
            if node.op == "call_module":
                kind, count = type(network.get_submodule(str(node.target))), calls[node.target]
                if not (kind in modules if self.exact else issubclass(kind, modules)):
                    return f"no rule for {kind.__name__} ({node.target})"
                if count > 1 and not self.reuse:
                    return f"{node.target} is called {count} times in a pass, give each place a module of its own"
            elif node.op in ("call_function", "call_method") and node.target not in self.functions:
                return f"no rule for the function {getattr(node.target, '__name__', node.target)} ({node.name})"
        return None


def _plain() -> tuple[type, ...]:
    """Return what a gradient passes through as it is."""
    return (*deep_lift.LINEAR, *deep_lift.RULES)


def _captum_layers() -> tuple[type, ...]:
    from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES, SUPPORTED_NON_LINEAR_LAYERS

    return (*SUPPORTED_LAYERS_WITH_RULES, *SUPPORTED_NON_LINEAR_LAYERS)


DEEP_LIFT = LayerRules(_plain, _LINEAR)
#: only rectifiers are changed; others must be modules, too
RECTIFIERS = LayerRules(_plain, _LINEAR, reuse=True)
CAPTUM_LRP = LayerRules(_captum_layers, exact=True)
ZENNIT_LRP = LayerRules(lambda: (*FOLLOWS_GRADIENT, *zennit_layers()))
