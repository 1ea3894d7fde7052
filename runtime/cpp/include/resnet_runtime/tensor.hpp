// Views of the caller's memory, and the arrays that a call gives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace resnet {

enum class DataType { float32, uint8 };

constexpr std::size_t size_of(DataType type) noexcept { return type == DataType::float32 ? 4 : 1; }

/// A tensor of the graph without its batch axis.
struct TensorSpec {
  std::string name;
  DataType type = DataType::float32;
  std::vector<std::int64_t> shape;

  /// Of one sample.
  std::size_t elements() const noexcept {
    std::size_t count = 1;
    for (const auto size : shape) count *= static_cast<std::size_t>(size);
    return count;
  }
};

/// A batch of the caller's, in C order, of the model's input type; it is read during the call and not kept.
struct TensorView {
  const void* data = nullptr;
  DataType type = DataType::float32;
  std::vector<std::int64_t> shape;  ///< (N, ...)

  TensorView() = default;
  TensorView(const float* values, std::vector<std::int64_t> sizes)
      : data(values), type(DataType::float32), shape(std::move(sizes)) {}
  TensorView(const std::uint8_t* values, std::vector<std::int64_t> sizes)
      : data(values), type(DataType::uint8), shape(std::move(sizes)) {}
};

/// An answer: float32 in C order, (N, ...).
struct Tensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

/// Answers by the output's name.
using Outputs = std::map<std::string, Tensor>;

}  // namespace resnet
