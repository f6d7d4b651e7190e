"""TorchIO 2 as a process of its own: it reads a line with names of artifacts, applies them and answers ``done``.

The benchmark of artifacts starts it with the interpreter of another environment, so it imports nothing of this project.
Its arguments are the shape of the image and the number of threads.
"""

from __future__ import annotations

import sys

import torch
import torchio as tio

TRANSFORMS = {
    "motion": tio.Motion(degrees=10.0, translation=4.0, num_transforms=2),
    "bias field": tio.BiasField(),
    "ghosting": tio.Ghosting(num_ghosts=2, intensity=0.75),
    "noise": tio.Noise(std=0.1),
}


def main() -> None:
    """Answer requests until the input ends."""
    *shape, threads = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    image = torch.rand(shape)
    for line in sys.stdin:
        subject = tio.Subject(image=tio.ScalarImage(image))
        for name in line.strip().split(","):
            subject = TRANSFORMS[name](subject)
        print("done", flush=True)


if __name__ == "__main__":
    main()
