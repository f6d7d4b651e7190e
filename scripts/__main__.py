"""The command line: ``python -m scripts COMMAND``, or ``dmri-pretraining COMMAND``, which a shell can complete."""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from scripts.errors import explanation
from scripts.io.files import NOT_UTF8
from transforms.errors import counted


class Commands(TyperGroup):
    """Commands that end the program with one sentence where something fails."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            # a wrong option shows itself
            if ctx.params.get("debug") or hasattr(error, "show"):
                raise
            raise SystemExit(explanation(error)) from error


app = typer.Typer(
    cls=Commands,
    help="Self-supervised pretraining for diffusion MRI: cohorts, labels and the demo.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from scripts.version import code_state

        typer.echo(code_state())
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show where an error comes from.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no notes and warnings.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print what the libraries log, too.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and its commit.")
    ] = False,
) -> None:
    """Options of all commands; they stand before the command."""
    if quiet or verbose:
        logging.getLogger().setLevel(logging.ERROR if quiet else logging.INFO)
    if isinstance(sys.stdout, TextIOWrapper):
        # names of files may be in any encoding
        sys.stdout.reconfigure(errors=NOT_UTF8)


class Layout(StrEnum):
    """Layouts of raw cohorts."""

    bids = "bids"
    hcp = "hcp"


class Kind(StrEnum):
    """Kinds of phantom cohorts."""

    auxiliary = "auxiliary"
    clinical = "clinical"


class Response(StrEnum):
    """Responses of the deconvolution that finds fibres."""

    scan = "scan"
    sharp = "sharp"


class Task(StrEnum):
    """Tasks of a network."""

    restoration = "restoration"
    segmentation = "segmentation"
    crossings = "crossings"
    direction = "direction"


class Size(StrEnum):
    """Sizes of phantoms."""

    small = "small"
    standard = "standard"
    full = "full"


Jobs = Annotated[int, typer.Option(min=1, help="Processes on this machine.")]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a Dask scheduler, as tcp://host:8786, in place of --jobs.")
]


@app.command()
def phantom(
    kind: Annotated[Kind, typer.Option(help="Auxiliary (HCP-like acquisition) or clinical cohort.")],
    out: Annotated[Path, typer.Option(help="Folder to write the raw cohort to.")],
    subjects: Annotated[int, typer.Option(min=1, help="Number of subjects.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same cohort.")] = 0,
    size: Annotated[
        Size, typer.Option(help="'small' is a brain at half scale; 'full' has all of the HCP's 288 volumes.")
    ] = Size.small,
    snr: Annotated[float, typer.Option(help="Signal-to-noise ratio of white matter at b = 0.")] = 30.0,
    jobs: Jobs = 1,
) -> None:
    """Write a cohort of simulated raw scans with known truth: HCP layout (auxiliary) or BIDS (clinical)."""
    from scripts.phantom import write_phantom

    write_phantom(kind.value, subjects, seed, out, size.value, jobs, snr)
    typer.echo(f"{out}: {counted(subjects, 'subject')}, {kind.value}")


@app.command()
def prepare(
    layout: Annotated[Layout, typer.Option(help="How the raw cohort is laid out.")],
    input: Annotated[Path, typer.Option(help="Folder of the raw cohort.")],
    out: Annotated[Path, typer.Option(help="Folder of the prepared cohort; one begun earlier is finished.")],
    scheme: Annotated[Path | None, typer.Option(help="Reference scheme: unit vectors in world RAS, FSL-like.")] = None,
    bvalue: Annotated[float, typer.Option(help="b-value of the shell in s/mm2.")] = 1000.0,
    voxel_size: Annotated[float, typer.Option(help="Voxel size in mm.")] = 2.4,
    split: Annotated[str, typer.Option(help="Shares of training,validation,test.", show_default="the paper's")] = "",
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    derivatives: Annotated[Path | None, typer.Option(help="BIDS derivatives with brain masks.")] = None,
    b0_max: Annotated[float, typer.Option(help="Largest b-value in s/mm2 that counts as b0; HCP 7T needs 70.")] = 50.0,
    check_gradients: Annotated[
        bool, typer.Option("--check-gradients", help="Look for flipped or exchanged axes; takes seconds a scan.")
    ] = False,
    jobs: Jobs = 1,
) -> None:
    """Prepare raw scans: one shell, attenuation, one voxel size, one scheme, with a split by participant."""
    from scripts.jobs import warm_up

    warm_up("scripts.cohort.prepare", jobs)
    from scripts.cohort.prepare import prepare_cohort

    weights = [_number(word) for word in split.split(",")] if split else None
    outcomes = prepare_cohort(
        layout.value,
        input,
        out,
        scheme,
        bvalue,
        voxel_size,
        weights,
        seed,
        jobs,
        derivatives,
        b0_max,
        check_gradients,
    )
    _report(outcomes, out)


@app.command()
def label(
    prepared: Annotated[Path, typer.Option(help="Folder of a prepared cohort.")],
    tissue_derivatives: Annotated[
        Path | None,
        typer.Option(
            help="Your own segmentations (BIDS, fMRIPrep, FAST, FreeSurfer), in the space of the scans or of their T1.",
            show_default="tissue from the T1",
        ),
    ] = None,
    response: Annotated[
        Response,
        typer.Option(help="Of the deconvolution: that of the scan, or of fibres that do not disperse."),
    ] = Response.scan,
    truth: Annotated[
        Path | None, typer.Option(help="Folder derivatives/truth of phantoms: label them by what they were made of.")
    ] = None,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
) -> None:
    """Add labels to a prepared cohort: tissue, white matter, number of fibre peaks and the largest peak.

    Reads the raw scans that the cohort was prepared from and, where there is one, their T1-weighted image. Writes
    images and a picture beside each prepared scan, labels.tsv, and their places to datalist.json. Scans that are
    labelled already are kept.
    """
    from scripts.jobs import warm_up

    if scheduler is None:
        warm_up("scripts.labels", jobs)
    from scripts.labels import label_cohort

    sharp = response is Response.sharp
    _report(label_cohort(prepared, tissue_derivatives, jobs, scheduler, sharp, truth), prepared)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")],
    jobs: Jobs = 2,
) -> None:
    """Show the whole path on phantoms: cohorts, pretraining, fine-tuning twice, evaluation, inference, pictures."""
    from scripts.demo import run_demo

    run_demo(out, jobs)


@app.command()
def export(
    task: Annotated[Task, typer.Option(help="Task of the network.")],
    out: Annotated[Path, typer.Option(help="Folder that gets the bundle, as a folder and as a zip.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="model.pt of a training.", show_default="that of bundle/models, for restoration only"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the bundle.", show_default="dmri_TASK")] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(help="Folder of an evaluation of this network: its figures go into the model card."),
    ] = None,
) -> None:
    """Write a bundle for the MONAI model zoo, which needs nothing of this project: configs, code, models, model card.

    The network is there as a state dict, TorchScript, ONNX and torch.export. Each is compared with the network.
    """
    from scripts.export import LARGE_FILES, export_bundle

    folder = export_bundle(task.value, out, checkpoint, name, evaluation)
    typer.echo(f"{folder}: a bundle for {task.value}, and {folder}.zip")
    if (listed := folder / LARGE_FILES).is_file():
        typer.echo(f"{listed}: files too large for the model zoo; upload them, and write their addresses there")


@app.command()
def compare(
    auxiliary: Annotated[Path, typer.Option(help="Prepared cohort of the pretraining.")],
    clinical: Annotated[Path, typer.Option(help="Prepared and labelled cohort of the tasks.")],
    out: Annotated[Path, typer.Option(help="Folder of the comparison; one begun earlier goes on.")],
    tasks: Annotated[str, typer.Option(help="Tasks.")] = "segmentation,crossings,direction",
    arms: Annotated[
        str, typer.Option(help="Initialisations, the most important first (docs/comparison.md lists them).")
    ] = "random,artifact_removal,autoencoder",
    seeds: Annotated[int, typer.Option(min=1, help="Fine-tunings of each setting.")] = 4,
    train_sizes: Annotated[str, typer.Option(help="Numbers of training participants.")] = "1,4",
    folds: Annotated[
        int, typer.Option(min=1, help="Folds in which every participant is tested once.", show_default="own splits")
    ] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each fine-tuning.")] = 400,
    validations: Annotated[int, typer.Option(min=1, help="Validations of each fine-tuning.")] = 10,
    rates: Annotated[
        str,
        typer.Option(
            help="Learning rates to try: each setting takes the one that validates best with its first seed.",
            show_default="that of the config",
        ),
    ] = "",
    paper: Annotated[bool, typer.Option("--paper", help="Network, losses and rates of the paper.")] = False,
    pretraining: Annotated[
        list[str] | None, typer.Option(help="A value of all pretrainings, as max_epochs=25; may be repeated.")
    ] = None,
    fine_tuning: Annotated[
        list[str] | None, typer.Option(help="A value of all fine-tunings, as batch_size=1; may be repeated.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="A copy of the clinical cohort that is labelled by the truth of its phantoms, to score against both.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the matrix and an estimate of its time.")] = False,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
) -> None:
    """Compare initialisations: pretrain, fine-tune every task from each with few subjects, and test.

    Reads two prepared cohorts. Writes checkpoints and mlflow.db to the folder. What is complete is not done again, what
    was cut off goes on, and a run that fails is left out. Then 'python -m scripts report' shows the results.
    """
    from scripts.jobs import warm_up

    if scheduler is None and not dry_run:
        warm_up("scripts.comparison.execute", jobs)
    from scripts.comparison.matrix import run_comparison, show_plan
    from scripts.comparison.plan import Settings

    settings = Settings(
        auxiliary,
        clinical,
        out,
        tasks.split(","),
        arms.split(","),
        seeds,
        [int(_number(word)) for word in train_sizes.split(",")],
        folds,
        steps,
        validations,
        [_number(word) for word in rates.split(",") if word],
        paper,
        _values(pretraining or []),
        _values(fine_tuning or []),
        truth,
    )
    if dry_run:
        show_plan(settings, jobs)
        return
    failures = run_comparison(settings, jobs, scheduler)
    typer.echo(f"{out}: {len(failures)} runs failed" if failures else f"{out}: all runs are complete")
    for run, why in failures.items():
        typer.echo(f"  {run}: {why}")
    if failures:
        raise typer.Exit(1)


@app.command()
def report(out: Annotated[Path, typer.Option(help="Folder of a comparison.")]) -> None:
    """Report a comparison: report.html, and in the folder 'report' its figures (SVG, PNG) and tables (CSV).

    Reads the comparison's MLflow, finished or not; what is missing is said.
    """
    from scripts.comparison.report import write_report

    typer.echo(f"{write_report(out)}")


@app.command()
def send(
    output_dir: Annotated[Path, typer.Option(help="Output folder of a training whose MLflow did not answer.")],
    tracking_uri: Annotated[str, typer.Option(help="Address of the MLflow that has its run.")] = "sqlite:///mlflow.db",
) -> None:
    """Send the metrics, the pictures and the end of a training that its MLflow did not get."""
    from scripts.training.epoch_metrics import send_afterwards
    from scripts.training.tracking_store import require_store

    require_store(tracking_uri)
    typer.echo(f"{output_dir}: {send_afterwards(output_dir, tracking_uri)} metrics sent")


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise typer.BadParameter(f"found {word!r}, expected numbers as 15,5,8") from None


def _values(words: list[str]) -> dict[str, Any]:
    """Read values of configs, as ``network_def::filters=[8,8,8,8]``: JSON, or else a text."""
    values = {}
    for word in words:
        name, separator, text = word.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"found {word!r}, expected an id of a config and its value as batch_size=1")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


def _report(outcomes: list[Any], out: Path) -> None:
    """Say what was done and what was left out; exit with 1 where nothing could be done."""
    left_out = [outcome for outcome in outcomes if outcome.failure]
    # always in these words, for programs that look for them
    typer.echo(f"{out}: {len(outcomes) - len(left_out)} scans done, {len(left_out)} left out")
    for outcome in left_out:
        typer.echo(f"  left out {outcome.item}: {outcome.failure}")
    if len(left_out) == len(outcomes):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line, as ``python -m scripts`` and as ``dmri-pretraining``."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    app()


if __name__ == "__main__":
    main()
