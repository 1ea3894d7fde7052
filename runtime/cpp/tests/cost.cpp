// What the library adds to OpenVINO's own API: cost BUNDLE PRECISION ROUNDS CALLS THREADS. In turns, batches of one image; then
// the allocations of one call each.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <new>
#include <openvino/openvino.hpp>

#include "../src/host.hpp"
#include "resnet_runtime/session.hpp"

namespace {
std::atomic<long> allocations{0};
}

void* operator new(std::size_t size) {
  ++allocations;
  void* made = std::malloc(size);
  if (made == nullptr) throw std::bad_alloc();
  return made;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using Clock = std::chrono::steady_clock;

template <typename Call>
double seconds(int calls, Call call) {
  const auto begin = Clock::now();
  for (int index = 0; index < calls; ++index) call();
  return std::chrono::duration<double>(Clock::now() - begin).count() / calls;
}

/// The largest one, relative to the range of the second; not a number where either holds none.
double difference(const std::vector<float>& one, const std::vector<float>& other) {
  double largest = 0;
  for (std::size_t index = 0; index < one.size(); ++index) {
    const double here = std::abs(static_cast<double>(one[index]) - other[index]);
    if (!(here <= largest)) largest = here;
  }
  const auto [low, high] = std::minmax_element(other.begin(), other.end());
  return largest / (static_cast<double>(*high) - *low);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 6) return 2;
  const std::string precision = arguments[2];
  const int rounds = std::atoi(arguments[3]), calls = std::atoi(arguments[4]);
  resnet::Options options;
  options.backend = "openvino";
  options.precision = precision;
  options.threads = std::atoi(arguments[5]);
  const auto session = resnet::Session::load(arguments[1], options);
  const auto& signature = session.signature();
  std::vector<float> image(signature.input.elements(), 0.5F), answer(signature.outputs[0].elements()), own(answer.size());
  std::vector<std::int64_t> shape{1};
  shape.insert(shape.end(), signature.input.shape.begin(), signature.input.shape.end());
  const resnet::TensorView view(image.data(), shape);
  float* const outputs[] = {answer.data()};
  session.infer_into(view, outputs, 1);

  ov::Core core;
  const auto* variant = session.bundle().manifest().variant(session.choice().variant);
  auto model = core.read_model(session.bundle().read(variant->file), ov::Tensor());
  model->reshape(ov::PartialShape(ov::Shape(shape.begin(), shape.end())));
  const std::string hint = precision == "bf16" ? "bf16" : precision == "fp16" ? "f16" : "f32";
  ov::AnyMap config{{"INFERENCE_PRECISION_HINT", hint}, {"PERFORMANCE_HINT", "LATENCY"}};
  if (options.threads > 0) {
    config["INFERENCE_NUM_THREADS"] = options.threads;
  } else if (const auto quota = resnet::quota_in_cores()) {
    config["INFERENCE_NUM_THREADS"] = *quota;
  }
  auto compiled = core.compile_model(model, "CPU", config);
  ov::InferRequest request = compiled.create_infer_request();
  const ov::Output<const ov::Node> port = compiled.output(signature.outputs[0].name);
  request.set_input_tensor(ov::Tensor(ov::element::f32, ov::Shape(shape.begin(), shape.end()), image.data()));
  const auto by_hand = [&] {
    request.infer();
    std::memcpy(own.data(), request.get_tensor(port).data<float>(), own.size() * 4);
  };
  const auto by_library = [&] { session.infer_into(view, outputs, 1); };
  by_hand();
  std::vector<double> ratios;
  for (int round = 0; round < rounds; ++round) {
    const bool first = round % 2 == 0;
    const double one = first ? seconds(calls, by_library) : seconds(calls, by_hand);
    const double other = first ? seconds(calls, by_hand) : seconds(calls, by_library);
    ratios.push_back(first ? one / other : other / one);
  }
  const auto counted = [&](const auto& call) {
    const long before = allocations;
    for (int index = 0; index < 100; ++index) call();
    return static_cast<double>(allocations - before) / 100.0;
  };
  std::cout << "ratio\t" << median(ratios) << "\tallocations\t" << counted(by_library) << '\t' << counted(by_hand)
            << "\tequal\t" << (answer == own) << "\tdifference\t" << difference(answer, own) << '\n';
}
