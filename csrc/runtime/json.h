// SPDX-License-Identifier: Apache-2.0
// JSON as Python's json module writes it. Ours rather than a library's: manifests come out of foreign files, so depth,
// length and number of values are bounded here, and the library needs nothing but a backend to build.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace deeplab::runtime {

class Json {
 public:
  enum class Kind { null, boolean, number, string, array, object };

  // Throws StatusError (DEEPLAB_MODEL_FILE) with the position of what is no JSON or beyond the bounds.
  static Json parse(std::string_view text);

  bool is_null() const { return kind_ == Kind::null; }
  // The member of an object; throws StatusError where this is no object or has none of that name.
  const Json& operator[](const char* name) const;

  // Values of the right kind and range; `name` is for the StatusError that is thrown otherwise.
  const std::string& as_string(const char* name) const;
  bool as_bool(const char* name) const;
  double as_number(const char* name) const;
  int64_t as_integer(const char* name, int64_t low, int64_t high) const;
  const std::vector<Json>& as_array(const char* name) const;

 private:
  friend class JsonParser;

  Kind kind_ = Kind::null;
  bool boolean_ = false;
  double number_ = 0;
  std::string string_;
  std::vector<Json> items_;
  std::vector<std::string> keys_;  // of an object, beside items_
};

}  // namespace deeplab::runtime
