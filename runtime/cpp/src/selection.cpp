#include "selection.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "resnet_runtime/error.hpp"
#include "strict_json.hpp"
#include "words.hpp"

namespace resnet {

namespace {

constexpr std::array<std::pair<const char*, const char*>, 7> preference{{
    {"tensorrt", "int8"},
    {"tensorrt", "fp16"},
    {"tensorrt", "fp32"},
    {"openvino", "int8"},
    {"openvino", "bf16"},
    {"openvino", "fp16"},
    {"openvino", "fp32"},
}};  // fastest first, as in Python's selection

bool is_preferred(const std::string& backend, const std::string& precision) {
  return std::any_of(preference.begin(), preference.end(), [&](const auto& one) {
    return one.first == backend && one.second == precision;
  });
}

constexpr std::array<const char*, 4> precisions{"fp32", "bf16", "fp16", "int8"};

constexpr double min_int8_speedup = 1.3;

constexpr std::array<std::pair<const char*, const char*>, 5> dot_products{{
    {"amx_int8", "amx_int8"},
    {"avx512_vnni", "avx512_vnni"},
    {"avx_vnni", "avx_vnni"},
    {"i8mm", "i8mm"},
    {"asimddp", "dotprod"},
}};  // from a flag of the Linux kernel to the name of the instructions, the fastest first

std::string floored(double ratio) { return json::general(std::floor(ratio * 100) / 100); }

std::string said(const std::string& instructions) {
  if (instructions == "unknown") return "unknown instructions";
  return instructions == "none" ? "no integer dot products" : instructions;
}

std::optional<std::string> misfit(const Variant& variant, const BackendFacts& facts) {
  if (!variant.scheme || *variant.scheme == facts.scheme) return std::nullopt;
  const std::string made_for = *variant.scheme == "tensorrt" ? "TensorRT" : "a CPU";
  return variant.id + " is quantized for " + made_for + ", and " + facts.name + " runs the scheme '" + facts.scheme + "'";
}

/// The smallest of the speeds that were measured on this backend and such a CPU.
const Speed* slowest(const Variant& variant, const BackendFacts& facts) {
  const Speed* found = nullptr;
  for (const auto& speed : variant.speeds) {
    const bool alike = speed.backend == facts.name && speed.instructions == facts.instructions;
    if (alike && speed.instructions != "unknown" && (found == nullptr || speed.ratio < found->ratio)) found = &speed;
  }
  return found;
}

/// Why auto passes the variant over.
std::optional<std::string> slow(const Variant& variant, const BackendFacts& facts) {
  if (!facts.precisions.at(variant.precision)) return "emulated on this CPU, right but slow";
  if (variant.precision != "int8") return std::nullopt;
  const auto measured = std::find_if(variant.speeds.begin(), variant.speeds.end(),
                                     [&](const Speed& speed) { return speed.backend == facts.name; });
  if (measured == variant.speeds.end()) {
    return "never measured on " + facts.name + ", so that it may be slower than another variant";
  }
  const Speed* least = slowest(variant, facts);
  if (least == nullptr) {
    return "measured on a CPU with " + said(measured->instructions) + ", and this one has " + said(facts.instructions);
  }
  if (least->ratio < min_int8_speedup) {
    return "measured " + floored(least->ratio) + " times as fast as " + least->against + ", below " +
           json::general(min_int8_speedup);
  }
  return std::nullopt;
}

using Refused = std::map<std::string, std::string>;

struct Candidate {
  const Variant* variant = nullptr;
  std::string refusal;
  const Engine* engine = nullptr;
};

/// An engine of the variant that runs on this host, one that was verified on such a device first; or why not.
Candidate engine_for(const Manifest& manifest, const Variant& variant, const EngineHost& host, const Refused& refused) {
  std::vector<const Engine*> held, fitting;
  for (const auto& engine : manifest.engines) {
    if (engine.variant == variant.id) held.push_back(&engine);
  }
  if (held.empty()) return {nullptr, "no engine in the bundle: " + build_command(variant.precision) + " builds one here"};
  const auto rank = [&](const Engine* engine) { return is_verified(*engine, host) ? 0 : engine->verified_on ? 1 : 2; };
  std::stable_sort(held.begin(), held.end(), [&](auto a, auto b) { return rank(a) < rank(b); });
  std::copy_if(held.begin(), held.end(), std::back_inserter(fitting), [&](auto one) { return misfit(*one, host).empty(); });
  if (fitting.empty()) return {nullptr, misfit(*held.front(), host)};
  std::vector<std::string> reasons;
  for (const auto* engine : fitting) {
    const auto found = refused.find(engine->id);
    if (found == refused.end()) return {&variant, "", engine};
    reasons.push_back(found->second);
  }
  return {nullptr, joined(reasons, "; ")};
}

/// The variant of that precision that the backend computes at all, or why there is none.
Candidate candidate(const Manifest& manifest, const BackendFacts& facts, const std::string& precision,
                    const Refused& refused) {
  std::vector<const Variant*> held;
  for (const auto& variant : manifest.variants) {
    if (variant.precision == precision) held.push_back(&variant);
  }
  if (held.empty()) return {nullptr, "not in the bundle"};
  const auto fitting =
      std::find_if(held.begin(), held.end(), [&](const Variant* variant) { return !misfit(*variant, facts); });
  if (fitting == held.end()) return {nullptr, *misfit(*held.front(), facts)};
  if (facts.precisions.count(precision) == 0) {
    return {nullptr, "this CPU has no " + precision + " arithmetic, it would be another precision"};
  }
  return facts.engines_on ? engine_for(manifest, **fitting, *facts.engines_on, refused) : Candidate{*fitting, ""};
}

std::string why(const Variant& variant, const BackendFacts& facts, const std::string& asked) {
  if (!facts.precisions.at(variant.precision)) return "as asked for, emulated here";
  if (asked != "auto") return "as asked for";
  const Speed* speed = variant.precision == "int8" ? slowest(variant, facts) : nullptr;
  const std::string text = "the fastest that this host computes natively";
  return speed == nullptr ? text : text + ", measured " + floored(speed->ratio) + " times as fast as " + speed->against;
}

void check_request(const Manifest& manifest, const std::vector<const BackendFacts*>& usable,
                   const std::string& precision) {
  if (precision == "auto") return;
  std::vector<std::string> held;
  std::optional<std::string> first_misfit;
  bool found = false, fits = false;
  for (const auto& variant : manifest.variants) {
    held.push_back(variant.id);
    if (variant.precision != precision) continue;
    found = true;
    for (const auto* facts : usable) {
      const auto refusal = misfit(variant, *facts);
      fits = fits || !refusal;
      if (!first_misfit) first_misfit = refusal;
    }
  }
  if (!found) {
    throw Error(ErrorKind::unavailable, "the bundle has no " + precision + " variant: it has " + joined(held));
  }
  if (!fits) {
    throw Error(ErrorKind::unavailable,
                *first_misfit + ": export the model with a variant for that too, or take another precision");
  }
}

}  // namespace

Choice choose(const Manifest& manifest, const std::vector<BackendFacts>& host, const Options& options,
              const Refused& refused) {
  const std::string& asked = options.precision;
  if (asked != "auto" && std::find(precisions.begin(), precisions.end(), asked) == precisions.end()) {
    throw Error(ErrorKind::input, "there is no precision '" + asked + "': take auto, fp32, bf16, fp16, int8");
  }
  std::vector<std::string> names, missing;
  std::vector<const BackendFacts*> usable;
  for (const auto& facts : host) {
    names.push_back(facts.name);
    if (options.backend != "auto" && options.backend != facts.name) continue;
    if (facts.missing) {
      missing.push_back(*facts.missing);
    } else {
      usable.push_back(&facts);
    }
  }
  if (options.backend != "auto" && std::find(names.begin(), names.end(), options.backend) == names.end()) {
    throw Error(ErrorKind::input,
                "there is no backend '" + options.backend + "' to choose: take auto" + (names.empty() ? "" : ", ") +
                    joined(names));
  }
  if (usable.empty()) {
    if (missing.size() == 1) throw Error(ErrorKind::unavailable, missing.front());
    throw Error(ErrorKind::unavailable, "no backend was compiled in that runs here: build the library with one", missing);
  }
  check_request(manifest, usable, asked);
  std::vector<std::string> reasons = missing;
  bool passed_over = false;
  for (const auto& [name, precision] : preference) {
    const auto facts = std::find_if(usable.begin(), usable.end(), [name = name](const BackendFacts* one) {
      return one->name == name;
    });
    if (facts == usable.end() || (asked != "auto" && asked != precision)) continue;
    Candidate found = candidate(manifest, **facts, precision, refused);
    passed_over = passed_over || found.variant != nullptr;
    std::optional<std::string> refusal;
    if (found.variant == nullptr) {
      refusal = found.refusal;
    } else if (asked == "auto") {
      refusal = slow(*found.variant, **facts);
    }
    const std::string where = std::string(precision) + " on " + name + ": ";
    if (refusal) {
      reasons.push_back(where + *refusal);
      continue;
    }
    reasons.push_back(where + why(*found.variant, **facts, asked));
    Choice choice{name, found.variant->id, precision, reasons, std::nullopt};
    if (found.engine != nullptr) choice.engine = found.engine->id;
    return choice;
  }
  std::vector<std::string> tried;
  for (const auto* facts : usable) tried.push_back(facts->name);
  for (const auto& variant : manifest.variants) {
    for (const auto* facts : usable) {
      if ((asked != "auto" && asked != variant.precision) || is_preferred(facts->name, variant.precision)) continue;
      reasons.push_back(variant.precision + " on " + facts->name + ": the backend " + facts->name + " does not run " +
                        variant.precision + " variants");
    }
  }
  if (asked == "auto" && passed_over) {
    throw Error(ErrorKind::unavailable, "auto passed over all that the bundle has for " + joined(tried) +
                                            " on this host: name the precision to take", reasons);
  }
  throw Error(ErrorKind::unavailable, "nothing in the bundle can be computed by " + joined(tried) + " on this host", reasons);
}

std::string instructions_from_cpuinfo(const std::string& text) {
  std::istringstream lines(text);
  std::set<std::string> shared;
  bool any = false;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    std::string key = line.substr(0, colon);
    key.erase(key.find_last_not_of(" \t") + 1);
    if (key != "flags" && key != "Features") continue;
    std::istringstream words(line.substr(colon + 1));
    const std::set<std::string> flags{std::istream_iterator<std::string>(words), {}};
    std::set<std::string> both;
    std::set_intersection(shared.begin(), shared.end(), flags.begin(), flags.end(), std::inserter(both, both.end()));
    shared = any ? both : flags;
    any = true;
  }
  if (!any) return "unknown";
  for (const auto& [flag, name] : dot_products) {
    if (shared.count(flag) != 0) return name;
  }
  return "none";
}

std::string host_instructions() {
  std::ifstream file("/proc/cpuinfo");
  if (!file) return "unknown";
  return instructions_from_cpuinfo({std::istreambuf_iterator<char>(file), {}});
}

}  // namespace resnet
