#include "resnet_runtime/preprocess.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <functional>
#include <new>

#include "files.hpp"
#include "images.hpp"
#include "resnet_runtime/error.hpp"

namespace resnet {

namespace {

constexpr std::int64_t max_file_bytes = std::int64_t{512} << 20U;
constexpr std::int64_t max_resized_pixels = std::int64_t{1} << 26U;

std::string size_text(std::int64_t height, std::int64_t width) {
  return std::to_string(height) + " x " + std::to_string(width);
}

bool is_huge(std::int64_t height, std::int64_t width) {
  return height > max_resized_pixels || width > max_resized_pixels || height * width > max_resized_pixels;
}

std::string file_bytes(const std::string& path) {
  const Descriptor file(path, 0);
  if (file.number() < 0) {
    if (errno == ENOENT) throw Error(ErrorKind::image, path + " does not exist");
    throw Error(ErrorKind::image, path + " cannot be read: " + std::strerror(errno));
  }
  std::string data;
  std::array<char, 1 << 16> buffer{};
  try {
    std::size_t got = buffer.size();
    while (got == buffer.size() && static_cast<std::int64_t>(data.size()) <= max_file_bytes) {
      got = file.read(buffer.data(), buffer.size());
      data.append(buffer.data(), got);
    }
  } catch (const std::system_error& error) {
    const bool folder = error.code() == std::errc::is_a_directory;
    if (folder) throw Error(ErrorKind::image, path + " is a directory, and an image is a file");
    throw Error(ErrorKind::image, path + " cannot be read: " + error.code().message());
  }
  if (static_cast<std::int64_t>(data.size()) > max_file_bytes) {
    throw Error(ErrorKind::image, path + " has more than " + std::to_string(max_file_bytes) +
                                      " bytes, which is no image for a classifier");
  }
  return data;
}

/// RGB, with the transparency dropped or laid on white or black.
Pixels as_rgb(const Pixels& from, const std::string& alpha) {
  Pixels made{from.height, from.width, 3, {}};
  made.values.resize(static_cast<std::size_t>(from.height * from.width * 3));
  const bool gray = from.channels <= 2, transparent = from.channels % 2 == 0;
  const unsigned below = alpha == "white" ? 255 : 0;
  const std::uint8_t* pixel = from.values.data();
  for (std::size_t at = 0; at < made.values.size(); at += 3, pixel += from.channels) {
    for (std::size_t channel = 0; channel < 3; ++channel) {
      const unsigned value = pixel[gray ? 0 : channel];
      if (transparent && alpha != "drop") {
        const unsigned opaque = pixel[from.channels - 1];
        // In one rounding, as Pillow pastes by a mask.
        const unsigned mixed = value * opaque + below * (255 - opaque) + 128;
        made.values[at + channel] = static_cast<std::uint8_t>(((mixed >> 8U) + mixed) >> 8U);
      } else {
        made.values[at + channel] = static_cast<std::uint8_t>(value);
      }
    }
  }
  return made;
}

/// ITU-R 601-2 luma, in the fixed-point arithmetic of Pillow: a gray pixel stays what it is.
Pixels as_gray(const Pixels& rgb) {
  Pixels made{rgb.height, rgb.width, 1, {}};
  made.values.resize(static_cast<std::size_t>(rgb.height * rgb.width));
  for (std::size_t at = 0; at < made.values.size(); ++at) {
    const std::uint8_t* pixel = rgb.values.data() + 3 * at;
    made.values[at] = static_cast<std::uint8_t>((pixel[0] * 19595U + pixel[1] * 38470U + pixel[2] * 7471U + 0x8000U) >> 16U);
  }
  return made;
}

Pixels resized(Pixels pixels, const Resize& rule, const std::string& name) {
  std::int64_t height = rule.size[0], width = rule.size.back();
  if (rule.mode == "shorter") {
    // As torchvision: the long side is cut, not rounded.
    const auto shorter = std::min(pixels.height, pixels.width), longer = std::max(pixels.height, pixels.width);
    const double exact = static_cast<double>(rule.size[0]) * static_cast<double>(longer) / static_cast<double>(shorter);
    const auto cut = static_cast<std::int64_t>(std::min(exact, 1e15));
    const bool upright = pixels.width <= pixels.height;
    height = upright ? cut : rule.size[0];
    width = upright ? rule.size[0] : cut;
  }
  if (is_huge(height, width)) {
    throw Error(ErrorKind::image, name + " has " + size_text(pixels.height, pixels.width) +
                                      " pixels (height x width) and would be resized to " + size_text(height, width) +
                                      ", more than " + std::to_string(max_resized_pixels) + " pixels: crop it before");
  }
  if (rule.antialias || rule.interpolation == "nearest") {
    return resized_with_antialias(pixels, height, width, rule.interpolation);
  }
  return resized_without_antialias(pixels, height, width, rule.interpolation == "bicubic");
}

/// (h, w) from the middle; zeros around an image that is smaller, as torchvision pads.
Pixels center_crop(const Pixels& from, std::int64_t height, std::int64_t width) {
  if (is_huge(height, width)) {
    throw Error(ErrorKind::image, "a crop to " + size_text(height, width) + " has more than " +
                                      std::to_string(max_resized_pixels) + " pixels: export the model again");
  }
  const auto missing_y = std::max<std::int64_t>(0, height - from.height);
  const auto missing_x = std::max<std::int64_t>(0, width - from.width);
  const auto padded_height = from.height + missing_y, padded_width = from.width + missing_x;
  // To the even neighbour at a half, as Python rounds.
  const auto top = static_cast<std::int64_t>(std::nearbyint(static_cast<double>(padded_height - height) / 2));
  const auto left = static_cast<std::int64_t>(std::nearbyint(static_cast<double>(padded_width - width) / 2));
  Pixels made{height, width, from.channels, {}};
  made.values.assign(static_cast<std::size_t>(height * width * from.channels), 0);
  for (std::int64_t y = 0; y < height; ++y) {
    const std::int64_t source = y + top - missing_y / 2;
    if (source < 0 || source >= from.height) continue;
    for (std::int64_t x = 0; x < width; ++x) {
      const std::int64_t column = x + left - missing_x / 2;
      if (column < 0 || column >= from.width) continue;
      const std::uint8_t* pixel = from.row(source) + column * from.channels;
      std::copy(pixel, pixel + from.channels, made.row(y) + x * from.channels);
    }
  }
  return made;
}

Pixels prepared(Decoded decoded, const std::string& name, const Preprocessing& rules) {
  if (rules.exif == "apply") decoded.pixels = oriented(std::move(decoded.pixels), decoded.orientation);
  Pixels pixels = as_rgb(decoded.pixels, rules.alpha);
  if (rules.color_order == "L") pixels = as_gray(pixels);
  if (rules.resize) pixels = resized(std::move(pixels), *rules.resize, name);
  if (rules.color_order == "BGR") {
    for (std::size_t at = 0; at < pixels.values.size(); at += 3) std::swap(pixels.values[at], pixels.values[at + 2]);
  }
  return rules.crop ? center_crop(pixels, (*rules.crop)[0], (*rules.crop)[1]) : pixels;
}

ImageBatch batch_of(std::size_t count, const std::function<Pixels(std::size_t)>& image,
                    const std::function<std::string(std::size_t)>& name, const Preprocessing& rules, const Input& input) {
  if (is_huge(input.height(), input.width())) {
    throw Error(ErrorKind::input, "an input of " + size_text(input.height(), input.width()) + " pixels is too large");
  }
  ImageBatch made;
  made.type = input.dtype == "uint8" ? DataType::uint8 : DataType::float32;
  made.shape = {static_cast<std::int64_t>(count)};
  made.shape.insert(made.shape.end(), input.shape.begin(), input.shape.end());
  const auto channels = static_cast<std::size_t>(input.channels());
  const auto positions = static_cast<std::size_t>(input.height() * input.width());
  const std::size_t sample = channels * positions;
  if (made.type == DataType::uint8) {
    made.bytes.resize(count * sample);
  } else {
    made.floats.resize(count * sample);
  }
  std::vector<std::array<float, 256>> table(channels);
  for (std::size_t channel = 0; channel < channels; ++channel) {
    for (std::size_t value = 0; value < 256; ++value) {
      const double scaled = static_cast<double>(value) * rules.scale;
      table[channel][value] = static_cast<float>((scaled - rules.mean[channel]) / rules.std[channel]);
    }
  }
  for (std::size_t index = 0; index < count; ++index) {
    const Pixels pixels = [&] {
      try {
        return image(index);
      } catch (const std::bad_alloc&) {
        throw Error(ErrorKind::image, name(index) + " cannot be read as an image: there is not enough memory");
      }
    }();
    if (pixels.height != input.height() || pixels.width != input.width() || pixels.channels != input.channels()) {
      throw Error(ErrorKind::input, name(index) + " has " + size_text(pixels.height, pixels.width) +
                                        " pixels (height x width) after the bundle's preprocessing, and the model takes " +
                                        size_text(input.height(), input.width()) +
                                        ": resize or crop the image to that before");
    }
    if (made.type == DataType::uint8) {
      std::copy(pixels.values.begin(), pixels.values.end(),
                made.bytes.begin() + static_cast<std::ptrdiff_t>(index * sample));
      continue;
    }
    float* to = made.floats.data() + index * sample;
    const bool planes = input.layout == "NCHW";
    for (std::size_t at = 0; at < positions; ++at) {
      for (std::size_t channel = 0; channel < channels; ++channel) {
        const float value = table[channel][pixels.values[at * channels + channel]];
        to[planes ? channel * positions + at : at * channels + channel] = value;
      }
    }
  }
  return made;
}

}  // namespace

Pixels oriented(Pixels pixels, int orientation) {
  if (orientation <= 1 || orientation > 8) return pixels;
  const bool turned = orientation >= 5;
  Pixels made{turned ? pixels.width : pixels.height, turned ? pixels.height : pixels.width, pixels.channels, {}};
  made.values.resize(pixels.values.size());
  const auto bottom = pixels.height - 1, right = pixels.width - 1;
  for (std::int64_t y = 0; y < made.height; ++y) {
    for (std::int64_t x = 0; x < made.width; ++x) {
      std::int64_t from_y = turned ? x : y, from_x = turned ? y : x;
      if (orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8) {
        (turned ? from_x : from_y) = turned ? right - from_x : bottom - from_y;
      }
      if (orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7) {
        (turned ? from_y : from_x) = turned ? bottom - from_y : right - from_x;
      }
      const std::uint8_t* pixel = pixels.row(from_y) + from_x * pixels.channels;
      std::copy(pixel, pixel + pixels.channels, made.row(y) + x * pixels.channels);
    }
  }
  return made;
}

ImageBatch batch_from_files(const std::vector<std::string>& paths, const Preprocessing& rules, const Input& input) {
  const auto name = [&](std::size_t index) { return paths[index]; };
  return batch_of(
      paths.size(),
      [&](std::size_t index) { return prepared(decoded_from_bytes(file_bytes(paths[index]), paths[index]), paths[index], rules); },
      name, rules, input);
}

ImageBatch batch_from_bytes(const std::vector<std::string>& files, const Preprocessing& rules, const Input& input) {
  const auto name = [](std::size_t index) { return "images[" + std::to_string(index) + "]"; };
  return batch_of(
      files.size(),
      [&](std::size_t index) { return prepared(decoded_from_bytes(files[index], name(index)), name(index), rules); },
      name, rules, input);
}

ImageBatch batch_from_pixels(const std::vector<Pixels>& images, const Preprocessing& rules, const Input& input) {
  const auto name = [](std::size_t index) { return "images[" + std::to_string(index) + "]"; };
  return batch_of(
      images.size(),
      [&](std::size_t index) {
        const Pixels& given = images[index];
        const auto wanted = static_cast<std::size_t>(given.height * given.width * given.channels);
        if (given.height < 1 || given.width < 1 || given.channels < 1 || given.channels > 4 || given.values.size() != wanted) {
          throw Error(ErrorKind::input, name(index) + " has " + std::to_string(given.values.size()) +
                                            " bytes, which is no image of its size");
        }
        return prepared({given, 1}, name(index), rules);
      },
      name, rules, input);
}

}  // namespace resnet
