"""`LaserCallback` under Hugging Face's Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_fx.errors import MissingDependencyError

if TYPE_CHECKING:
    from laser_fx.callbacks.callback import LaserCallback

__all__ = ["trainer_callback"]


def trainer_callback(watch: LaserCallback) -> Any:
    """A ``TrainerCallback`` of transformers.

    Raises:
        MissingDependencyError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise MissingDependencyError(
            "transformers is not installed", where="LaserCallback.trainer", fix="pip install transformers accelerate"
        ) from error

    class HuggingFaceCallback(TrainerCallback):
        """Writes after each optimiser step, on the first process; into ``output_dir/runs`` where no writer is given."""

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            compiled = None if model is None else watch.watched(model)
            if compiled is not None and state.is_world_process_zero:
                folder = str(Path(args.output_dir) / "runs" / "laser_fx")
                watch.write(compiled, state.global_step, lambda values, s: watch.add_scalars(values, s, folder))

    return HuggingFaceCallback()
