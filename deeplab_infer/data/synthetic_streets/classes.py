# SPDX-License-Identifier: Apache-2.0
"""Label values, in the order of the dataset ``synthetic_streets``."""

SKY, BUILDING, TREE, ROAD, MARKING, PAVEMENT, CAR, PERSON, POLE, SIGN = range(10)
