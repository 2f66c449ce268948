// SPDX-License-Identifier: Apache-2.0
#include "runtime/onnx_metadata.h"

#include <cstdint>
#include <fstream>
#include <optional>

#include "runtime/error.h"

namespace deeplab::runtime {
namespace {

constexpr uint64_t kGraph = 7, kMetadata = 14, kKey = 1, kValue = 2;  // fields of ModelProto, StringStringEntryProto
constexpr uint64_t kMaxField = 64;
constexpr uint64_t kMaxMetadataBytes = uint64_t{16} << 20;
constexpr uint64_t kVarint = 0, kBytes = 2;  // wire types; ModelProto has no others

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw StatusError(DEEPLAB_MODEL_FILE, message(path, ": ", what));
}

constexpr const char* kDamaged = "truncated or not an ONNX file; copy or export it again";

// Seven bits a byte, the lowest first; nullopt where `next` ends (gives a negative value) or ten bytes do not suffice.
template <typename Next>
std::optional<uint64_t> read_varint(Next&& next) {
  uint64_t value = 0;
  for (int shift = 0; shift < 70; shift += 7) {
    const int byte = next();
    if (byte < 0) return std::nullopt;
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

// The value of a serialised StringStringEntryProto whose key is this one.
std::optional<std::string> value_of(const std::string& entry, const std::string& key, const std::string& path) {
  size_t position = 0;
  const auto next = [&] { return position < entry.size() ? static_cast<unsigned char>(entry[position++]) : -1; };
  std::string texts[2];
  while (position < entry.size()) {
    const auto tag = read_varint(next);
    const auto length = read_varint(next);
    if (!tag || !length || (*tag & 7) != kBytes || *length > entry.size() - position) fail(path, kDamaged);
    const uint64_t field = *tag >> 3;
    if (field == kKey || field == kValue) texts[field - 1] = entry.substr(position, *length);
    position += *length;
  }
  if (texts[0] != key) return std::nullopt;
  return texts[1];
}

}  // namespace

std::string read_onnx_metadata(const std::string& path, const std::string& key) {
  std::ifstream stream(path, std::ios::binary | std::ios::ate);
  const std::streamoff end = stream ? static_cast<std::streamoff>(stream.tellg()) : -1;
  stream.seekg(0);
  if (!stream || end < 0) fail(path, "cannot be read");
  const auto size = static_cast<uint64_t>(end);
  const auto next = [&] { return stream.get(); };
  std::optional<std::string> found;
  bool has_graph = false;
  for (uint64_t position = 0; position < size; position = static_cast<uint64_t>(stream.tellg())) {
    const auto tag = read_varint(next);
    if (!tag || *tag >> 3 < 1 || *tag >> 3 > kMaxField) fail(path, kDamaged);
    const auto length = read_varint(next);  // or the value itself
    if (!length) fail(path, kDamaged);
    if ((*tag & 7) == kVarint) continue;
    const auto start = static_cast<uint64_t>(stream.tellg());
    if ((*tag & 7) != kBytes || *length > size - start) fail(path, kDamaged);
    has_graph |= *tag >> 3 == kGraph;
    if (*tag >> 3 == kMetadata && *length <= kMaxMetadataBytes) {
      std::string entry(*length, '\0');
      if (!stream.read(entry.data(), static_cast<std::streamsize>(*length))) fail(path, kDamaged);
      if (auto value = value_of(entry, key, path)) found = std::move(value);
    } else {
      stream.seekg(static_cast<std::streamoff>(start + *length));
    }
  }
  if (!has_graph) fail(path, "truncated or not an ONNX file (no graph in it); copy or export it again");
  if (!found) fail(path, "an ONNX file without our manifest; export it with deeplab-export");
  return *found;
}

}  // namespace deeplab::runtime
