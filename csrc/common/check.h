// SPDX-License-Identifier: Apache-2.0
// Argument checks. A failed check names the argument, what came and what is accepted; the binding turns the two
// exceptions into ValueError and TypeError.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace deeplab {

struct TypeMismatch : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

template <typename... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) throw std::invalid_argument(message(parts...));
}

}  // namespace deeplab
