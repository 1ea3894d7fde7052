// Classify an image: classify resnet50.bundle cat.jpg
#include <algorithm>
#include <iostream>
#include <numeric>

#include "resnet_runtime/session.hpp"

int main(int count, char** arguments) {
  if (count != 3) {
    std::cerr << "usage: classify BUNDLE IMAGE\n";
    return 2;
  }
  try {
    const resnet::Session session = resnet::Session::load(arguments[1]);
    const resnet::Outputs outputs = session.infer_images({arguments[2]});
    const auto& logits = outputs.at(session.signature().outputs.front().name).values;
    std::vector<std::size_t> order(logits.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
    for (std::size_t place = 0; place < std::min<std::size_t>(5, order.size()); ++place) {
      const std::size_t index = order[place];
      const std::string name = session.labels() ? (*session.labels())[index] : "class " + std::to_string(index);
      std::cout << name << "  " << logits[index] << '\n';
    }
  } catch (const resnet::Error& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
