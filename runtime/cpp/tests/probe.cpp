// What the tests ask of the library. Fields of an answer are separated by tabs; an Error is its kind, its sentence and
// its details.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <thread>

#include "resnet_runtime/preprocess.hpp"
#include "resnet_runtime/session.hpp"

namespace {

using Words = std::vector<std::string>;

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <typename Number>
void write_file(const std::string& path, const std::vector<Number>& values) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(Number)));
}

void say(const resnet::Error& error) {
  std::cout << resnet::name_of(error.kind()) << '\t' << error.what();
  for (const auto& detail : error.details()) std::cout << '\t' << detail;
  std::cout << '\n';
}

/// manifest FILE...: of each, "ok" or the error.
void manifest(const Words& files) {
  for (const auto& file : files) {
    try {
      resnet::Manifest::from_bytes(read_file(file));
      std::cout << "ok\n";
    } catch (const resnet::Error& error) {
      say(error);
    }
  }
}

/// bundle PATH...: opened, its labels and every listed file read.
void bundle(const Words& paths) {
  for (const auto& path : paths) {
    try {
      const resnet::Bundle opened = resnet::Bundle::open(path);
      opened.labels();
      for (const auto& variant : opened.manifest().variants) {
        opened.read(variant.file);
        opened.verify(variant.file);
      }
      for (const auto& engine : opened.manifest().engines) opened.read(engine.file);
      opened.verify(opened.manifest().check);
      std::cout << "ok\n";
    } catch (const resnet::Error& error) {
      say(error);
    }
  }
}

resnet::Options options_of(const std::string& backend, const std::string& precision, const std::string& threads) {
  resnet::Options options;
  options.backend = backend;
  options.precision = precision;
  options.threads = std::atoi(threads.c_str());
  if (const char* intent = std::getenv("PROBE_INTENT")) options.intent = intent;
  return options;
}

resnet::TensorView view_of(const resnet::Session& session, const std::string& data, std::int64_t count) {
  resnet::TensorView view;
  view.data = data.data();
  view.type = session.signature().input.type;
  view.shape = {count};
  const auto& shape = session.signature().input.shape;
  view.shape.insert(view.shape.end(), shape.begin(), shape.end());
  return view;
}

/// load BUNDLE BACKEND PRECISION THREADS: the choice and its reasons.
void load(const Words& words) {
  const auto session = resnet::Session::load(words.at(0), options_of(words.at(1), words.at(2), words.at(3)));
  const resnet::Choice& choice = session.choice();
  std::cout << "ok\t" << choice.backend << '\t' << choice.variant << '\t' << choice.precision << '\t'
            << session.description() << '\t' << session.calls_at_once();
  for (const auto& reason : choice.reasons) std::cout << '\t' << reason;
  std::cout << '\n';
}

/// check BUNDLE BACKEND PRECISION: how far its answers are from eager's, or what is outside the gate.
void check(const Words& words) {
  const auto session = resnet::Session::load(words.at(0), options_of(words.at(1), words.at(2), "0"));
  const resnet::Parity found = session.check();
  std::cout << "ok\t" << found.samples << '\t' << found.max_error << '\t' << found.centred_cosine << '\n';
}

/// infer BUNDLE BACKEND PRECISION THREADS INPUT COUNT OUTPUT: raw arrays; OUTPUT gets one file for each output.
void infer(const Words& words) {
  const auto session = resnet::Session::load(words.at(0), options_of(words.at(1), words.at(2), words.at(3)));
  const std::string data = read_file(words.at(4));
  const resnet::Outputs outputs = session.infer(view_of(session, data, std::atoll(words.at(5).c_str())));
  for (const auto& [name, tensor] : outputs) write_file(words.at(6) + "." + name, tensor.values);
  std::cout << "ok\t" << session.description() << '\n';
}

/// threads BUNDLE INPUT COUNT THREADS CALLS: every answer of every thread is what one thread alone is answered.
void threads(const Words& words) {
  const auto session = resnet::Session::load(words.at(0), options_of("openvino", "fp32", "0"));
  const std::string data = read_file(words.at(1));
  const std::int64_t count = std::atoll(words.at(2).c_str());
  const std::size_t sample = session.signature().input.elements() * resnet::size_of(session.signature().input.type);
  std::vector<resnet::Outputs> expected;
  for (std::int64_t index = 0; index < count; ++index) {
    expected.push_back(session.infer(view_of(session, data.substr(static_cast<std::size_t>(index) * sample), 1)));
  }
  const int workers = std::atoi(words.at(3).c_str()), calls = std::atoi(words.at(4).c_str());
  std::vector<int> wrong(static_cast<std::size_t>(workers), 0);
  std::vector<std::thread> running;
  for (int worker = 0; worker < workers; ++worker) {
    running.emplace_back([&, worker] {
      for (int call = 0; call < calls; ++call) {
        const auto index = static_cast<std::size_t>((worker + call) % count);
        const auto got = session.infer(view_of(session, data.substr(index * sample), 1));
        for (const auto& [name, tensor] : got) {
          if (tensor.values != expected[index].at(name).values) ++wrong[static_cast<std::size_t>(worker)];
        }
      }
    });
  }
  for (auto& thread : running) thread.join();
  int sum = 0;
  for (const int one : wrong) sum += one;
  std::cout << "ok\t" << sum << '\n';
}

/// preprocess BUNDLE OUTPUT FILE...: the batch.
void preprocess(const Words& words) {
  const resnet::Bundle opened = resnet::Bundle::open(words.at(0));
  const resnet::ImageBatch made = resnet::batch_from_files(
      {words.begin() + 2, words.end()}, opened.manifest().preprocessing, opened.manifest().input);
  if (made.type == resnet::DataType::float32) {
    write_file(words.at(1), made.floats);
  } else {
    write_file(words.at(1), made.bytes);
  }
  std::cout << "ok\n";
}

/// fork BUNDLE: what a child process is answered that loads its own session, and then what one by that of its parent.
void forked(const Words& words) {
  if (const pid_t first = fork(); first == 0) {
    load({words.at(0), "openvino", "fp32", "0"});
    std::cout.flush();
    _exit(0);
  } else {
    waitpid(first, nullptr, 0);
  }
  auto session = resnet::Session::load(words.at(0));
  const std::vector<char> zeros(session.signature().input.elements() * 4, 0);
  std::cout.flush();
  const pid_t child = fork();
  if (child == 0) {
    try {
      session.infer(view_of(session, {zeros.begin(), zeros.end()}, 1));
      std::cout << "answered" << std::endl;
    } catch (const resnet::Error& error) {
      say(error);
    }
    try {
      session = resnet::Session::load(words.at(0));
      std::cout << "loaded" << std::endl;
    } catch (const resnet::Error& error) {
      say(error);
    }
    std::cout.flush();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  session.infer(view_of(session, {zeros.begin(), zeros.end()}, 1));
  std::cout << "ok\n";
}

/// misuse BUNDLE: batches that are none, each with what is said of it.
void misuse(const Words& words) {
  const auto session = resnet::Session::load(words.at(0));
  const std::vector<float> values(session.signature().input.elements() * 2, 0.0F);
  const auto& shape = session.signature().input.shape;
  std::vector<std::vector<std::int64_t>> shapes{{}, {1}, shape, {0}, {-1}};
  for (std::size_t index = 3; index < 5; ++index) shapes[index].insert(shapes[index].end(), shape.begin(), shape.end());
  for (const auto& wrong : shapes) {
    try {
      session.infer(resnet::TensorView(values.data(), wrong));
      std::cout << "answered\n";
    } catch (const resnet::Error& error) {
      say(error);
    }
  }
  try {
    float* none = nullptr;
    std::vector<std::int64_t> one{1};
    one.insert(one.end(), shape.begin(), shape.end());
    session.infer_into(resnet::TensorView(values.data(), one), &none, 0);
    std::cout << "answered\n";
  } catch (const resnet::Error& error) {
    say(error);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const Words words(arguments + std::min(count, 2), arguments + count);
  const std::map<std::string, void (*)(const Words&)> commands{
      {"manifest", manifest}, {"bundle", bundle},         {"load", load},   {"check", check},   {"infer", infer},
      {"threads", threads},   {"preprocess", preprocess}, {"fork", forked}, {"misuse", misuse},
  };
  const auto command = commands.find(count > 1 ? arguments[1] : "");
  if (command == commands.end()) {
    std::cerr << "there is no such command\n";
    return 2;
  }
  try {
    command->second(words);
  } catch (const resnet::Error& error) {
    say(error);
  }
  return 0;
}
