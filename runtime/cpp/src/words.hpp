// Words of a sentence.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace resnet {

inline std::string joined(const std::vector<std::string>& parts, const char* between = ", ") {
  std::string text;
  for (const auto& part : parts) text += (text.empty() ? "" : between) + part;
  return text;
}

/// A shape as Python writes a tuple: (N,) or (N, C).
inline std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::vector<std::string> sizes;
  for (const auto size : shape) sizes.push_back(std::to_string(size));
  return "(" + joined(sizes) + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace resnet
