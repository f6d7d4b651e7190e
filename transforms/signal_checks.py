"""Whether the volumes of a scan hold the signal that its gradient table says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dipy.segment.threshold import otsu

from transforms.diffusion.gradients import volumes_in_words
from transforms.errors import SignalError

MAX_SHELL_BRIGHTNESS = 0.95
"""Mean of a shell in the head, over that of the b0: brains have 0.5 at b = 1000 s/mm2 and 0.8 at 300, water less."""

MAX_VOLUME_BRIGHTNESS = 1.05
"""Brightest volume of a shell over the brightest b0: no direction is brighter than a b0, noise and drift apart."""

MIN_VOLUME_BRIGHTNESS = 0.2
"""Mean of a volume in the head, over the median of its shell: directions differ by less than a factor of 3."""

MIN_FILLED = 0.1
"""Part of a slice that is head, from which on an empty slice is missed."""

MIN_CONTRAST = 1.1
"""Mean of a shell in the head, over that around it: with less, the shell holds noise alone."""


def usable_volumes(
    b0: np.ndarray, shell: np.ndarray, b0_indices: Sequence[int] | np.ndarray, shell_indices: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Choose the volumes that can be used: those with a signal, in place of another kind of volume.

    A scan that was stopped early has volumes of zeros. A table in another order than the volumes has a b0 among the
    directions, which is far brighter than they are.

    Args:
        b0: b0 volumes, shape ``(m, X, Y, Z)``.
        shell: volumes of one shell, shape ``(n, X, Y, Z)``.
        b0_indices: their numbers in the scan, for the notes.
        shell_indices: likewise.

    Returns:
        which of the b0 volumes and which of the shell can be used, bool, shapes ``(m,)`` and ``(n,)``, and a note for
        each kind of volume that cannot.

    Raises:
        SignalError: there is no usable b0 or shell, or the shell shows no diffusion.
    """
    use_b0, use_shell = (np.array([_has_signal(volume) for volume in part]) for part in (b0, shell))
    notes = []
    blank = [*np.asarray(b0_indices)[~use_b0], *np.asarray(shell_indices)[~use_shell]]
    if not use_b0.any():
        raise SignalError(f"found no signal in {volumes_in_words(blank)}, expected a b0 with one.")
    if not use_shell.any():
        raise SignalError(f"found no signal in {volumes_in_words(blank)}, expected a shell with one.")
    if blank:
        notes.append(f"{volumes_in_words(blank)} left out: no signal")

    reference = np.nan_to_num(b0[use_b0].mean(axis=0), posinf=0.0, neginf=0.0)
    head = reference > otsu(reference)
    of_b0, of_shell = (np.array([_mean(volume, head) for volume in part]) for part in (b0, shell))
    # one b0 among several may be a direction; the brightest is none
    bright, dark = float(of_b0[use_b0].max()), float(np.median(of_shell[use_shell]))
    if bright <= 0 or dark <= 0:
        found = f"a mean signal of {bright:.3g} at b = 0 and {dark:.3g} in the shell"
        raise SignalError(f"found {found}, expected both above 0.")
    brightest = float(of_shell[use_shell].max())
    if dark >= MAX_SHELL_BRIGHTNESS * bright or brightest > MAX_VOLUME_BRIGHTNESS * bright:
        raise SignalError(
            f"found a shell with {dark / bright:.0%} of the b0's brightness, and up to {brightest / bright:.0%}, "
            f"expected less than {MAX_SHELL_BRIGHTNESS:.0%}; are the volumes in the order of the gradient files?"
        )
    # of one kind, for the mean of noise is not its median
    typical = np.median(shell[use_shell], axis=0)
    inside, around = _mean(typical, head), _mean(typical, ~head)
    if around > 0 and inside < MIN_CONTRAST * around:
        raise SignalError("found a shell as bright in the head as around it, expected a signal and not noise alone.")

    faint_b0 = use_b0 & _lacks_slices(b0, head)
    faint_shell = use_shell & ((of_shell < MIN_VOLUME_BRIGHTNESS * dark) | _lacks_slices(shell, head))
    use_b0, use_shell = use_b0 & ~faint_b0, use_shell & ~faint_shell
    if not use_b0.any():
        raise SignalError("found no b0 volume without empty slices, expected one.")
    if faint := [*np.asarray(b0_indices)[faint_b0], *np.asarray(shell_indices)[faint_shell]]:
        notes.append(f"{volumes_in_words(faint)} left out: hardly a signal, or empty slices")
    halfway = (bright + dark) / 2
    swapped_b0, swapped_shell = use_b0 & (of_b0 < halfway), use_shell & (of_shell > halfway)
    use_b0, use_shell = use_b0 & ~swapped_b0, use_shell & ~swapped_shell
    for part, indices, like in ((swapped_b0, b0_indices, "a direction"), (swapped_shell, shell_indices, "a b0")):
        if part.any():
            notes.append(f"{volumes_in_words(np.asarray(indices)[part])} left out: as bright as {like}")
    return use_b0, use_shell, notes


def _has_signal(volume: np.ndarray) -> bool:
    """Whether finite voxels of a volume differ."""
    finite = volume[np.isfinite(volume)]
    return bool(len(finite)) and float(finite.min()) < float(finite.max())


def _lacks_slices(volumes: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Whether volumes ``(n, X, Y, Z)`` are 0 in a whole slice along Z of those that hold a good part of the head.

    Slices between these count as well: one that no volume has is missed all the same.
    """
    found = np.flatnonzero(head.mean(axis=(0, 1)) > MIN_FILLED)
    filled = slice(found.min(), found.max() + 1) if len(found) else slice(0)
    return ~np.array([(volume[:, :, filled] != 0).any(axis=(0, 1)).all() for volume in volumes], dtype=bool)


def _mean(volume: np.ndarray, where: np.ndarray) -> float:
    """Mean of the finite voxels of a volume in a mask; 0 where there are none."""
    values = volume[where]
    values = values[np.isfinite(values)]
    return float(values.mean(dtype=np.float64)) if len(values) else 0.0
