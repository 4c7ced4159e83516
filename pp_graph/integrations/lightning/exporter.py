"""Export a trained module with its post-processor."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pp_graph.errors import PostProcessorError
from pp_graph.files import check_targets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pp_graph.postprocessors import PostProcessor


@dataclass(frozen=True)
class Exporter:
    """Settings for exporting a Lightning module.

    Attributes:
        example: Example input; None for the module's `example_input_array`.
        submodule: Dotted name of the submodule to export; None for the module itself.
        options: Further keyword arguments of `pp_graph.integrations.torch.export`.
    """

    example: Any
    submodule: str | None
    options: Mapping[str, Any]

    def parts(self, pl_module: Any) -> tuple[torch.nn.Module, Any]:
        """The module to export and an example of its input.

        Raises:
            PostProcessorError: There is no example, or no such submodule.
        """
        module = pl_module
        if self.submodule is not None:
            try:
                module = attrgetter(self.submodule)(pl_module)
            except AttributeError as error:
                names = ", ".join(f"'{name}'" for name, _ in pl_module.named_children())
                raise PostProcessorError(
                    f"export_module is '{self.submodule}', and {type(pl_module).__name__} has no such submodule, "
                    f"expected one of: {names}."
                ) from error
        example = getattr(pl_module, "example_input_array", None) if self.example is None else self.example
        if example is None:
            raise PostProcessorError(
                "export_to is given, and no example input, expected one to trace the model with. Pass example=, a "
                "tensor as the model takes it, or set the module's example_input_array."
            )
        return module, example

    def check_files(self, path: Path) -> None:
        """Raise before training if the files could not be written after it.

        Raises:
            OutputFileError: A file is there already, and `options` do not say `overwrite=True`.
        """
        from pp_graph.integrations.torch.exporting import files_of

        raw = self.options.get("raw")
        files = files_of(path, None if raw is None else Path(raw))
        check_targets(files, overwrite=bool(self.options.get("overwrite")))

    def export(self, pl_module: Any, post: PostProcessor, path: str | Path) -> Any:
        """Export in evaluation mode; the module's modes are then as they were.

        Raises:
            PostProcessorError: See `parts`.
            PPGraphError: See `pp_graph.integrations.torch.export`.
        """
        from pp_graph.integrations.torch import export

        module, example = self.parts(pl_module)
        with _evaluating(module):
            return export(module, post, example, path, **self.options)


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training
