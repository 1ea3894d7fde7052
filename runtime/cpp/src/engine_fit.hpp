// Whether an engine runs here: what it was built for, and what is here. TensorRT returns null for an engine of another
// version or device, so that the manifest's record is compared before the file is deserialized.
#pragma once

#include <string>

#include "resnet_runtime/manifest.hpp"

namespace resnet {

/// What an engine would run on.
struct EngineHost {
  std::string library = "tensorrt";
  std::string version;     ///< of the library, of as many numbers as Python's module has
  std::string platform;    ///< as linux-x86_64
  std::string gpu;         ///< the device's name
  std::string capability;  ///< its compute capability, as 8.6
};

/// What an engine's record holds where it was run on the host and passed its variant's gate.
std::string verified_name(const EngineHost& host);

/// Whether the engine was run before it shipped, on such a GPU and by this version of the library.
bool is_verified(const Engine& engine, const EngineHost& host);

/// Why the engine does not run there, in a sentence; "" where it does.
std::string misfit(const Engine& engine, const EngineHost& host);

/// Whether newer libraries of the same major version run it too.
bool runs_on_newer(const Engine& engine);

/// What adds an engine of the precision to a bundle on a host with TensorRT.
std::string build_command(const std::string& precision);

/// What this library was compiled for.
std::string own_platform();

}  // namespace resnet
