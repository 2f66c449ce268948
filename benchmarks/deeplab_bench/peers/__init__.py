# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench peers``: other projects' networks beside ours."""
