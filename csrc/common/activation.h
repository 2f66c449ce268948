// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>
#include <string>

#include "common/check.h"

namespace deeplab {

// An activation is a clamp to [low, high]; its derivative is 1 strictly inside and 0 elsewhere, as torch has it.
struct Activation {
  float low, high;
};

inline Activation parse_activation(const std::string& name) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  if (name == "none") return {-infinity, infinity};
  if (name == "relu") return {0.0f, infinity};
  if (name == "relu6") return {0.0f, 6.0f};
  throw std::invalid_argument(message("activation: got '", name, "', accepted are none, relu, relu6"));
}

}  // namespace deeplab
