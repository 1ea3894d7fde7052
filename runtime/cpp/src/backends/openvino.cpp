// OpenVINO on the CPU: static shapes, and the precision always explicit and always looked at.

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <functional>
#include <future>
#include <istream>
#include <list>
#include <map>
#include <mutex>
#include <openvino/openvino.hpp>
#include <openvino/opsets/opset8.hpp>
#include <set>
#include <sstream>
#include <streambuf>

#include "../host.hpp"
#include "backends.hpp"

namespace resnet::openvino {

namespace {

const char* hint_of(const std::string& precision) {
  if (precision == "bf16") return "bf16";
  return precision == "fp16" ? "f16" : "f32";  // what an int8 graph leaves is FP32, and never BF16
}

constexpr std::size_t max_compiled = 4;

/// The last line of what OpenVINO says, which is the one that names the trouble.
std::string reason(const std::exception& error) {
  std::istringstream lines(error.what());
  std::string last = "it does not say why";
  for (std::string line; std::getline(lines, line);) {
    const auto begin = line.find_first_not_of(" \t\r");
    if (begin != std::string::npos) last = line.substr(begin, line.find_last_not_of(" \t\r") - begin + 1);
  }
  return last;
}

ov::AnyMap config_of(const std::string& precision, const Options& options) {
  ov::AnyMap config{{"INFERENCE_PRECISION_HINT", hint_of(precision)},
                    {"PERFORMANCE_HINT", options.intent == "throughput" ? "THROUGHPUT" : "LATENCY"}};
  if (options.threads > 0) {
    config["INFERENCE_NUM_THREADS"] = options.threads;
  } else if (const auto limit = quota_in_cores()) {
    config["INFERENCE_NUM_THREADS"] = *limit;
  }
  return config;
}

/// Whether the CPU has instructions for it.
bool is_native(ov::Core& core, std::string precision) {
  std::transform(precision.begin(), precision.end(), precision.begin(), [](unsigned char c) { return std::toupper(c); });
  const auto listed = core.get_property("CPU", ov::device::capabilities);
  return std::find(listed.begin(), listed.end(), precision) != listed.end();
}

/// Whether OpenVINO, asked for `precision`, rounds to it: 100 * 300 * 8 is over FP16's range, and BF16 keeps 8 bits.
/// The second convolution brings the value back into every range, so that only the value between the two tells.
bool rounds_to(ov::Core& core, const std::string& precision) {
  namespace ops = ov::opset8;
  const auto data = std::make_shared<ops::Parameter>(ov::element::f32, ov::Shape{1, 8, 4, 4});
  const std::vector<float> up(64, 300.0F);
  std::vector<float> down(64, 0.0F);
  for (std::size_t index = 0; index < 8; ++index) down[index * 9] = 1.0F / 301.0F;
  const ov::Shape weights{8, 8, 1, 1};
  const auto convolution = [](const ov::Output<ov::Node>& from, const ov::Output<ov::Node>& by) {
    return std::make_shared<ops::Convolution>(from, by, ov::Strides{1, 1}, ov::CoordinateDiff{0, 0},
                                              ov::CoordinateDiff{0, 0}, ov::Strides{1, 1});
  };
  const auto middle = convolution(data, ops::Constant::create(ov::element::f32, weights, up));
  const auto result = convolution(middle, ops::Constant::create(ov::element::f32, weights, down));
  const auto model = std::make_shared<ov::Model>(ov::OutputVector{result}, ov::ParameterVector{data});
  ov::InferRequest request = core.compile_model(model, "CPU", config_of(precision, {})).create_infer_request();
  ov::Tensor input = request.get_input_tensor();
  std::fill_n(input.data<float>(), input.get_size(), 100.0F);
  request.infer();
  const double answer = request.get_output_tensor().data<float>()[0];
  const double exact = 8.0 * 100 * 300 / 301, relative = std::abs(answer - exact) / exact;
  if (precision == "fp16") return !std::isfinite(answer);
  return precision == "bf16" ? relative > 1e-4 && relative < 0.03 : relative < 1e-5;
}

/// Bytes as a stream, where they lie.
class Bytes : public std::streambuf {
 public:
  explicit Bytes(std::string& data) { setg(data.data(), data.data(), data.data() + data.size()); }

 protected:
  pos_type seekoff(off_type offset, std::ios_base::seekdir from, std::ios_base::openmode) override {
    char* base = from == std::ios_base::beg ? eback() : from == std::ios_base::cur ? gptr() : egptr();
    if (base + offset < eback() || base + offset > egptr()) return {off_type(-1)};
    setg(eback(), base + offset, egptr());
    return {gptr() - eback()};
  }
  pos_type seekpos(pos_type position, std::ios_base::openmode mode) override {
    return seekoff(off_type(position), std::ios_base::beg, mode);
  }
};

/// Throw where a convolution of the compiled graph computes in another type than was asked for.
void refuse_other_precision(const ov::CompiledModel& compiled, const std::string& precision,
                            const std::set<std::string>& kept) {
  for (const auto& node : compiled.get_runtime_model()->get_ordered_ops()) {
    auto& about = node->get_rt_info();
    const auto layer = about.find("layerType");
    if (layer == about.end() || layer->second.as<std::string>() != "Convolution") continue;
    const auto type = about.at("runtimePrecision").as<std::string>();
    if (precision == "int8" ? type == "i8" || type == "u8" : type == hint_of(precision)) continue;
    bool on_purpose = precision == "fp16" && type == "f32";
    std::istringstream originals(about.at("originalLayersNames").as<std::string>());
    for (std::string name; precision == "int8" && type == "f32" && std::getline(originals, name, ',');) {
      on_purpose = on_purpose || kept.count(name) != 0;
    }
    if (on_purpose) continue;
    throw Error(ErrorKind::unavailable, "OpenVINO computes " + node->get_friendly_name() + " in " + type + " where " +
                                            precision + " was asked for: take --precision fp32");
  }
}

/// A compiled graph of one batch size, with its idle infer requests.
class Compiled {
 public:
  /// Throws Error (backend) where it takes something else than the signature says: what is fed to it has that size.
  Compiled(ov::CompiledModel model, const Signature& signature, const ov::Shape& shape) : model_(std::move(model)) {
    const auto type = signature.input.type == DataType::uint8 ? ov::element::u8 : ov::element::f32;
    const auto& inputs = model_.inputs();
    if (inputs.size() != 1 || inputs[0].get_element_type() != type || inputs[0].get_shape() != shape) {
      throw Error(ErrorKind::backend, "OpenVINO's graph does not take '" + signature.input.name +
                                          "' in the type and the shape that the manifest lists");
    }
    for (const auto& spec : signature.outputs) outputs_.push_back(model_.output(spec.name));
  }

  ov::CompiledModel& model() { return model_; }
  const ov::Output<const ov::Node>& output(std::size_t index) const { return outputs_[index]; }

  struct Request {
    ov::InferRequest request;
    ov::Tensor own;               ///< the input that it was made with
    const void* input = nullptr;  ///< what it reads now: null where that is its own
  };

  Request take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) {
      Request made{model_.create_infer_request(), {}, nullptr};
      made.own = made.request.get_input_tensor();
      return made;
    }
    Request found = std::move(idle_.back());
    idle_.pop_back();
    return found;
  }

  void give_back(Request request) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(request));
  }

 private:
  ov::CompiledModel model_;
  std::vector<ov::Output<const ov::Node>> outputs_;
  std::mutex mutex_;
  std::vector<Request> idle_;
};

class OpenVinoBackend : public Backend {
 public:
  OpenVinoBackend(const Bundle& bundle, const Variant& variant, const Options& options)
      : bundle_(bundle),
        variant_(variant),
        signature_(signature_from_manifest(bundle.manifest())),
        config_(config_of(variant.precision, options)),
        cache_("openvino-cpp"),
        cpu_(options.keeps_compiled ? cpu_digest() : std::nullopt),
        keeps_(cpu_.has_value()),
        throughput_(options.intent == "throughput"),
        description_("OpenVINO " + std::string(ov::get_openvino_version().buildNumber) + ", " + variant.precision +
                     (is_native(core_, variant.precision) ? "" : ", emulated") +
                     (throughput_ ? ", for throughput" : "")) {
    for (const auto& layer : variant.kept_higher) kept_.insert(layer.node);
    compiled_for(signature_.smallest_batch);
  }

  const std::string& description() const override { return description_; }

  std::int64_t calls_at_once() override {
    if (!throughput_) return 1;
    return compiled_for(signature_.smallest_batch)
        ->model()
        .get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        .as<std::uint32_t>();
  }

  void run(const void* batch, std::int64_t count, float* const* outputs) override {
    const std::int64_t size = size_for(count);
    const std::shared_ptr<Compiled> compiled = compiled_for(size);
    try {
      Compiled::Request taken = compiled->take();
      feed(taken, batch, count, size);
      taken.request.infer();
      for (std::size_t index = 0; index < signature_.outputs.size(); ++index) {
        const TensorSpec& spec = signature_.outputs[index];
        const ov::Tensor answer = taken.request.get_tensor(compiled->output(index));
        const std::size_t wanted = static_cast<std::size_t>(size) * spec.elements();
        if (answer.get_element_type() != ov::element::f32 || answer.get_size() != wanted) {
          throw Error(ErrorKind::backend,
                      "the backend openvino gave '" + spec.name + "' in another shape or type than the manifest lists");
        }
        std::memcpy(outputs[index], answer.data<float>(), static_cast<std::size_t>(count) * spec.elements() * 4);
      }
      compiled->give_back(std::move(taken));
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error(ErrorKind::backend, "OpenVINO failed: " + reason(error));
    }
  }

 private:
  std::int64_t size_for(std::int64_t count) const {
    std::int64_t size = signature_.smallest_batch;
    while (size < count) size *= 2;
    return std::min(size, signature_.largest_batch);
  }

  /// The caller's memory where the batch has the compiled size, else a copy that is padded with zeros.
  void feed(Compiled::Request& taken, const void* batch, std::int64_t count, std::int64_t size) const {
    if (count == size) {
      if (taken.input != batch) {
        taken.request.set_input_tensor(
            ov::Tensor(taken.own.get_element_type(), taken.own.get_shape(), const_cast<void*>(batch)));
        taken.input = batch;
      }
      return;
    }
    if (taken.input != nullptr) taken.request.set_input_tensor(taken.own);
    taken.input = nullptr;
    auto* to = static_cast<unsigned char*>(taken.own.data());
    const std::size_t given =
        static_cast<std::size_t>(count) * signature_.input.elements() * size_of(signature_.input.type);
    std::memcpy(to, batch, given);
    std::memset(to + given, 0, taken.own.get_byte_size() - given);
  }

  std::shared_ptr<Compiled> compiled_for(std::int64_t size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto entry = compiled_.begin(); entry != compiled_.end(); ++entry) {
      if (entry->first != size) continue;
      compiled_.splice(compiled_.begin(), compiled_, entry);
      return entry->second;
    }
    compiled_.emplace_front(size, compile(size));
    if (compiled_.size() > max_compiled) compiled_.pop_back();
    return compiled_.front().second;
  }

  ov::Shape shape_for(std::int64_t size) const {
    ov::Shape shape{static_cast<std::size_t>(size)};
    for (const auto axis : signature_.input.shape) shape.push_back(static_cast<std::size_t>(axis));
    return shape;
  }

  /// All that a compiled graph depends on, as a text.
  std::string about(std::int64_t size) const {
    std::ostringstream text;
    text << variant_.file.sha256 << '\n' << variant_.precision << '\n' << ov::get_openvino_version().buildNumber;
    text << '\n' << cpu_.value_or("") << '\n' << shape_for(size);
    for (const auto& [key, value] : config_) text << '\n' << key << '=' << value.as<std::string>();
    for (const auto& name : kept_) text << '\n' << name;
    return text.str();
  }

  std::shared_ptr<Compiled> compile(std::int64_t size) {
    if (keeps_) {
      if (auto found = kept_of(size)) return found;
    }
    try {
      if (!model_) model_ = core_.read_model(bundle_.read(variant_.file), ov::Tensor());
      const auto model = model_->clone();
      model->reshape(ov::PartialShape(shape_for(size)));
      auto made = std::make_shared<Compiled>(core_.compile_model(model, "CPU", config_), signature_, shape_for(size));
      refuse_other_precision(made->model(), variant_.precision, kept_);
      if (keeps_) {
        std::ostringstream data;
        made->model().export_model(data);
        cache_.store(about(size), data.str());
      }
      return made;
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error(ErrorKind::backend, "OpenVINO cannot compile the " + variant_.precision + " graph for batches of " +
                                          std::to_string(size) + ": " + reason(error));
    }
  }

  /// What an earlier process compiled, of a file that is still the one that was listed.
  std::shared_ptr<Compiled> kept_of(std::int64_t size) {
    if (!cache_.holds(about(size))) return nullptr;
    auto verified = std::async(verified_ ? std::launch::deferred : std::launch::async,
                               [this] { if (!verified_) bundle_.verify(variant_.file); });
    auto data = cache_.load(about(size));
    verified.get();
    verified_ = true;
    if (!data) return nullptr;
    try {
      Bytes bytes(*data);
      std::istream stream(&bytes);
      return std::make_shared<Compiled>(core_.import_model(stream, "CPU", config_), signature_, shape_for(size));
    } catch (const Error&) {
      throw;
    } catch (const std::exception&) {  // it is what was written, and still not what this build takes
      return nullptr;
    }
  }

  Bundle bundle_;
  Variant variant_;
  Signature signature_;
  ov::AnyMap config_;
  CompiledCache cache_;
  std::optional<std::string> cpu_;
  bool keeps_, throughput_, verified_ = false;
  ov::Core core_;
  std::string description_;
  std::set<std::string> kept_;
  std::shared_ptr<ov::Model> model_;
  std::mutex mutex_;
  std::list<std::pair<std::int64_t, std::shared_ptr<Compiled>>> compiled_;  // the last one used first
};

/// Whether this process was forked after OpenVINO began in its parent: what is loaded here may wait for ever for a lock
/// that a thread of the parent's held when it was copied. Those threads are the process's, and so is what is known of them.
bool is_left_behind() {
  static const pid_t began = getpid();
  return began != getpid();
}

}  // namespace

BackendFacts facts(const std::set<std::string>& wanted) {
  BackendFacts found;
  found.name = "openvino";
  found.instructions = host_instructions();
  if (is_left_behind()) {
    found.missing =
        "OpenVINO's threads are in the process that this one was forked from: fork before the first bundle is loaded, or "
        "spawn the process";
    return found;
  }
  try {
    ov::Core core;
    for (const char* precision : {"fp32", "bf16", "fp16"}) {
      if (wanted.count(precision) != 0 && rounds_to(core, precision)) found.precisions[precision] = is_native(core, precision);
    }
    if (wanted.count("int8") != 0 && is_native(core, "int8")) found.precisions["int8"] = true;
  } catch (const std::exception& error) {
    found.missing = "openvino finds no usable CPU device here: " + reason(error);
  }
  return found;
}

std::unique_ptr<Backend> open(const Bundle& bundle, const Variant& variant, const Options& options) {
  return std::make_unique<OpenVinoBackend>(bundle, variant, options);
}

}  // namespace resnet::openvino
