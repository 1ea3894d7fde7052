// Two threads answer what comes in on standard input: service resnet50.bundle < names_of_images
#include <algorithm>
#include <iostream>
#include <mutex>
#include <thread>

#include "resnet_runtime/session.hpp"

namespace {

std::mutex reading, writing;

/// Until there is nothing more to read; a file that is no image is said and passed over.
void serve(const resnet::Session& session) {
  const std::string output = session.signature().outputs.front().name;
  for (std::string path;;) {
    {
      const std::lock_guard<std::mutex> lock(reading);
      if (!std::getline(std::cin, path)) return;
    }
    std::string line = path + "\t";
    try {
      const resnet::Outputs outputs = session.infer_images({path});
      const auto& logits = outputs.at(output).values;
      const auto best = static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      line += session.labels() ? (*session.labels())[best] : "class " + std::to_string(best);
    } catch (const std::exception& error) {
      line += error.what();
    }
    const std::lock_guard<std::mutex> lock(writing);
    std::cout << line << std::endl;
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::cerr << "usage: service BUNDLE < NAMES\n";
    return 2;
  }
  try {
    resnet::Options options;
    options.intent = "throughput";
    const resnet::Session session = resnet::Session::load(arguments[1], options);
    std::thread other(serve, std::cref(session));
    serve(session);
    other.join();
  } catch (const resnet::Error& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
