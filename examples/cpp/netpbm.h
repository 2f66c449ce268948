// SPDX-License-Identifier: Apache-2.0
// Netpbm's binary images, which need no library: PPM (P6) is read, PGM (P5) and PPM are written.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Picture {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> pixels;  // [height, width, 3] RGB
};

// Throws std::runtime_error for what is no 8-bit P6 file.
Picture read_ppm(const std::string& path);

// channels: 1 (PGM) or 3 (PPM); values [height, width, channels] of one byte, or of two with `maximum` above 255.
// Throws std::runtime_error where the file cannot be written.
void write_netpbm(const std::string& path, const std::vector<uint16_t>& values, int64_t height, int64_t width,
                  int channels, int maximum);
