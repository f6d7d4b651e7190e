"""The initialisations that a comparison knows: how each is pretrained, and how its fine-tuning differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ARTIFACTS = "transforms.artifacts."
_HEAD_FIRST = {"new_epochs": "$0.1 * @max_epochs"}


@dataclass(frozen=True)
class Arm:
    """One initialisation.

    Attributes:
        overlays: overlays of ``pretrain.json``; None for no pretraining.
        pretraining: values of the pretraining that differ from its config.
        fine_tuning: values of the fine-tuning that differ from its config.
        long: whether the fine-tuning gets the compute of the pretraining as well.
    """

    overlays: Sequence[str] | None = ()
    pretraining: Mapping[str, Any] = field(default_factory=dict)
    fine_tuning: Mapping[str, Any] = field(default_factory=dict)
    long: bool = False


ARMS = {
    "random": Arm(None),
    "artifact_removal": Arm(),
    "autoencoder": Arm(("autoencoder",)),
    "undersampling": Arm(
        pretraining={
            "preset": None,
            "artifacts": [
                *({"_target_": _ARTIFACTS + name} for name in ("Motion", "Eddy", "BiasField", "Ghosting", "Noise")),
                {"_target_": _ARTIFACTS + "Undersampling", "measured": [6, 30]},
            ],
        }
    ),
    "random_long": Arm(None, long=True),
    "masked": Arm(("masked",)),
    "autoencoder_without_skips": Arm(("autoencoder", "without_skips")),
    "physical": Arm(pretraining={"preset": "physical"}),
    "light": Arm(pretraining={"preset": "light"}),
    "strong": Arm(pretraining={"preset": "strong"}),
    # levers of the transfer; they share the pretraining of artifact_removal or of the autoencoder
    "head_first": Arm(fine_tuning=_HEAD_FIRST),
    "autoencoder_head_first": Arm(("autoencoder",), fine_tuning=_HEAD_FIRST),
    "encoder_only": Arm(fine_tuning={"transferred_layers": ["projection", "encoder"]}),
    "slow_transfer": Arm(fine_tuning={"transferred_rate": 0.1}),
    "without_warmup": Arm(fine_tuning={"warmup_epochs": 0}),
}
"""Initialisations by name. Another lever is another line."""

DEFAULT_ARMS = ("random", "artifact_removal", "autoencoder")
"""The initialisations of the paper."""
