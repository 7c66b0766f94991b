"""Which networks a method can explain: some change what single layers do, and so must know every layer of a pass.

A rectifier called as a function, or a sum of two branches, is no module that such a method could hook. Its maps would come
out all the same, and be wrong. The pass of a network is therefore traced (`torch.fx`) and compared with what a method knows.
"""

import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES, SUPPORTED_NON_LINEAR_LAYERS
from torch import fx, nn

from pretrain_xai.methods import deep_lift
from pretrain_xai.methods.further_methods import FOLLOWS_GRADIENT, HAS_RULE

#: functions and methods of tensors that only move values
_MOVES = (torch.flatten, torch.reshape, operator.getitem, getattr, "flatten", "reshape", "view", "size", "contiguous")
#: functions and methods of tensors that are linear, so that the gradient is their rule
_LINEAR = (*_MOVES, operator.add, torch.add, "add", torch.cat, torch.mean, "mean")


@dataclass(frozen=True)
class LayerRules:
    """What a method knows: types of modules, functions in between, and whether a module may be called twice in a pass."""

    modules: tuple[type[nn.Module], ...]
    functions: tuple[Any, ...] = _MOVES
    #: whether a type must be named itself, and its children are unknown
    exact: bool = True
    reuse: bool = False

    def unknown(self, network: nn.Module) -> str | None:
        """Return in words the first step of the network's pass for which there is no rule; None if there is none."""
        try:
            steps = list(_steps(network))
        except Exception as error:  # tracing runs the user's code
            what = " ".join(f"{type(error).__name__}: {error}".split())[:150]
            return f"its pass can't be traced by torch.fx ({what})"
        calls = Counter(name for name, called in steps if isinstance(called, nn.Module))
        for name, called in steps:
            if isinstance(called, nn.Module):
                if not (type(called) in self.modules if self.exact else isinstance(called, self.modules)):
                    return f"no rule for {type(called).__name__} ({name})"
                if calls[name] > 1 and not self.reuse:
                    return f"{name} is called {calls[name]} times in a pass, give each place a module of its own"
            elif called not in self.functions:
                return f"no rule for the function {getattr(called, '__name__', called)} ({name})"
        return None


#: what a gradient passes through as it is
_PLAIN = (*deep_lift.LINEAR, *deep_lift.RULES)
DEEP_LIFT = LayerRules(_PLAIN, _LINEAR, exact=False)
#: only rectifiers are changed; others must be modules, too
RECTIFIERS = LayerRules(_PLAIN, _LINEAR, exact=False, reuse=True)
CAPTUM_LRP = LayerRules((*SUPPORTED_LAYERS_WITH_RULES, *SUPPORTED_NON_LINEAR_LAYERS))
ZENNIT_LRP = LayerRules((*FOLLOWS_GRADIENT, *HAS_RULE), exact=False)


def _steps(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the name of each step of a pass, and the module, function or tensor method that it calls."""
    for node in fx.Tracer().trace(network).nodes:
        if node.op == "call_module":
            yield str(node.target), network.get_submodule(str(node.target))
        elif node.op in ("call_function", "call_method"):
            yield node.name, node.target
