// Decoders, and the arithmetic on pixels.
#pragma once

#include <string>

#include "resnet_runtime/manifest.hpp"
#include "resnet_runtime/preprocess.hpp"

namespace resnet {

/// An image as its file has it: 1 channel of gray, 2 with alpha, 3 of RGB, 4 with alpha; and its EXIF orientation.
struct Decoded {
  Pixels pixels;
  int orientation = 1;  ///< 1 to 8
};

/// Decode a JPEG or PNG file. Throws Error (image).
/// @param name  for messages
Decoded decoded_from_bytes(const std::string& data, const std::string& name);

/// Turned and mirrored as the orientation says.
Pixels oriented(Pixels pixels, int orientation);

/// Resized as Pillow does, whose kernel widens by the factor by which an image shrinks.
Pixels resized_with_antialias(const Pixels& pixels, std::int64_t height, std::int64_t width,
                              const std::string& interpolation);

/// Resized as torch's interpolate does without antialiasing: bilinear or bicubic.
Pixels resized_without_antialias(const Pixels& pixels, std::int64_t height, std::int64_t width, bool cubic);

}  // namespace resnet
