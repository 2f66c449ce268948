// SPDX-License-Identifier: Apache-2.0
// Segments one image: segment_image MODEL IMAGE MASK [--color] [--backend NAME] [--mode whole|slide] [--threads N]
//
// IMAGE is a binary PPM file, MASK a PGM file whose value is the class of the pixel (two bytes a pixel beyond 256
// classes); with --color a PPM file in the colours of the model's palette. Built with OpenCV, both may also be PNG, and
// the image whatever OpenCV reads.
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include <deeplab/segmenter.hpp>

#include "netpbm.h"

#if defined(WITH_OPENCV)
#include <opencv2/imgcodecs.hpp>
#endif

namespace {

struct Arguments {
  std::string model, image, mask;
  bool color = false;
  deeplab::Options options;
};

Arguments parse(int count, char** texts) {
  Arguments arguments;
  std::vector<std::string> files;
  for (int i = 1; i < count; ++i) {
    const std::string name = texts[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == count) throw std::runtime_error(name + " needs a value");
      return texts[++i];
    };
    if (name == "--color") {
      arguments.color = true;
    } else if (name == "--backend") {
      arguments.options.backend = value();
    } else if (name == "--mode") {
      arguments.options.mode = value();
    } else if (name == "--threads") {
      arguments.options.threads = std::stoi(value());
    } else if (name.rfind("--", 0) == 0) {
      throw std::runtime_error("unknown option " + name);
    } else {
      files.push_back(name);
    }
  }
  if (files.size() != 3) {
    throw std::runtime_error(
        "usage: segment_image MODEL IMAGE MASK [--color] [--backend NAME] [--mode whole|slide] [--threads N]");
  }
  arguments.model = files[0];
  arguments.image = files[1];
  arguments.mask = files[2];
  return arguments;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

Picture read_picture(const std::string& path) {
#if defined(WITH_OPENCV)
  if (!ends_with(path, ".ppm")) {
    const cv::Mat image = cv::imread(path, cv::IMREAD_COLOR);
    if (image.empty()) throw std::runtime_error(path + ": OpenCV cannot read it");
    Picture picture{image.rows, image.cols, {}};
    for (int y = 0; y < image.rows; ++y) {
      for (int x = 0; x < image.cols; ++x) {
        for (int c : {2, 1, 0}) picture.pixels.push_back(image.at<cv::Vec3b>(y, x)[c]);
      }
    }
    return picture;
  }
#endif
  return read_ppm(path);
}

void write_mask(const std::string& path, const std::vector<uint16_t>& values, int64_t height, int64_t width,
                int channels, int maximum) {
#if defined(WITH_OPENCV)
  if (!ends_with(path, ".pgm") && !ends_with(path, ".ppm")) {
    cv::Mat image(static_cast<int>(height), static_cast<int>(width), CV_MAKETYPE(CV_16U, channels));
    for (size_t i = 0; i < values.size(); ++i) {  // OpenCV writes B, G, R
      image.ptr<uint16_t>()[channels == 3 ? i - i % 3 + 2 - i % 3 : i] = values[i];
    }
    if (maximum < 256) image.convertTo(image, CV_8U);
    if (!cv::imwrite(path, image)) throw std::runtime_error(path + ": cannot be written");
    return;
  }
#endif
  if (!ends_with(path, channels == 1 ? ".pgm" : ".ppm")) {
    throw std::runtime_error(path + ": a mask is a .pgm file, with --color a .ppm file");
  }
  write_netpbm(path, values, height, width, channels, maximum);
}

void segment(const Arguments& arguments) {
  const deeplab::Segmenter segmenter(arguments.model, arguments.options);
  const Picture picture = read_picture(arguments.image);
  const deeplab::Segmentation found = segmenter.segment({picture.pixels.data(), picture.height, picture.width});

  std::vector<uint16_t> values;
  std::vector<int64_t> areas(segmenter.classes().size());
  for (int64_t y = 0; y < found.height(); ++y) {
    for (int64_t x = 0; x < found.width(); ++x) {
      const int32_t label = found.label(y, x);
      ++areas[label];
      if (arguments.color) {
        for (const uint8_t value : segmenter.palette()[label]) values.push_back(value);
      } else {
        values.push_back(static_cast<uint16_t>(label));
      }
    }
  }
  const int maximum = !arguments.color && segmenter.classes().size() > 256 ? 65535 : 255;
  write_mask(arguments.mask, values, found.height(), found.width(), arguments.color ? 3 : 1, maximum);

  const deeplab_info& info = segmenter.info();
  std::printf("%s on %s (%s), %s, %s\n", info.config, info.backend, info.device, info.precision, info.mode);
  for (size_t i = 0; i < areas.size(); ++i) {
    if (areas[i] == 0) continue;
    const double share = 100.0 * static_cast<double>(areas[i]) / static_cast<double>(found.height() * found.width());
    std::printf("%6.2f %%  %s\n", share, segmenter.classes()[i].c_str());
  }
}

}  // namespace

int main(int count, char** texts) {
  try {
    segment(parse(count, texts));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
