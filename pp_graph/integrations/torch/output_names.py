"""Give the outputs of a module their names in `torch.onnx.export`.

The exporter names a value after the torch operator that computes it, such as `clamp_1`. So each output passes through
an operator of its own name, which becomes an ONNX Identity. The exporter removes that again and keeps the name. The
exporter that traces (`dynamo=False`) takes the debug name of a traced value.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import torch

from pp_graph.integrations.torch.interpreter import is_jit_traced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_OPERATORS: Final[dict[str, Callable[[torch.Tensor], torch.Tensor] | None]] = {}
"""Operators by the name that they give."""


def prepare_output_names(names: Iterable[str]) -> None:
    """Define the operators. To be called before an export begins, because that copies the table of known operators.

    Args:
        names: Names of outputs.
    """
    for name in names:
        if name not in _OPERATORS and name.isidentifier():
            _OPERATORS[name] = _defined(name)


def with_output_names(outputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the same tensors, named in the ONNX model if one is being exported.

    Args:
        outputs: Tensors by name.
    """
    if not torch.onnx.is_in_onnx_export():
        return dict(outputs)
    if is_jit_traced():
        for name, value in outputs.items():
            with contextlib.suppress(AttributeError, RuntimeError):  # not a public function
                torch._C._get_value_trace(value).setDebugName(name)  # type: ignore[attr-defined]
        return dict(outputs)
    operators = {name: _OPERATORS.get(name) or _unchanged for name in outputs}
    return {name: operators[name](value) for name, value in outputs.items()}


def _unchanged(value: torch.Tensor) -> torch.Tensor:
    return value


def _identity(x: Any) -> Any:
    from onnxscript.onnx_opset import opset18

    return opset18.Identity(x)


def _defined(name: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Define `pp_graph::<name>`; None without onnxscript, or if this torch has no table to register it in."""
    try:
        import onnxscript  # noqa: F401 - the next line needs it
        from torch.onnx._internal.exporter._torchlib._torchlib_registry import onnx_impl
    except ImportError:
        return None

    def copied(value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    defined = torch.library.custom_op(f"pp_graph::{name}", copied, mutates_args=(), schema="(Tensor x) -> Tensor")
    defined.register_fake(torch.empty_like)
    operator: Callable[[torch.Tensor], torch.Tensor] = getattr(torch.ops.pp_graph, name).default
    onnx_impl(operator, trace_only=True)(_identity)
    return operator
