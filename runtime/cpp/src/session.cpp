#include "resnet_runtime/session.hpp"

#include <unistd.h>

#include <algorithm>
#include <set>
#include <vector>

#include "backends/backends.hpp"
#include "check.hpp"
#include "loading.hpp"
#include "resnet_runtime/preprocess.hpp"
#include "selection.hpp"
#include "words.hpp"

namespace resnet {

namespace {

const char* type_name(DataType type) { return type == DataType::float32 ? "float32" : "uint8"; }

std::vector<BackendFacts> host_facts(const Manifest& manifest, const Options& options) {
  std::vector<BackendFacts> found;
  std::set<std::string> wanted;
  for (const auto& variant : manifest.variants) {
    if (options.precision == "auto" || options.precision == variant.precision) wanted.insert(variant.precision);
  }
  const std::string& only = options.backend;
  std::vector<std::string> known;
#ifdef RESNET_WITH_TENSORRT
  known.emplace_back("tensorrt");
#endif
#ifdef RESNET_WITH_OPENVINO
  known.emplace_back("openvino");
#endif
  if (only != "auto" && std::find(known.begin(), known.end(), only) == known.end()) {
    known.insert(known.begin(), "auto");
    throw Error(ErrorKind::input, "there is no backend '" + only + "': take " + joined(known));
  }
#ifdef RESNET_WITH_TENSORRT
  if (only == "auto" || only == "tensorrt") found.push_back(tensorrt::facts(wanted));
#endif
#ifdef RESNET_WITH_OPENVINO
  if (only == "auto" || only == "openvino") found.push_back(openvino::facts(wanted));
#endif
  (void)wanted;
  return found;
}

/// Whatever a backend throws, as the one exception.
void run(Backend& backend, const void* batch, std::int64_t count, float* const* outputs) {
  try {
    backend.run(batch, count, outputs);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(ErrorKind::backend, backend.description() + " failed: " + error.what());
  }
}

std::unique_ptr<Backend> open_backend(const Bundle& bundle, const Choice& choice, const Options& options) {
  const Variant* variant = bundle.manifest().variant(choice.variant);
#ifdef RESNET_WITH_TENSORRT
  if (choice.backend == "tensorrt") return tensorrt::open(bundle, *bundle.manifest().engine(*choice.engine));
#endif
#ifdef RESNET_WITH_OPENVINO
  if (choice.backend == "openvino") return openvino::open(bundle, *variant, options);
#endif
  (void)variant;
  (void)options;
  throw Error(ErrorKind::unavailable, choice.backend + " was not compiled in");
}

}  // namespace

struct Session::State {
  Bundle bundle;
  Signature signature;
  std::optional<std::vector<std::string>> labels;
  std::unique_ptr<Backend> backend;
  Choice choice;
  pid_t process;

  ~State() {
    if (process != getpid()) backend.release();  // NOLINT: its threads are in the parent
  }

  Backend& open() const {
    if (process != getpid()) {
      throw Error(ErrorKind::closed,
                  "the session was loaded before this process was forked: fork first, and load the bundle in each process");
    }
    return *backend;
  }

  std::int64_t checked(const TensorView& batch) const {
    const TensorSpec& spec = signature.input;
    if (batch.shape.size() != spec.shape.size() + 1 ||
        !std::equal(spec.shape.begin(), spec.shape.end(), batch.shape.begin() + 1)) {
      std::string wanted;
      for (const auto size : spec.shape) wanted += ", " + std::to_string(size);
      throw Error(ErrorKind::input,
                  "the batch has the shape " + shape_text(batch.shape) + ", and the model takes (N" + wanted + ")");
    }
    if (batch.type != spec.type) {
      throw Error(ErrorKind::input, std::string("the batch has the dtype ") + type_name(batch.type) +
                                        ", and the model takes " + type_name(spec.type));
    }
    if (batch.shape[0] < 1 || batch.data == nullptr) {
      throw Error(ErrorKind::input, "the batch is empty: give at least one sample");
    }
    return batch.shape[0];
  }
};

Session Session::load(const std::string& path, const Options& options) {
  const Bundle bundle = Bundle::open(path);
  if (options.intent != "latency" && options.intent != "throughput") {
    throw Error(ErrorKind::input, "there is no intent '" + options.intent + "': take latency or throughput");
  }
  if (options.threads < 0) throw Error(ErrorKind::input, "threads is below 0: 0 leaves it to the library");
  try {
    return session_from_bundle(bundle, host_facts(bundle.manifest(), options), options, open_backend);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(ErrorKind::backend, std::string("the backend cannot be loaded: ") + error.what());
  }
}

Session::Session(Bundle bundle, std::unique_ptr<Backend> backend, Choice choice) {
  Signature signature = signature_from_manifest(bundle.manifest());
  auto labels = bundle.labels();
  state_.reset(new State{std::move(bundle), std::move(signature), std::move(labels), std::move(backend),
                         std::move(choice), getpid()});
}

Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

Session::~Session() = default;

Outputs Session::infer(const TensorView& batch) const {
  const std::int64_t count = state_->checked(batch);
  Outputs outputs;
  std::vector<float*> pointers;
  for (const auto& spec : state_->signature.outputs) {
    Tensor& made = outputs[spec.name];
    made.shape = {count};
    made.shape.insert(made.shape.end(), spec.shape.begin(), spec.shape.end());
    made.values.resize(static_cast<std::size_t>(count) * spec.elements());
    pointers.push_back(made.values.data());
  }
  infer_into(batch, pointers.data(), pointers.size());
  return outputs;
}

void Session::infer_into(const TensorView& batch, float* const* outputs, std::size_t count) const {
  Backend& backend = state_->open();
  const Signature& signature = state_->signature;
  const std::int64_t samples = state_->checked(batch);
  if (count != signature.outputs.size()) {
    throw Error(ErrorKind::input, "there are " + std::to_string(count) + " output pointers, and the model has " +
                                      std::to_string(signature.outputs.size()) + " outputs");
  }
  if (samples <= signature.largest_batch) {
    run(backend, batch.data, samples, outputs);
    return;
  }
  const std::size_t sample = signature.input.elements() * size_of(signature.input.type);
  std::vector<float*> rest(outputs, outputs + count);
  const auto* bytes = static_cast<const unsigned char*>(batch.data);
  for (std::int64_t first = 0; first < samples; first += signature.largest_batch) {
    const std::int64_t part = std::min(signature.largest_batch, samples - first);
    run(backend, bytes + static_cast<std::size_t>(first) * sample, part, rest.data());
    for (std::size_t index = 0; index < count; ++index) {
      rest[index] += static_cast<std::size_t>(part) * signature.outputs[index].elements();
    }
  }
}

Outputs Session::infer_images(const std::vector<std::string>& paths) const {
  const Manifest& manifest = state_->bundle.manifest();
  const ImageBatch made = batch_from_files(paths, manifest.preprocessing, manifest.input);
  return infer(made.view());
}

Parity Session::check() const {
  const Choice& choice = state_->choice;
  const Variant* variant = state_->bundle.manifest().variant(choice.variant);
  if (variant == nullptr) throw Error(ErrorKind::input, "the session's choice names no variant of the bundle");
  const Limits& limits = variant->gate.limits;
  const Parity measured = parity_of(*this, tie_of(limits));
  const std::string engine = choice.engine ? " (engine " + *choice.engine + ")" : "";
  std::vector<std::string> found;
  for (const auto& fault : faults(measured, limits)) {
    found.push_back(choice.variant + " on " + choice.backend + engine + ": " + fault);
  }
  if (found.empty()) return measured;
  throw Error(ErrorKind::check, "the bundle does not compute on this host what the model computed", found);
}

const Bundle& Session::bundle() const noexcept { return state_->bundle; }
const Signature& Session::signature() const noexcept { return state_->signature; }
const Choice& Session::choice() const noexcept { return state_->choice; }
const std::optional<std::vector<std::string>>& Session::labels() const noexcept { return state_->labels; }
const std::string& Session::description() const { return state_->open().description(); }
std::int64_t Session::calls_at_once() const { return state_->open().calls_at_once(); }

Signature signature_from_manifest(const Manifest& manifest) {
  Signature made;
  const Input& input = manifest.input;
  made.input = {input.name, input.dtype == "uint8" ? DataType::uint8 : DataType::float32, input.shape};
  for (const auto& output : manifest.outputs) made.outputs.push_back({output.name, DataType::float32, output.shape});
  made.smallest_batch = input.batch.smallest;
  made.largest_batch = input.batch.largest;
  return made;
}

const char* version() noexcept { return RESNET_RUNTIME_VERSION; }

const char* name_of(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::input: return "InputError";
    case ErrorKind::image: return "ImageError";
    case ErrorKind::bundle: return "BundleError";
    case ErrorKind::manifest: return "ManifestError";
    case ErrorKind::unavailable: return "UnavailableError";
    case ErrorKind::backend: return "BackendError";
    case ErrorKind::check: return "CheckError";
    case ErrorKind::closed: break;
  }
  return "ClosedError";
}

}  // namespace resnet
