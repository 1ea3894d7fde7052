#include "engine_fit.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <cctype>
#include <sstream>
#include <vector>

#include "words.hpp"

namespace resnet {

namespace {

constexpr const char* versions = "+versions";

std::string product(const std::string& library) {
  if (library == "tensorrt") return "TensorRT";
  return library == "tensorrt-rtx" ? "TensorRT-RTX" : library;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// The parts that are numbers. Of more than nine digits none is a version's.
std::vector<int> numbers_of(const std::string& version) {
  std::vector<int> numbers;
  std::istringstream parts(version);
  for (std::string part; std::getline(parts, part, '.');) {
    const bool digits = std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
    if (digits && !part.empty() && part.size() < 10) numbers.push_back(std::stoi(part));
  }
  return numbers;
}

bool version_fits(const Engine& engine, const EngineHost& host) {
  if (!runs_on_newer(engine)) return engine.builder_version == host.version;
  const auto built = numbers_of(engine.builder_version), here = numbers_of(host.version);
  return !built.empty() && !here.empty() && built.front() == here.front() && built <= here;
}

bool device_fits(const Engine& engine, const std::string& kind, const EngineHost& host) {
  if (kind == "ampere_plus") return numbers_of(host.capability) >= std::vector<int>{8, 0};
  const auto& listed = engine.compute_capabilities;
  if (std::find(listed.begin(), listed.end(), host.capability) == listed.end()) return false;
  return kind == "portable" || !engine.gpu || *engine.gpu == host.gpu;
}

std::string sentence(const Engine& engine, const std::string& here) {
  const std::string capabilities = joined(engine.compute_capabilities);
  const std::string where = engine.gpu ? *engine.gpu + " (" + capabilities + ")" : "compute capability " + capabilities;
  return "the engine " + engine.id + " was built by " + product(engine.builder) + " " + engine.builder_version + " for " +
         where + " on " + engine.platform + ", and here is " + here + ": build one here with " +
         build_command(engine.variant.substr(0, engine.variant.find('-')));
}

}  // namespace

std::string verified_name(const EngineHost& host) { return host.gpu + ", " + host.library + " " + host.version; }

bool is_verified(const Engine& engine, const EngineHost& host) { return engine.verified_on == verified_name(host); }

std::string misfit(const Engine& engine, const EngineHost& host) {
  const std::string kind = engine.compatibility.substr(0, engine.compatibility.find(versions));
  if (engine.builder != host.library) return sentence(engine, product(host.library));
  if (!version_fits(engine, host)) return sentence(engine, product(host.library) + " " + host.version);
  const std::string machine = engine.platform.substr(engine.platform.rfind('-') + 1);
  if (!ends_with(host.platform, kind == "portable" ? machine : engine.platform)) {
    return sentence(engine, "the platform " + host.platform);
  }
  if (!device_fits(engine, kind, host)) {
    return sentence(engine, host.gpu + " with compute capability " + host.capability);
  }
  return "";
}

bool runs_on_newer(const Engine& engine) { return ends_with(engine.compatibility, versions); }

std::string build_command(const std::string& precision) {
  const bool by_default = precision == "fp16" || precision == "int8";
  return "resnet-export BUNDLE --engine tensorrt" + (by_default ? "" : " --engine-precision " + precision);
}

std::string own_platform() {
  utsname about{};
  if (uname(&about) != 0) return "unknown";
  std::string text = std::string(about.sysname) + "-" + about.machine;
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

}  // namespace resnet
