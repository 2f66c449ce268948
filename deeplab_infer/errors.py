# SPDX-License-Identifier: Apache-2.0
"""The errors a user can meet: each message says what was wrong, what came and what to do."""


class DeepLabError(Exception):
    """Base of every error raised on purpose by this toolkit."""


class ConfigError(DeepLabError):
    """A model config is unknown, malformed or contradicts itself."""


class CheckpointError(DeepLabError):
    """A checkpoint cannot be read, is not trusted, or does not fit the config."""


class ImageError(DeepLabError):
    """An image cannot be read or has a shape or dtype that is not an image."""


class ModelFileError(DeepLabError):
    """An exported model is missing, truncated, or carries no usable manifest."""


class BackendError(DeepLabError):
    """A runtime is not installed, or cannot run this model on this machine."""


class ExportError(DeepLabError):
    """An export could not be made as asked."""


class DataError(DeepLabError):
    """A dataset, label map or training option is unusable."""


def first_line(error: Exception) -> str:
    """What another library's error says first, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
