// One variant of a bundle, loaded into one backend.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "resnet_runtime/backend.hpp"
#include "resnet_runtime/bundle.hpp"
#include "resnet_runtime/error.hpp"
#include "resnet_runtime/tensor.hpp"

namespace resnet {

/// How a bundle is loaded.
struct Options {
  std::string backend = "auto";     ///< auto, openvino or tensorrt
  std::string precision = "auto";   ///< auto, fp32, bf16, fp16 or int8
  std::string intent = "latency";   ///< latency: a call at a time; throughput: several threads call at once
  int threads = 0;                  ///< of a backend on the CPU; 0: as its library decides
  bool keeps_compiled = true;       ///< whether what a library compiles is kept in the user's cache folder
};

/// Which backend and variant were taken, and why.
struct Choice {
  std::string backend, variant, precision;
  std::vector<std::string> reasons;
  std::optional<std::string> engine;  ///< the id of the engine that was taken, of a backend that runs engines
};

/// Answers batches. Safe to call from several threads; where processes are forked, before the first one is loaded.
class Session {
 public:
  /// Throws Error: bundle and manifest where the directory is not an intact bundle, input where there is no such
  /// backend, precision or intent, unavailable where this host lacks what was asked for, backend where it failed, check
  /// where an engine that was never verified on such a device answers wrongly and nothing else can be taken.
  static Session load(const std::string& path, const Options& options = {});

  /// With a backend of the caller's, which has the bundle's signature.
  Session(Bundle bundle, std::unique_ptr<Backend> backend, Choice choice);

  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  /// The outputs by name. A batch over the largest size is split, and a small one is padded; neither shows.
  /// Throws Error: input where the batch has another shape or type, backend where the backend failed.
  Outputs infer(const TensorView& batch) const;

  /// As `infer`, into memory of the caller's: one pointer for each output of the signature, in its order, each with
  /// room for N times its `elements()` floats. For a batch up to the largest nothing is allocated beyond what the backend does.
  void infer_into(const TensorView& batch, float* const* outputs, std::size_t count) const;

  /// Answers into new arrays, of images made ready by the bundle's preprocessing. Throws Error (image, input) too.
  Outputs infer_images(const std::vector<std::string>& paths) const;

  /// How far the answers to the bundle's own inputs are from those of the model that was trained, held to the gate of
  /// the variant. Throws Error: check where they are outside its limits, bundle, backend, input where the session's
  /// choice names no variant.
  Parity check() const;

  const Bundle& bundle() const noexcept;
  const Signature& signature() const noexcept;
  const Choice& choice() const noexcept;
  const std::optional<std::vector<std::string>>& labels() const noexcept;

  /// The backend's library, its version and its precision.
  const std::string& description() const;

  /// How many calls have to be under way at once for the backend to be at its fastest.
  std::int64_t calls_at_once() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// What a backend of this bundle takes and gives.
Signature signature_from_manifest(const Manifest& manifest);

/// Version of this library, as its package has it.
const char* version() noexcept;

}  // namespace resnet
