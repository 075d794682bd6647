"""Comparisons and pictures for the README, each rebuilt by one command."""

import sharpcam  # noqa: F401  # before ONNX Runtime, which reports to its maker otherwise
