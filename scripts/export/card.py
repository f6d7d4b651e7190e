"""The model card and the data licence of an exported bundle: what its checkpoint says, no figure beyond."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from scripts.export.configs import measured

if TYPE_CHECKING:
    from scripts.export.scores import Scores

TEMPLATE = Path(__file__).with_name("card.md")

UNTESTED = "Test on other scans: not measured. Failure cases: not measured."
NO_SYSTEM = "Time and memory: not measured."
"""What stands in the place of figures that nobody measured."""

PARAMETERS = {
    "initialisation": "weights started from",
    "pretext": "pretext",
    "preset": "preset of artifacts",
    "seed": "seed",
    "batch_size": "batch size",
    "max_epochs": "epochs",
    "train_size": "training participants",
    "learning_rate": "highest learning rate",
    "cohort": "checksum of the cohort",
    "code": "version of the code",
}
"""Parameters of a training that the card states, and what it calls them."""

SHIPPED = """\
The weights in this bundle learned from simulated brains alone. No scan of a person is part of them.
"""

OWN = """\
The weights in this bundle learned from the cohort whose checksum models/origin.json states. Terms of its data may pass
on to weights that learned from them, as those of the Human Connectome Project do for derived data. Who shares this
bundle sees to these terms, and replaces this paragraph by them.
"""


def data_license(docs: Path, shipped: bool) -> str:
    """Return the data licence of a bundle: a paragraph on its weights, and the project's on its default cohorts.

    Args:
        docs: folder of the project's own model card and data licence.
        shipped: whether the weights are those that the project ships.
    """
    _, _, rest = (docs / "data_license.txt").read_text(encoding="utf-8").partition("\n\n")
    return f"{SHIPPED if shipped else OWN}\n{rest}"


def model_card(
    docs: Path,
    name: str,
    task: str,
    metadata: Mapping[str, Any],
    origin: Mapping[str, Any],
    shipped: bool,
    scores: Scores | None = None,
) -> str:
    """Return the model card of a bundle, after the template of the model zoo.

    Args:
        docs: folder of the project's own model card, whose limits are those of each network; it also has those of the
            weights that the project ships.
        name: of the bundle.
        task: its task.
        metadata: its metadata.
        origin: what its checkpoint says of itself.
        shipped: whether the weights are those that the project ships.
        scores: of a test; None where there was none.
    """
    parameters = origin.get("parameters", {})
    training = {label: parameters[key] for key, label in PARAMETERS.items() if parameters.get(key)}
    training |= {"epoch of these weights": origin["epoch"]} if "epoch" in origin else {}
    output = metadata["network_data_format"]["outputs"]["pred"]
    card = (docs / "README.md").read_text("utf-8")
    titles = ("Limits", "The weights that come with the bundle")[: 1 + shipped]
    limits = [re.findall(rf"^## {title}\n\n(.*?)\n\n## ", card, re.DOTALL | re.MULTILINE)[0] for title in titles]
    figures = measured(origin)
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=name,
        task=task,
        title=metadata["name"],
        description=metadata["description"],
        authors=metadata["authors"],
        inputs=metadata["image_classes"],
        labels=metadata["label_classes"],
        output=f"{output['num_channels']} channels. {metadata['pred_classes']}",
        training=_table(training),
        performance=_table({key: f"{value:.4g}" for key, value in figures.items()}),
        test=scores.test if scores else UNTESTED,
        system=scores.system if scores else NO_SYSTEM,
        limits="\n\n".join(limits),
        packages=", ".join(
            f"{package} {version}" for package, version in metadata["required_packages_version"].items()
        ),
        versions=f"MONAI {metadata['monai_version']}, PyTorch {metadata['pytorch_version']}, "
        f"NumPy {metadata['numpy_version']}",
        reference=metadata["references"][0],
    )


def _table(rows: Mapping[str, Any]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())
