"""Whether the volumes of a scan hold the signal that its gradient table says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

MIN_SLICE_BRIGHTNESS = 0.3
"""Mean of a slice in the head, over its median in the volumes of the kind, from which on it is not lost."""

MAX_LOST_CONTRAST = 1.5
"""Mean of a lost slice in the head, over that around it: it holds noise, or one value. Other slices have more."""

MIN_AREA = 0.5
"""Area of the head in a slice, over that of its largest slice, from which on a dark slice is missed: the outer slices
may be dark in a volume in which the head has moved."""

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

    of_use = b0[use_b0]
    finite = np.isfinite(of_use)
    reference = np.where(finite, of_use, 0).sum(axis=0, dtype=np.float64) / finite.sum(axis=0).clip(min=1)
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

    faint_b0 = use_b0 & _lacks_slices(b0, head, use_b0)
    faint_shell = use_shell & ((of_shell < MIN_VOLUME_BRIGHTNESS * dark) | _lacks_slices(shell, head, use_shell))
    use_b0, use_shell = use_b0 & ~faint_b0, use_shell & ~faint_shell
    if not use_b0.any():
        raise SignalError("found no b0 volume without empty slices, expected one.")
    if faint := [*np.asarray(b0_indices)[faint_b0], *np.asarray(shell_indices)[faint_shell]]:
        notes.append(f"{volumes_in_words(faint)} left out: hardly a signal, or empty or dark slices")
    halfway = (bright + dark) / 2
    swapped_b0, swapped_shell = use_b0 & (of_b0 < halfway), use_shell & (of_shell > halfway)
    if move := _moved_by(
        dict.fromkeys(b0_indices, True) | dict.fromkeys(shell_indices, False),
        dict(zip(np.asarray(b0_indices)[use_b0], ~swapped_b0[use_b0], strict=True))
        | dict(zip(np.asarray(shell_indices)[use_shell], swapped_shell[use_shell], strict=True)),
    ):
        raise SignalError(
            f"found volumes as bright as the gradient files say only if these are moved by {move}, expected volumes in "
            "the order of the gradient files."
        )
    use_b0, use_shell = use_b0 & ~swapped_b0, use_shell & ~swapped_shell
    for part, indices, like in ((swapped_b0, b0_indices, "a direction"), (swapped_shell, shell_indices, "a b0")):
        if part.any():
            notes.append(f"{volumes_in_words(np.asarray(indices)[part])} left out: as bright as {like}")
    return use_b0, use_shell, notes


def _has_signal(volume: np.ndarray) -> bool:
    """Whether finite voxels of a volume differ."""
    finite = volume[np.isfinite(volume)]
    return bool(len(finite)) and float(finite.min()) < float(finite.max())


def _moved_by(labelled: Mapping[int, bool], found: Mapping[int, bool]) -> int:
    """Return by how many volumes a table has to be moved, at its end to its start, so that all volumes fit it.

    Args:
        labelled: whether each volume is a b0, by the table.
        found: the same, by the brightness.

    Returns:
        the smallest such number, 0 where the table fits or no move makes it fit.
    """
    wrong = {index: kind for index, kind in found.items() if labelled[index] != kind}
    if not wrong:
        return 0
    count = max(labelled) + 1
    for move in sorted(range(1 - count, count), key=abs):
        # an entry of another shell is not in the table; it explains no volume that was wrong, and fits all others
        explained = all(labelled.get((index + move) % count) == kind for index, kind in wrong.items())
        if explained and all(labelled.get((index + move) % count, kind) == kind for index, kind in found.items()):
            return move
    return 0


def _lacks_slices(volumes: np.ndarray, head: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Whether volumes ``(n, X, Y, Z)`` lack a slice of those that hold a good part of the head.

    It is 0 along Z; or it is far darker in the head, along any axis, than in the usable volumes of the kind, and no
    brighter than around the head. Slices of zeros that no volume has are missed all the same.
    """
    found = np.flatnonzero(head.mean(axis=(0, 1)) > MIN_FILLED)
    filled = slice(found.min(), found.max() + 1) if len(found) else slice(0)
    empty = ~np.array([(volume[:, :, filled] != 0).any(axis=(0, 1)).all() for volume in volumes], dtype=bool)
    # the slice along each axis that a voxel of the head is in
    places = np.nonzero(head)
    inside = [np.nan_to_num(volume[places], posinf=0.0, neginf=0.0) for volume in volumes]
    lost = np.zeros(len(volumes), dtype=bool)
    for axis, place in enumerate(places):
        area = np.bincount(place)
        sums = np.array([np.bincount(place, values) for values in inside])
        dark = (area >= MIN_AREA * area.max()) & (sums < MIN_SLICE_BRIGHTNESS * np.median(sums[usable], axis=0))
        for number in np.flatnonzero(dark.any(axis=0)):
            of_head = np.take(head, number, axis)
            slices = np.nan_to_num(np.take(volumes, number, axis + 1), posinf=0.0, neginf=0.0)
            if not _is_flat(np.median(slices[usable], axis=0), of_head):
                lost[[index for index in np.flatnonzero(dark[:, number]) if _is_flat(slices[index], of_head)]] = True
    return empty | lost


def _is_flat(image: np.ndarray, head: np.ndarray) -> bool:
    """Whether a slice is about as bright in the head as around it."""
    return _mean(image, head) <= MAX_LOST_CONTRAST * _mean(image, ~head)


def _mean(volume: np.ndarray, where: np.ndarray) -> float:
    """Mean of the finite voxels of a volume in a mask; 0 where there are none."""
    values = volume[where]
    values = values[np.isfinite(values)]
    return float(values.mean(dtype=np.float64)) if len(values) else 0.0
