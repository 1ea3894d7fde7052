// TensorRT on an NVIDIA GPU: the calls that TensorRT 10 and 11 share.
//
// A slot is everything that one call needs to itself: an execution context, a stream, device buffers and pinned staging
// for the largest batch, allocated once. Copy-in, computation and copy-out are captured as one CUDA graph for each batch
// size, since a slot's addresses never change. Calls of several threads take several slots, whose streams overlap.

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "backends.hpp"

namespace resnet::tensorrt {

namespace {

constexpr std::size_t max_slots = 4;
constexpr std::size_t max_graphs = 8;

void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // so that the next call is not blamed
  throw Error(ErrorKind::backend, std::string("CUDA failed to ") + what + ": " + cudaGetErrorString(code));
}

/// What TensorRT says when it fails; it returns null otherwise.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      last_ = message;
    } catch (...) {  // without memory there is no message
    }
  }
  std::string last() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return last_.empty() ? "it does not say why" : last_;
  }

 private:
  std::mutex mutex_;
  std::string last_;
};

constexpr int ordinal = 0;  // of the device that is used: the first one that is visible

/// The thread's current device is this one, until it is what it was.
class OnDevice {
 public:
  OnDevice() {
    check(cudaGetDevice(&before_), "ask for the current GPU");
    if (before_ != ordinal) check(cudaSetDevice(ordinal), "take the GPU");
  }
  ~OnDevice() {
    if (before_ != ordinal) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = ordinal;
};

/// Of so many samples; what does not fit into memory at all is refused before it is asked for.
std::size_t bytes_of(std::int64_t samples, const TensorSpec& spec) {
  double wanted = static_cast<double>(samples) * static_cast<double>(size_of(spec.type));
  for (const auto axis : spec.shape) wanted *= static_cast<double>(axis);
  if (wanted > 1e12) throw Error(ErrorKind::backend, "the tensor '" + spec.name + "' is too large for a GPU");
  return static_cast<std::size_t>(samples) * spec.elements() * size_of(spec.type);
}

struct Stream {
  cudaStream_t handle = nullptr;
  Stream() { check(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "make a stream"); }
  ~Stream() { cudaStreamDestroy(handle); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
};

/// Memory on the device, and as much in pinned pages of the host.
struct Buffers {
  void* device = nullptr;
  void* host = nullptr;
  explicit Buffers(std::size_t size) {
    check(cudaMalloc(&device, size), "allocate memory on the GPU");
    const cudaError_t code = cudaHostAlloc(&host, size, cudaHostAllocDefault);
    if (code != cudaSuccess) cudaFree(device);
    check(code, "allocate pinned memory");
  }
  ~Buffers() {
    cudaFreeHost(host);
    cudaFree(device);
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
};

struct Graph {
  cudaGraphExec_t handle = nullptr;
  Graph() = default;
  Graph(Graph&& other) noexcept : handle(std::exchange(other.handle, nullptr)) {}
  Graph& operator=(Graph&&) = delete;
  ~Graph() {
    if (handle != nullptr) cudaGraphExecDestroy(handle);
  }
};

/// As Python's module has it.
std::string version_text() {
  return std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
         std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
}

EngineHost engine_host() {
  cudaDeviceProp about{};
  check(cudaGetDeviceProperties(&about, ordinal), "ask for the GPU");
  const std::string capability = std::to_string(about.major) + "." + std::to_string(about.minor);
  return {"tensorrt", version_text(), own_platform(), about.name, capability};
}

class TensorRtBackend : public Backend {
 public:
  TensorRtBackend(const std::string& data, const Bundle& bundle, const Engine& record)
      : signature_(signature_from_manifest(bundle.manifest())),
        description_("TensorRT " + version_text() + ", " + bundle.manifest().variant(record.variant)->precision) {
    const OnDevice on_device;
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    if (!runtime_) throw Error(ErrorKind::backend, "TensorRT does not start: " + log_.last());
    // An engine that newer versions run brings the lean runtime of the one that built it, which is code for the host.
    if (runs_on_newer(record)) runtime_->setEngineHostCodeAllowed(true);
    engine_.reset(runtime_->deserializeCudaEngine(data.data(), data.size()));
    if (!engine_) throw Error(ErrorKind::backend, "TensorRT does not load the engine: " + log_.last());
    check_signature();
    for (int profile = 0; profile < engine_->getNbOptimizationProfiles(); ++profile) {
      const auto shape = engine_->getProfileShape(signature_.input.name.c_str(), profile, nvinfer1::OptProfileSelector::kMAX);
      largest_ = std::max<std::int64_t>(largest_, shape.d[0]);
    }
    idle_.push_back(std::make_unique<Slot>(*this));
    made_ = 1;
  }

  const std::string& description() const override { return description_; }
  std::int64_t calls_at_once() override { return 2; }  // copies of one overlap with the computation of the other

  ~TensorRtBackend() override {
    int before = ordinal;
    cudaGetDevice(&before);
    cudaSetDevice(ordinal);
    idle_.clear();
    engine_.reset();
    runtime_.reset();
    cudaSetDevice(before);
  }

  void run(const void* batch, std::int64_t count, float* const* outputs) override {
    const OnDevice on_device;
    std::unique_ptr<Slot> slot = take();
    try {
      run_in_parts(*slot, batch, count, outputs);
    } catch (...) {
      give_back(nullptr);  // what failed is not used again
      throw;
    }
    give_back(std::move(slot));
  }

 private:
  class Slot {
   public:
    explicit Slot(TensorRtBackend& owner) : owner_(owner), context_(owner.engine_->createExecutionContext()) {
      if (!context_) throw Error(ErrorKind::backend, "TensorRT makes no execution context: " + owner.log_.last());
      const Signature& signature = owner.signature_;
      const auto add = [&](const TensorSpec& spec) {
        buffers_.push_back(std::make_unique<Buffers>(bytes_of(owner.largest_, spec)));
        if (!context_->setTensorAddress(spec.name.c_str(), buffers_.back()->device)) fail();
      };
      add(signature.input);
      for (const auto& spec : signature.outputs) add(spec);
    }

    void run(const void* batch, std::int64_t count, float* const* outputs) {
      const Signature& signature = owner_.signature_;
      const std::int64_t size = prepare(count);
      const std::size_t sample = signature.input.elements() * size_of(signature.input.type);
      auto* staging = static_cast<unsigned char*>(buffers_[0]->host);
      std::memcpy(staging, batch, static_cast<std::size_t>(count) * sample);
      std::memset(staging + static_cast<std::size_t>(count) * sample, 0, static_cast<std::size_t>(size - count) * sample);
      launch(size);
      check(cudaStreamSynchronize(stream_.handle), "compute");
      for (std::size_t index = 0; index < signature.outputs.size(); ++index) {
        const std::size_t bytes = static_cast<std::size_t>(count) * signature.outputs[index].elements() * 4;
        std::memcpy(outputs[index], buffers_[index + 1]->host, bytes);
      }
    }

   private:
    [[noreturn]] void fail() { throw Error(ErrorKind::backend, "TensorRT failed: " + owner_.log_.last()); }

    /// The profile and the shape for the batch; the size that is computed, which may be the profile's smallest.
    std::int64_t prepare(std::int64_t count) {
      const std::string& name = owner_.signature_.input.name;
      auto& engine = *owner_.engine_;
      using Kind = nvinfer1::OptProfileSelector;
      for (int profile = 0; profile < engine.getNbOptimizationProfiles(); ++profile) {
        auto shape = engine.getProfileShape(name.c_str(), profile, Kind::kMIN);
        const std::int64_t smallest = shape.d[0];
        if (count > engine.getProfileShape(name.c_str(), profile, Kind::kMAX).d[0]) continue;
        const std::int64_t size = std::max(count, smallest);
        settled_ = size == size_;
        if (settled_) return size;
        if (profile != context_->getOptimizationProfile() &&
            !context_->setOptimizationProfileAsync(profile, stream_.handle)) {
          fail();
        }
        shape.d[0] = size;
        if (!context_->setInputShape(name.c_str(), shape)) fail();
        size_ = size;
        return size;
      }
      throw Error(ErrorKind::backend, "no profile of the engine takes a batch of " + std::to_string(count));
    }

    void enqueue(std::int64_t size) {
      const Signature& signature = owner_.signature_;
      const auto copy = [&](std::size_t index, const TensorSpec& spec, cudaMemcpyKind kind) {
        const std::size_t bytes = static_cast<std::size_t>(size) * spec.elements() * size_of(spec.type);
        Buffers& both = *buffers_[index];
        const bool in = kind == cudaMemcpyHostToDevice;
        check(cudaMemcpyAsync(in ? both.device : both.host, in ? both.host : both.device, bytes, kind, stream_.handle),
              "copy");
      };
      copy(0, signature.input, cudaMemcpyHostToDevice);
      if (!context_->enqueueV3(stream_.handle)) fail();
      for (std::size_t index = 0; index < signature.outputs.size(); ++index) {
        copy(index + 1, signature.outputs[index], cudaMemcpyDeviceToHost);
      }
    }

    /// After a change of shape a call runs as it is, since TensorRT may allocate in it; the next one is captured.
    void launch(std::int64_t size) {
      const auto known = graphs_.find(size);
      if (known != graphs_.end()) {
        check(cudaGraphLaunch(known->second.handle, stream_.handle), "launch a graph");
        return;
      }
      if (!settled_ || !can_capture_ || graphs_.size() >= max_graphs) {
        enqueue(size);
        return;
      }
      Graph graph = captured(size);
      if (graph.handle == nullptr) {  // an engine that cannot be captured runs without
        can_capture_ = false;
        enqueue(size);
        return;
      }
      const auto kept = graphs_.emplace(size, std::move(graph)).first;
      check(cudaGraphLaunch(kept->second.handle, stream_.handle), "launch a graph");
    }

    /// Copies and computation as one graph; without a handle where that cannot be.
    Graph captured(std::int64_t size) {
      Graph made;
      cudaGraph_t steps = nullptr;
      check(cudaStreamBeginCapture(stream_.handle, cudaStreamCaptureModeThreadLocal), "capture");
      bool queued = true;
      try {
        enqueue(size);
      } catch (const Error&) {
        queued = false;
      }
      const cudaError_t ended = cudaStreamEndCapture(stream_.handle, &steps);
      if (queued && ended == cudaSuccess && cudaGraphInstantiate(&made.handle, steps, 0) != cudaSuccess) {
        made.handle = nullptr;
      }
      if (steps != nullptr) cudaGraphDestroy(steps);
      cudaGetLastError();
      return made;
    }

    TensorRtBackend& owner_;
    Stream stream_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::vector<std::unique_ptr<Buffers>> buffers_;
    std::map<std::int64_t, Graph> graphs_;
    std::int64_t size_ = 0;
    bool settled_ = false;  // whether the last call had the same shape
    bool can_capture_ = true;
  };

  /// An engine may take less at once than the manifest's largest batch.
  void run_in_parts(Slot& slot, const void* batch, std::int64_t count, float* const* outputs) const {
    const std::size_t sample = signature_.input.elements() * size_of(signature_.input.type);
    std::vector<float*> to(outputs, outputs + signature_.outputs.size());
    for (std::int64_t first = 0; first < count; first += largest_) {
      const std::int64_t part = std::min(largest_, count - first);
      slot.run(static_cast<const unsigned char*>(batch) + static_cast<std::size_t>(first) * sample, part, to.data());
      for (std::size_t index = 0; index < to.size(); ++index) {
        to[index] += static_cast<std::size_t>(part) * signature_.outputs[index].elements();
      }
    }
  }

  void check_signature() {
    const auto refuse = [](const std::string& name) {
      throw Error(ErrorKind::backend, "the engine has another tensor '" + name + "' than the manifest lists");
    };
    const auto same = [&](const TensorSpec& spec, nvinfer1::TensorIOMode mode) {
      const char* name = spec.name.c_str();
      if (engine_->getTensorIOMode(name) != mode) refuse(spec.name);
      const auto type = engine_->getTensorDataType(name);
      const auto wanted = spec.type == DataType::float32 ? nvinfer1::DataType::kFLOAT : nvinfer1::DataType::kUINT8;
      const auto shape = engine_->getTensorShape(name);
      if (type != wanted || shape.nbDims != static_cast<int>(spec.shape.size()) + 1) refuse(spec.name);
      for (std::size_t axis = 0; axis < spec.shape.size(); ++axis) {
        if (shape.d[axis + 1] != spec.shape[axis]) refuse(spec.name);
      }
    };
    same(signature_.input, nvinfer1::TensorIOMode::kINPUT);
    for (const auto& spec : signature_.outputs) same(spec, nvinfer1::TensorIOMode::kOUTPUT);
  }

  std::unique_ptr<Slot> take() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      freed_.wait(lock, [this] { return !idle_.empty() || made_ < most_; });
      if (!idle_.empty()) {
        auto slot = std::move(idle_.back());
        idle_.pop_back();
        return slot;
      }
      ++made_;
      lock.unlock();
      try {
        return std::make_unique<Slot>(*this);
      } catch (const Error&) {
        lock.lock();
        if (--made_ == 0) throw;  // there is not even memory for one
        most_ = made_;            // the others have to do
      }
    }
  }

  void give_back(std::unique_ptr<Slot> slot) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (slot) {
        idle_.push_back(std::move(slot));
      } else {
        --made_;
      }
    }
    freed_.notify_one();
  }

  Log log_;
  Signature signature_;
  std::string description_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::mutex mutex_;
  std::condition_variable freed_;
  std::size_t made_ = 0, most_ = max_slots;
  std::int64_t largest_ = 1;
  std::vector<std::unique_ptr<Slot>> idle_;
};

}  // namespace

BackendFacts facts(const std::set<std::string>&) {
  BackendFacts found;
  found.name = "tensorrt";
  found.scheme = "tensorrt";
  for (const char* precision : {"fp32", "fp16", "int8"}) found.precisions[precision] = true;
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess || count == 0) {
    found.missing = "tensorrt finds no GPU here";
    if (code != cudaSuccess) *found.missing += std::string(": ") + cudaGetErrorString(code);
    cudaGetLastError();
    return found;
  }
  try {
    found.engines_on = engine_host();
  } catch (const Error& error) {
    found.missing = std::string("tensorrt finds no usable GPU here: ") + error.what();
  }
  return found;
}

std::unique_ptr<Backend> open(const Bundle& bundle, const Engine& engine) {
  return std::make_unique<TensorRtBackend>(bundle.read(engine.file), bundle, engine);
}

}  // namespace resnet::tensorrt
