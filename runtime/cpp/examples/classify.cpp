// Classify an image: classify resnet50.bundle cat.jpg
// What stands between the two lines of dashes is what the README shows.
#include <algorithm>
#include <iostream>
#include <numeric>

#include "resnet_runtime/session.hpp"

namespace {

void classify(const std::string& path, const std::string& image) {
  // ---
  const auto session = resnet::Session::load(path);
  const auto outputs = session.infer_images({image});
  const auto& logits = outputs.at(session.signature().outputs.front().name).values;
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  for (std::size_t place = 0; place < std::min<std::size_t>(5, order.size()); ++place) {
    const auto index = order[place];
    std::cout << (session.labels() ? (*session.labels())[index] : std::to_string(index)) << "  " << logits[index] << '\n';
  }
  // ---
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::cerr << "usage: classify BUNDLE IMAGE\n";
    return 2;
  }
  try {
    classify(arguments[1], arguments[2]);
  } catch (const resnet::Error& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
