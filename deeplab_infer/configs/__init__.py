# SPDX-License-Identifier: Apache-2.0
"""Model configs: named ones, YAML files, mmsegmentation's own files; datasets and published figures."""

from .datasets import DatasetSpec, dataset_names, dataset_spec, generic_dataset
from .loading import apply_overrides, load_config, save_yaml
from .named import list_configs, named_config
from .reference import ReferenceRow, reference_row, reference_rows
from .schema import ModelConfig

__all__ = [
    "DatasetSpec",
    "ModelConfig",
    "ReferenceRow",
    "apply_overrides",
    "dataset_names",
    "dataset_spec",
    "generic_dataset",
    "list_configs",
    "load_config",
    "named_config",
    "reference_row",
    "reference_rows",
    "save_yaml",
]
