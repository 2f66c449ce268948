# SPDX-License-Identifier: Apache-2.0
"""From a config to a network."""

from __future__ import annotations

from ..configs import ModelConfig, load_config
from .deeplab import DeepLab


def build_model(config: ModelConfig | str) -> DeepLab:
    """A randomly initialised network, in training mode; trained weights come from `checkpoints.load`.

    Args:
        config: a config, or the name or path that `load_config` takes.

    Raises:
        ConfigError: the config is unknown or contradicts itself.
    """
    return DeepLab(load_config(config) if isinstance(config, str) else config)
