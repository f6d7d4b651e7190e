"""Run an engine of a config, and end in one sentence where it cannot go on."""

from __future__ import annotations

from ignite.engine import Engine

from scripts.errors import exits_on_input_error


@exits_on_input_error
def run(engine: Engine) -> None:
    """Run a MONAI trainer or evaluator to its end.

    Raises:
        SystemExit: its input turned out to be unusable, or the user interrupted it.
    """
    try:
        engine.run()
    except KeyboardInterrupt:
        raise SystemExit("stopped; a training goes on from its last epoch with resume.json") from None
