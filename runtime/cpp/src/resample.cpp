// Separable resampling of 8-bit pixels.
//
// With antialiasing, output pixel i has its middle at (i + 0.5) * scale of the input, and takes the pixels within
// support * max(scale, 1) of it, weighted by the kernel stretched by max(scale, 1) and normalized to a sum of 1. The
// weights are fixed-point numbers of 22 bits, each pass is rounded to a byte, and the rows are done before the columns:
// so does Pillow, whose pixels the models saw (https://pillow.readthedocs.io/en/stable/handbook/concepts.html#filters).

#include <algorithm>
#include <cmath>
#include <vector>

#include "images.hpp"
#include "resnet_runtime/error.hpp"

namespace resnet {

namespace {

constexpr int fraction_bits = 22;  // of 32: 8 for the pixel, 2 for what negative lobes add
constexpr double pi = 3.14159265358979323846;

double sinc(double x) { return x == 0 ? 1 : std::sin(pi * x) / (pi * x); }

struct Kernel {
  double support;
  double (*weight)(double);
};

double box(double x) { return x > -0.5 && x <= 0.5 ? 1 : 0; }
double triangle(double x) { return std::max(0.0, 1 - std::abs(x)); }
double hamming(double x) {
  x = std::abs(x);
  return x >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * std::cos(pi * x));
}
double cubic(double x) {  // Keys', a = -0.5
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}
double lanczos(double x) { return x > -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

Kernel kernel_of(const std::string& interpolation) {
  if (interpolation == "box") return {0.5, box};
  if (interpolation == "bilinear") return {1, triangle};
  if (interpolation == "hamming") return {1, hamming};
  if (interpolation == "bicubic") return {2, cubic};
  if (interpolation == "lanczos") return {3, lanczos};
  throw Error(ErrorKind::input, "there is no interpolation '" + interpolation + "'");
}

/// What one output pixel takes: input pixels from `first` on, by these weights.
struct Taps {
  std::int64_t first = 0;
  std::vector<int> weights;
};

std::vector<Taps> taps_of(std::int64_t from, std::int64_t to, const Kernel& kernel) {
  const double scale = static_cast<double>(from) / static_cast<double>(to), stretch = std::max(scale, 1.0);
  const double support = kernel.support * stretch;
  std::vector<Taps> all(static_cast<std::size_t>(to));
  std::vector<double> weights;
  for (std::int64_t index = 0; index < to; ++index) {
    const double middle = (static_cast<double>(index) + 0.5) * scale;
    const auto first = std::max<std::int64_t>(0, static_cast<std::int64_t>(middle - support + 0.5));
    const auto end = std::min<std::int64_t>(from, static_cast<std::int64_t>(middle + support + 0.5));
    weights.clear();
    double sum = 0;
    for (std::int64_t at = first; at < end; ++at) {
      weights.push_back(kernel.weight((static_cast<double>(at) - middle + 0.5) / stretch));
      sum += weights.back();
    }
    Taps& taps = all[static_cast<std::size_t>(index)];
    taps.first = first;
    for (const double weight : weights) {
      const double scaled = (sum == 0 ? weight : weight / sum) * (1 << fraction_bits);
      taps.weights.push_back(static_cast<int>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
    }
  }
  return all;
}

std::uint8_t byte_of(std::int64_t sum) {
  return static_cast<std::uint8_t>(std::clamp<std::int64_t>(sum >> fraction_bits, 0, 255));
}

Pixels across(const Pixels& from, std::int64_t width, const Kernel& kernel) {
  if (width == from.width) return from;
  const auto taps = taps_of(from.width, width, kernel);
  Pixels made{from.height, width, from.channels, {}};
  made.values.resize(static_cast<std::size_t>(made.height * width * made.channels));
  for (std::int64_t y = 0; y < from.height; ++y) {
    const std::uint8_t* row = from.row(y);
    std::uint8_t* to = made.row(y);
    for (const Taps& one : taps) {
      for (std::int64_t channel = 0; channel < from.channels; ++channel) {
        std::int64_t sum = std::int64_t{1} << (fraction_bits - 1);
        const std::uint8_t* pixel = row + one.first * from.channels + channel;
        for (const int weight : one.weights) {
          sum += std::int64_t{*pixel} * weight;
          pixel += from.channels;
        }
        *to++ = byte_of(sum);
      }
    }
  }
  return made;
}

Pixels down(const Pixels& from, std::int64_t height, const Kernel& kernel) {
  if (height == from.height) return from;
  const auto taps = taps_of(from.height, height, kernel);
  Pixels made{height, from.width, from.channels, {}};
  made.values.resize(static_cast<std::size_t>(height * made.width * made.channels));
  const auto row_size = static_cast<std::size_t>(from.width * from.channels);
  std::vector<std::int64_t> sums(row_size);
  for (std::int64_t y = 0; y < height; ++y) {
    const Taps& one = taps[static_cast<std::size_t>(y)];
    std::fill(sums.begin(), sums.end(), std::int64_t{1} << (fraction_bits - 1));
    for (std::size_t tap = 0; tap < one.weights.size(); ++tap) {
      const std::uint8_t* row = from.row(one.first + static_cast<std::int64_t>(tap));
      for (std::size_t at = 0; at < row_size; ++at) sums[at] += std::int64_t{row[at]} * one.weights[tap];
    }
    std::transform(sums.begin(), sums.end(), made.row(y), byte_of);
  }
  return made;
}

Pixels nearest(const Pixels& from, std::int64_t height, std::int64_t width) {
  Pixels made{height, width, from.channels, {}};
  made.values.resize(static_cast<std::size_t>(height * width * made.channels));
  const double down_scale = static_cast<double>(from.height) / static_cast<double>(height);
  const double across_scale = static_cast<double>(from.width) / static_cast<double>(width);
  for (std::int64_t y = 0; y < height; ++y) {
    const auto source_y = std::min(from.height - 1, static_cast<std::int64_t>((static_cast<double>(y) + 0.5) * down_scale));
    std::uint8_t* to = made.row(y);
    for (std::int64_t x = 0; x < width; ++x) {
      const auto source_x =
          std::min(from.width - 1, static_cast<std::int64_t>((static_cast<double>(x) + 0.5) * across_scale));
      const std::uint8_t* pixel = from.row(source_y) + source_x * from.channels;
      to = std::copy(pixel, pixel + from.channels, to);
    }
  }
  return made;
}

/// Of each output pixel along one axis: the input pixels that it takes, the border's going on without end.
struct Points {
  std::vector<std::int64_t> at;
  std::vector<double> weights;
};

std::vector<Points> points_of(std::int64_t from, std::int64_t to, bool cubic_kernel) {
  constexpr double a = -0.75;  // the kernel's parameter in torch and OpenCV
  const auto near = [](double x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
  const auto far = [](double x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
  std::vector<Points> all(static_cast<std::size_t>(to));
  for (std::int64_t index = 0; index < to; ++index) {
    const double position =
        (static_cast<double>(index) + 0.5) * (static_cast<double>(from) / static_cast<double>(to)) - 0.5;
    const double below = std::floor(position), t = position - below;
    Points& points = all[static_cast<std::size_t>(index)];
    points.weights = cubic_kernel ? std::vector<double>{far(1 + t), near(t), near(1 - t), far(2 - t)}
                                  : std::vector<double>{1 - t, t};
    const std::int64_t first = static_cast<std::int64_t>(below) - (cubic_kernel ? 1 : 0);
    for (std::size_t tap = 0; tap < points.weights.size(); ++tap) {
      points.at.push_back(std::clamp<std::int64_t>(first + static_cast<std::int64_t>(tap), 0, from - 1));
    }
  }
  return all;
}

}  // namespace

Pixels resized_with_antialias(const Pixels& pixels, std::int64_t height, std::int64_t width,
                              const std::string& interpolation) {
  if (interpolation == "nearest") return nearest(pixels, height, width);
  const Kernel kernel = kernel_of(interpolation);
  return down(across(pixels, width, kernel), height, kernel);
}

Pixels resized_without_antialias(const Pixels& pixels, std::int64_t height, std::int64_t width, bool cubic_kernel) {
  const auto rows = points_of(pixels.height, height, cubic_kernel), columns = points_of(pixels.width, width, cubic_kernel);
  const auto channels = pixels.channels;
  const auto row_size = static_cast<std::size_t>(pixels.width * channels);
  Pixels made{height, width, channels, {}};
  made.values.resize(static_cast<std::size_t>(height * width * channels));
  std::vector<double> line(row_size);
  for (std::int64_t y = 0; y < height; ++y) {
    const Points& vertical = rows[static_cast<std::size_t>(y)];
    std::fill(line.begin(), line.end(), 0.0);
    for (std::size_t tap = 0; tap < vertical.at.size(); ++tap) {
      const std::uint8_t* row = pixels.row(vertical.at[tap]);
      for (std::size_t at = 0; at < row_size; ++at) line[at] += row[at] * vertical.weights[tap];
    }
    std::uint8_t* to = made.row(y);
    for (const Points& horizontal : columns) {
      for (std::int64_t channel = 0; channel < channels; ++channel) {
        double sum = 0;
        for (std::size_t tap = 0; tap < horizontal.at.size(); ++tap) {
          sum += line[static_cast<std::size_t>(horizontal.at[tap] * channels + channel)] * horizontal.weights[tap];
        }
        *to++ = static_cast<std::uint8_t>(std::clamp(std::nearbyint(sum), 0.0, 255.0));
      }
    }
  }
  return made;
}

}  // namespace resnet
