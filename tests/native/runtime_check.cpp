// SPDX-License-Identifier: Apache-2.0
// What the runtime reads, without a backend. Prints one line a file or result; a damaged file is an answer, not an end.
//
//   deeplab_runtime_check manifest FILE..           each JSON text as a manifest
//   deeplab_runtime_check onnx FILE..               the manifest in each ONNX file
//   deeplab_runtime_check engine FILE..             the manifest beside each engine
//   deeplab_runtime_check sha256 FILE..
//   deeplab_runtime_check mutate KIND FILE COUNT    COUNT times with bytes changed, cut or repeated; KIND as above
//   deeplab_runtime_check taps IN OUT ALIGN [VIA]   rows of (index, weight bits)
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "runtime/engine_file.h"
#include "runtime/error.h"
#include "runtime/manifest.h"
#include "runtime/onnx_metadata.h"
#include "runtime/resize_taps.h"
#include "runtime/sha256.h"

using namespace deeplab::runtime;

namespace {

std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::string summary(const Manifest& manifest) {
  return deeplab::message("ok ", manifest.config, " ", manifest.num_classes(), " ", manifest.precision, " ",
                          manifest.classes.front());
}

template <typename Read>
std::string answer(const Read& read) {
  try {
    return read();
  } catch (const StatusError& error) {
    return deeplab::message("error ", error.status(), " ", error.what());
  }
}

std::string examine_text(const std::string& text) {
  return answer([&] { return summary(parse_manifest(text, "file")); });
}

std::string examine(const std::string& kind, const std::string& path) {
  if (kind == "manifest") return examine_text(read_file(path));
  return answer([&] {
    if (kind == "onnx") return summary(parse_manifest(read_onnx_metadata(path, kMetadataKey), "file"));
    if (kind == "engine") return summary(read_engine_file(path).manifest);
    return sha256_hex(read_file(path));
  });
}

void mutate(const std::string& kind, const std::string& path, int count) {
  const std::string whole = read_file(path), target = path + ".mutated";
  std::mt19937 random(0);
  int accepted = 0;
  for (int i = 0; i < count; ++i) {
    std::string data = whole;
    for (unsigned edits = 1 + random() % 4; edits > 0 && !data.empty(); --edits) {
      const size_t place = random() % data.size(), length = std::min<size_t>(1 + random() % 64, data.size() - place);
      switch (random() % 5) {
        case 0: data[place] = static_cast<char>(random()); break;
        case 1: data[place] = "{}[]\",:\\0-"[random() % 10]; break;
        case 2: data.erase(place, length); break;
        case 3: data.insert(random() % data.size(), data.substr(place, length)); break;
        default: data.resize(place); break;
      }
    }
    if (kind != "manifest") std::ofstream(target, std::ios::binary) << data;
    accepted += (kind == "manifest" ? examine_text(data) : examine(kind, target)).rfind("ok ", 0) == 0;
  }
  std::remove(target.c_str());
  std::printf("%d of %d accepted\n", accepted, count);
}

void print_taps(char** arguments, int count) {
  std::optional<int64_t> via;
  if (count > 3) via = std::atoll(arguments[3]);
  const Taps taps = resize_taps(std::atoll(arguments[0]), std::atoll(arguments[1]), arguments[2][0] == '1', via);
  for (int64_t i = 0; i < taps.out * taps.columns; ++i) {
    uint32_t bits;
    std::memcpy(&bits, &taps.weight[i], sizeof(bits));
    std::printf("%d %" PRIu32 "%s", taps.index[i], bits, (i + 1) % taps.columns == 0 ? "\n" : " ");
  }
}

}  // namespace

int main(int count, char** arguments) {
  const std::string mode = count > 1 ? arguments[1] : "";
  if (mode == "taps" && count >= 5) {
    print_taps(arguments + 2, count - 2);
  } else if (mode == "mutate" && count == 5) {
    mutate(arguments[2], arguments[3], std::atoi(arguments[4]));
  } else {
    for (int i = 2; i < count; ++i) std::printf("%s\n", examine(mode, arguments[i]).c_str());
  }
  return 0;
}
