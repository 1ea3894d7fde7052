// What a backend is: a signature, one call, and its end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "resnet_runtime/tensor.hpp"

namespace resnet {

/// What a session takes and gives.
struct Signature {
  TensorSpec input;
  std::vector<TensorSpec> outputs;
  std::int64_t smallest_batch = 1;
  std::int64_t largest_batch = 1;
};

/// One loaded graph. Safe to call from several threads.
class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  /// The library, its version and the precision that it was seen to compute in.
  virtual const std::string& description() const = 0;

  /// How many calls have to be under way for the backend to be at its fastest.
  virtual std::int64_t calls_at_once() = 0;

  /// Answer one batch.
  ///
  /// @param batch  `count` samples in C order, 1 <= count <= largest_batch
  /// @param outputs  one pointer for each output of the signature, each with room for `count` samples
  virtual void run(const void* batch, std::int64_t count, float* const* outputs) = 0;
};

}  // namespace resnet
