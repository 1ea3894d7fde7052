// What the tests ask of the library where the backend is a simulated one, whose answers are rows of a file: how checks
// and first uses go, without a GPU. Fields are separated by tabs, as the probe's are.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <mutex>

#include "../src/loading.hpp"
#include "resnet_runtime/session.hpp"

namespace {

using Words = std::vector<std::string>;

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Answers the first call with the first rows, the next one with the next: (N, ...) float32 of each output in turn.
class Rows : public resnet::Backend {
 public:
  Rows(const resnet::Bundle& bundle, const std::string& data, float more = 0)
      : signature_(resnet::signature_from_manifest(bundle.manifest())), values_(data.size() / 4), more_(more) {
    std::memcpy(values_.data(), data.data(), values_.size() * 4);
    for (const auto& spec : signature_.outputs) width_ += spec.elements();
  }

  const std::string& description() const override { return description_; }
  std::int64_t calls_at_once() override { return 1; }

  void run(const void*, std::int64_t count, float* const* outputs) override {
    const std::size_t samples = values_.size() / width_;
    std::size_t begin = 0;
    for (std::size_t index = 0; index < signature_.outputs.size(); ++index) {
      const std::size_t elements = signature_.outputs[index].elements();
      for (std::size_t row = 0; row < static_cast<std::size_t>(count); ++row) {
        const float* from = values_.data() + begin + (next_ + row) % samples * elements;
        float* to = outputs[index] + row * elements;
        std::copy_n(from, elements, to);
        if (index == 0) to[1] += more_;
      }
      begin += samples * elements;
    }
    next_ += static_cast<std::size_t>(count);
  }

 private:
  resnet::Signature signature_;
  std::vector<float> values_;
  float more_;
  std::size_t width_ = 0, next_ = 0;
  std::string description_ = "simulated";
};

/// check BUNDLE VARIANT ROWS: the figures, or the error.
void check(const Words& words) {
  const auto bundle = resnet::Bundle::open(words.at(0));
  const resnet::Session session(bundle, std::make_unique<Rows>(bundle, read_file(words.at(2))),
                                {"simulated", words.at(1), "fp32", {}, {}});
  const resnet::Parity found = session.check();
  std::printf("ok\t%lld\t%lld\t%.17g\t%.17g\t%.17g\t%.17g\t%.17g\t%.17g\n", static_cast<long long>(found.samples),
              static_cast<long long>(found.undecided), found.max_error, found.mean_error, found.centred_cosine,
              found.snr_db, found.top1_agreement, found.top5_agreement);
}

/// engines BUNDLE BACKEND PRECISION VERSION GPU CAPABILITY ROWS: what is chosen where that GPU and OpenVINO are here,
/// and which engines were opened; an engine's file ends in "right", "wrong" or "damaged".
void engines(const Words& words) {
  const auto bundle = resnet::Bundle::open(words.at(0));
  resnet::Options options;
  options.backend = words.at(1);
  options.precision = words.at(2);
  resnet::BackendFacts gpu, cpu;
  gpu.name = gpu.scheme = "tensorrt";
  for (const char* precision : {"fp32", "fp16", "int8"}) gpu.precisions[precision] = true;
  gpu.engines_on = {"tensorrt", words.at(3), resnet::own_platform(), words.at(4), words.at(5)};
  cpu.name = "openvino";
  cpu.precisions["fp32"] = true;
  const std::string rows = read_file(words.at(6));
  Words opened;
  const auto open = [&](const resnet::Bundle& from, const resnet::Choice& choice, const resnet::Options&) {
    float more = 0;
    if (choice.engine) {
      opened.push_back(*choice.engine);
      const std::string data = from.read(from.manifest().engine(*choice.engine)->file);
      if (data.find("damaged") != std::string::npos) {
        throw resnet::Error(resnet::ErrorKind::backend, "the engine is damaged");
      }
      if (data.find("wrong") != std::string::npos) more = 0.25F;
    }
    return std::make_unique<Rows>(from, rows, more);
  };
  const auto session = resnet::session_from_bundle(bundle, {gpu, cpu}, options, open);
  const resnet::Choice& choice = session.choice();
  std::cout << "ok\t" << choice.backend << '\t' << choice.variant << '\t' << choice.engine.value_or("none") << '\t';
  for (const auto& name : opened) std::cout << name << ' ';
  for (const auto& reason : choice.reasons) std::cout << '\t' << reason;
  std::cout << '\n';
}

}  // namespace

int main(int count, char** arguments) {
  const Words words(arguments + std::min(count, 2), arguments + count);
  const std::string command = count > 1 ? arguments[1] : "";
  try {
    if (command == "check") {
      check(words);
    } else if (command == "engines") {
      engines(words);
    } else {
      std::cerr << "there is no command '" << command << "'\n";
      return 2;
    }
  } catch (const resnet::Error& error) {
    std::cout << resnet::name_of(error.kind()) << '\t' << error.what();
    for (const auto& detail : error.details()) std::cout << '\t' << detail;
    std::cout << '\n';
  }
  return 0;
}
