// SPDX-License-Identifier: Apache-2.0
// The runtime's own exception: a status of deeplab.h and a sentence that says what is wrong and what to do.
#pragma once

#include <stdexcept>
#include <string>

#include "common/check.h"
#include "deeplab/deeplab.h"

namespace deeplab::runtime {

class StatusError : public std::runtime_error {
 public:
  StatusError(deeplab_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
  deeplab_status status() const { return status_; }

 private:
  deeplab_status status_;
};

template <typename... Parts>
void require(bool condition, deeplab_status status, const Parts&... parts) {
  if (!condition) throw StatusError(status, message(parts...));
}

// Other libraries' errors are pages long; their last line says the most.
inline std::string last_line(const std::string& text) {
  const size_t end = text.find_last_not_of(" \t\r\n");
  if (end == std::string::npos) return "no reason given";
  const size_t newline = text.find_last_of('\n', end);
  const size_t start = newline == std::string::npos ? 0 : newline + 1;
  return text.substr(start, end + 1 - start);
}

}  // namespace deeplab::runtime
