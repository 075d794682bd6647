"""The training package: from pictures to a model folder that the program runs."""

import sharpcam  # noqa: F401  # before ONNX Runtime, which reports to its maker otherwise
