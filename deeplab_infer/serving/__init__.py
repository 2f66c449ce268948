# SPDX-License-Identifier: Apache-2.0
"""A model behind HTTP: an image in, labels out. Needs ``pip install 'deeplab-infer[serve]'``; docs/serving.md."""
