"""Open the checkpoint of an Anomalib model, which does not say which class it belongs to."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import ModelError, StatisticsError
from pp_graph.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PURPOSE: Final = "opening an Anomalib checkpoint"
_COMPONENTS: Final = frozenset({"pre_processor", "post_processor", "evaluator", "visualizer"})
"""Arguments that every model takes, and that are no hyperparameters of any."""


def load_model(
    checkpoint: Path, model_class: type | str | None, *, weights_only: bool, arguments: Mapping[str, Any]
) -> Any:
    """Open a Lightning checkpoint of an Anomalib model, on the CPU.

    Args:
        checkpoint: The `.ckpt`.
        model_class: The model's class, or the name of one of `anomalib.models`; None where the hyperparameters in the
            checkpoint are those of one class only.
        weights_only: Whether nothing but tensors and plain values is read; see `torch.load`.
        arguments: Keyword arguments of the class.

    Returns:
        The `AnomalibModule`.

    Raises:
        ExtraError: Anomalib is not installed.
        ModelError: The file is no checkpoint, or not one of that class.
    """
    models = require_extra("anomalib.models", "anomalib", PURPOSE)
    if not checkpoint.is_file():
        raise ModelError(f"Checkpoint '{checkpoint}' does not exist, expected a .ckpt of Lightning. Check the path.")
    kind = _guessed(checkpoint, models) if model_class is None else _named(model_class, models)
    given = dict(arguments)
    if "weights_only" in inspect.signature(kind.load_from_checkpoint).parameters or not weights_only:
        given["weights_only"] = weights_only
    try:
        return kind.load_from_checkpoint(checkpoint, map_location="cpu", **given)
    except Exception as error:  # torch, Lightning and the model's constructor raise many kinds
        raise ModelError(_explain(checkpoint, kind, error, weights_only)) from error


def model_classes(models: Any) -> dict[str, Any]:
    """The models of Anomalib, by name."""
    found = {}
    for name in dir(models):
        kind = getattr(models, name)
        if isinstance(kind, type) and hasattr(kind, "load_from_checkpoint") and not inspect.isabstract(kind):
            found[name] = kind
    return found


def _named(model_class: type | str, models: Any) -> Any:
    if isinstance(model_class, str):
        known = model_classes(models)
        found = {name.lower(): kind for name, kind in known.items()}.get(model_class.lower())
        if found is None:
            raise ModelError(
                f"model_class is '{model_class}', expected one of: {', '.join(known)}; or give the class itself."
            )
        return found
    if not isinstance(model_class, type) or not hasattr(model_class, "load_from_checkpoint"):
        raise ModelError(f"model_class is {model_class!r}, expected a class of an Anomalib model, or its name.")
    return model_class


def _guessed(checkpoint: Path, models: Any) -> Any:
    """The class whose constructor takes exactly the hyperparameters that the checkpoint holds.

    Nothing is constructed to find out: some classes fetch weights.
    """
    stored = _hyperparameters(checkpoint)
    matching = {name: kind for name, kind in model_classes(models).items() if _parameters(kind) == stored}
    if len(matching) == 1:
        return next(iter(matching.values()))
    found = f"{' and '.join(matching)} take" if matching else "no model of Anomalib takes"
    raise ModelError(
        f"Checkpoint '{checkpoint}' does not say which model it belongs to, and {found} its hyperparameters "
        f"({', '.join(sorted(stored)) or 'none'}). Name it: export(..., model_class='Padim')."
    )


def _hyperparameters(checkpoint: Path) -> set[str]:
    from pp_graph.statistics.torch_file import TorchZip

    try:
        # This reads what is stored and runs nothing.
        content = TorchZip(checkpoint).content
    except (StatisticsError, OSError) as error:
        raise ModelError(f"Checkpoint '{checkpoint}' cannot be read: {error}") from error
    stored = content.get("hyper_parameters", {}) if isinstance(content, dict) else None
    if not isinstance(stored, dict) or not isinstance(content.get("state_dict"), dict):
        raise ModelError(
            f"Checkpoint '{checkpoint}' has no 'state_dict', expected a .ckpt that Lightning wrote. A model that was "
            "pickled whole is given itself: export(model)."
        )
    return {name for name in stored if isinstance(name, str)} - _COMPONENTS


def _parameters(kind: Any) -> set[str]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(kind).parameters.values()
    return {each.name for each in parameters if each.kind in named} - _COMPONENTS


def _explain(checkpoint: Path, kind: Any, error: Exception, weights_only: bool) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    hint = "Is it the right class? Arguments of its constructor go into model_arguments={...}."
    if weights_only and type(error).__name__ == "UnpicklingError":
        reason = "it holds more than tensors and plain values, as checkpoints of Anomalib before 2.7 do."
        hint = "If you trust it, pass weights_only=False: unpickling can run any code that it names."
    return f"Checkpoint '{checkpoint}' cannot be opened as {kind.__name__}: {reason} {hint}"
