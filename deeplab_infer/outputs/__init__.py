# SPDX-License-Identifier: Apache-2.0
"""What is written of the results of many images: files of each, and files of the whole run (docs/outputs.md)."""

from .assembly import assemble, read_records
from .options import OutputOptions
from .writer import Outputs

__all__ = ["OutputOptions", "Outputs", "assemble", "read_records"]
