// Images to a batch, by what a manifest says of the model's preprocessing: as Python's, to within one grey level.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "resnet_runtime/manifest.hpp"
#include "resnet_runtime/tensor.hpp"

namespace resnet {

/// Pixels in C order: (height, width, channels), 1 of gray or 3 of RGB.
struct Pixels {
  std::int64_t height = 0, width = 0, channels = 0;
  std::vector<std::uint8_t> values;

  std::uint8_t* row(std::int64_t y) { return values.data() + static_cast<std::size_t>(y * width * channels); }
  const std::uint8_t* row(std::int64_t y) const {
    return values.data() + static_cast<std::size_t>(y * width * channels);
  }
};

/// A batch that is ready for a session.
struct ImageBatch {
  DataType type = DataType::float32;
  std::vector<std::int64_t> shape;
  std::vector<float> floats;         ///< of float32
  std::vector<std::uint8_t> bytes;   ///< of uint8

  TensorView view() const {
    return type == DataType::float32 ? TensorView(floats.data(), shape) : TensorView(bytes.data(), shape);
  }
};

/// Decode JPEG or PNG files, resize, crop and normalize. Throws Error (image, input).
ImageBatch batch_from_files(const std::vector<std::string>& paths, const Preprocessing& rules, const Input& input);

/// As `batch_from_files`, of images in memory: the bytes of JPEG or PNG files.
ImageBatch batch_from_bytes(const std::vector<std::string>& files, const Preprocessing& rules, const Input& input);

/// As `batch_from_files`, of decoded pixels, gray or RGB.
ImageBatch batch_from_pixels(const std::vector<Pixels>& images, const Preprocessing& rules, const Input& input);

}  // namespace resnet
