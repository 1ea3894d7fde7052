// How far answers are from eager's, and whether a gate lets them pass; the formulas are those of Python's parity.py.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "resnet_runtime/manifest.hpp"

namespace resnet {

/// One output of every sample, in C order: (N, K).
struct Answers {
  std::size_t samples = 0;
  std::vector<double> values;
};

/// Each figure of the worst output. What is not finite, or constant, has an error of 1e30.
/// @param tie  relative to the spread: how close eager's two best answers have to be for a sample not to count
Parity parity_of(const std::vector<Answers>& expected, const std::vector<Answers>& actual, double tie);

/// How close two answers may be for an error that the gate allows to exchange them.
double tie_of(const Limits& limits);

/// What is outside the limits, a sentence each.
std::vector<std::string> faults(const Parity& measured, const Limits& limits);

}  // namespace resnet
