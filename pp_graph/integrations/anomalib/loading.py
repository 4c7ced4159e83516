"""Open the checkpoint of an Anomalib model. It does not name the model's class."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import ModelError, StatisticsError
from pp_graph.extras import require_extra
from pp_graph.integrations.exporting import reason_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_COMPONENTS: Final = frozenset({"pre_processor", "post_processor", "evaluator", "visualizer"})
"""Constructor arguments of every model that are not hyperparameters."""


def load_model(
    checkpoint: Path, model_class: type | str | None, *, weights_only: bool, arguments: Mapping[str, Any]
) -> Any:
    """Open a Lightning checkpoint of an Anomalib model, on the CPU.

    Args:
        checkpoint: The `.ckpt`.
        model_class: The model's class, or its name in `anomalib.models`; None if only one class has the hyperparameters
            in the checkpoint.
        weights_only: True to load tensors and plain values only; see `torch.load`.
        arguments: Keyword arguments of the class.

    Returns:
        The `AnomalibModule`.

    Raises:
        ExtraError: Anomalib is not installed.
        ModelError: The file is not a checkpoint, or belongs to another class.
    """
    models = require_extra("anomalib.models", "anomalib", "opening an Anomalib checkpoint")
    if not checkpoint.is_file():
        raise ModelError(f"Checkpoint '{checkpoint}' does not exist, expected a .ckpt of Lightning. Check the path.")
    kind = _matching_class(checkpoint, models) if model_class is None else _named_class(model_class, models)
    options = dict(arguments)
    if "weights_only" in inspect.signature(kind.load_from_checkpoint).parameters or not weights_only:
        options["weights_only"] = weights_only
    try:
        return kind.load_from_checkpoint(checkpoint, map_location="cpu", **options)
    except Exception as error:  # torch, Lightning and the model's constructor raise many types
        reason = f"{reason_for(error)}."
        hint = "Is it the right class? Pass arguments of its constructor with model_arguments={...}."
        if weights_only and type(error).__name__ == "UnpicklingError":
            reason = "it holds more than tensors and plain values, as checkpoints of Anomalib before 2.7 do."
            hint = "If you trust the file, pass weights_only=False: unpickling can run code from the file."
        raise ModelError(f"Checkpoint '{checkpoint}' cannot be opened as {kind.__name__}: {reason} {hint}") from error


def _model_classes(models: Any) -> dict[str, Any]:
    classes = {}
    for name in dir(models):
        kind = getattr(models, name)
        if isinstance(kind, type) and hasattr(kind, "load_from_checkpoint") and not inspect.isabstract(kind):
            classes[name] = kind
    return classes


def _named_class(model_class: type | str, models: Any) -> Any:
    if isinstance(model_class, str):
        known = _model_classes(models)
        found = {name.lower(): kind for name, kind in known.items()}.get(model_class.lower())
        if found is None:
            raise ModelError(
                f"model_class is '{model_class}', expected one of: {', '.join(known)}; or pass the class itself."
            )
        return found
    if not isinstance(model_class, type) or not hasattr(model_class, "load_from_checkpoint"):
        raise ModelError(f"model_class is {model_class!r}, expected a class of an Anomalib model or its name.")
    return model_class


def _matching_class(checkpoint: Path, models: Any) -> Any:
    """Return the class whose constructor takes exactly the hyperparameters in the checkpoint."""
    stored = _hyperparameters(checkpoint)
    # Compare signatures without constructing models, because some download weights.
    matching = {name: kind for name, kind in _model_classes(models).items() if _parameters(kind) == stored}
    if len(matching) == 1:
        return next(iter(matching.values()))
    candidates = f"{' and '.join(matching)} take" if matching else "no Anomalib model takes"
    raise ModelError(
        f"Checkpoint '{checkpoint}' does not name its model, and {candidates} its hyperparameters "
        f"({', '.join(sorted(stored)) or 'none'}). Name the model: export(..., model_class='Padim')."
    )


def _hyperparameters(checkpoint: Path) -> set[str]:
    from pp_graph.statistics.torch_file import TorchZip

    try:
        # It parses the pickle without running it.
        content = TorchZip(checkpoint).content
    except (StatisticsError, OSError) as error:
        raise ModelError(f"Checkpoint '{checkpoint}' cannot be read: {error}") from error
    stored = content.get("hyper_parameters", {}) if isinstance(content, dict) else None
    if not isinstance(stored, dict) or not isinstance(content.get("state_dict"), dict):
        raise ModelError(
            f"Checkpoint '{checkpoint}' has no 'state_dict', expected a .ckpt of Lightning. If it is a pickled model, "
            "load it and pass the model: export(model)."
        )
    return {name for name in stored if isinstance(name, str)} - _COMPONENTS


def _parameters(kind: Any) -> set[str]:
    keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(kind).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind in keyword} - _COMPONENTS
