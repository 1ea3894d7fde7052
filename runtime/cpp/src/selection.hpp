// Which backend and which variant: a function of the manifest and of what this host is.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine_fit.hpp"
#include "resnet_runtime/manifest.hpp"
#include "resnet_runtime/session.hpp"

namespace resnet {

/// What a backend is on this host.
struct BackendFacts {
  std::string name;
  std::optional<std::string> missing;          ///< why it cannot be used; none where it can
  std::map<std::string, bool> precisions;      ///< computed at all: natively (true) or emulated, right and slow
  std::string scheme = "cpu";                  ///< of the int8 variants that it runs
  std::string instructions = "unknown";        ///< the CPU's integer dot products
  std::optional<EngineHost> engines_on;        ///< of what runs engines and no ONNX files: what it runs them on
};

/// The fastest combination that the host computes natively, or the one that was asked for.
/// @param refused  engines that are not to be taken, and why
/// Throws Error (input, unavailable).
Choice choose(const Manifest& manifest, const std::vector<BackendFacts>& host, const Options& options,
              const std::map<std::string, std::string>& refused = {});

/// The fastest integer dot product that every processor of a /proc/cpuinfo has.
std::string instructions_from_cpuinfo(const std::string& text);

/// Of this host.
std::string host_instructions();

}  // namespace resnet
