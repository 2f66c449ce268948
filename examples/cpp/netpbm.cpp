// SPDX-License-Identifier: Apache-2.0
#include "netpbm.h"

#include <cctype>
#include <fstream>
#include <stdexcept>

namespace {

constexpr int64_t kMaxSide = 1 << 20;

// The next number of a header: white space and lines that start with # come before it.
int64_t read_number(std::istream& stream, const std::string& path) {
  int c = stream.get();
  while (c == '#' || std::isspace(c)) {
    if (c == '#') {
      while (c != '\n' && c != EOF) c = stream.get();
    }
    c = stream.get();
  }
  int64_t value = 0;
  if (!std::isdigit(c)) throw std::runtime_error(path + ": a damaged PPM header");
  for (; std::isdigit(c); c = stream.get()) {
    value = value * 10 + (c - '0');
    if (value > kMaxSide) throw std::runtime_error(path + ": sides of more than 2^20 pixels");
  }
  return value;  // and one white space was read, as the format has it
}

}  // namespace

Picture read_ppm(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error(path + ": cannot be read");
  if (stream.get() != 'P' || stream.get() != '6') {
    throw std::runtime_error(path + ": not a binary PPM file (P6); convert it, or build this example with OpenCV");
  }
  Picture picture;
  picture.width = read_number(stream, path);
  picture.height = read_number(stream, path);
  if (read_number(stream, path) != 255) throw std::runtime_error(path + ": not 8 bits a colour");
  if (picture.width < 1 || picture.height < 1) throw std::runtime_error(path + ": the image is empty");
  picture.pixels.resize(static_cast<size_t>(picture.height * picture.width * 3));
  if (!stream.read(reinterpret_cast<char*>(picture.pixels.data()), static_cast<std::streamsize>(picture.pixels.size()))) {
    throw std::runtime_error(path + ": is truncated");
  }
  return picture;
}

void write_netpbm(const std::string& path, const std::vector<uint16_t>& values, int64_t height, int64_t width,
                  int channels, int maximum) {
  std::ofstream stream(path, std::ios::binary);
  stream << (channels == 1 ? "P5" : "P6") << '\n' << width << ' ' << height << '\n' << maximum << '\n';
  for (const uint16_t value : values) {
    if (maximum > 255) stream.put(static_cast<char>(value >> 8));
    stream.put(static_cast<char>(value));
  }
  if (!stream.flush()) throw std::runtime_error(path + ": cannot be written");
}
