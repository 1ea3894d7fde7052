// Arrays of NumPy's .npz files.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace resnet::npz {

/// Why there is no such array.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An array in C order.
struct Array {
  std::string type;  ///< as NumPy names it: float32, float64 or uint8
  std::vector<std::int64_t> shape;
  std::string bytes;

  /// As double, of the floats. Throws Fault.
  std::vector<double> doubles() const;
};

/// The array of that name, stored or deflated. Throws Fault.
Array array_from_npz(const std::string& data, const std::string& name);

}  // namespace resnet::npz
