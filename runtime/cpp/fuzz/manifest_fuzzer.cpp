// Whatever the bytes are: a manifest, or an Error.
#include <cstdint>

#include "resnet_runtime/error.hpp"
#include "resnet_runtime/manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    resnet::Manifest::from_bytes({reinterpret_cast<const char*>(data), size});
  } catch (const resnet::Error&) {
  }
  return 0;
}
