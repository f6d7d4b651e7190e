"""MONAI dictionary transforms for diffusion MRI. Nothing here knows of engines, cohorts or tracking.

``__init__.pyi`` lists what the package gives. A name is imported at its first use: MONAI takes seconds to import, and
``python -m scripts --help`` does without it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
