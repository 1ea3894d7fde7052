#include "parity.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

namespace resnet {

namespace {

constexpr double min_spread = 1e-3;  // relative to the largest magnitude
constexpr double max_tie = 0.03;
constexpr double unusable = 1e30;
constexpr double max_snr_db = 400.0;

/// The largest range over the samples of any element.
double spread(const Answers& answers, std::size_t width) {
  double widest = 0;
  for (std::size_t element = 0; element < width; ++element) {
    double low = answers.values[element], high = low;
    for (std::size_t at = element; at < answers.values.size(); at += width) {
      low = std::min(low, answers.values[at]);
      high = std::max(high, answers.values[at]);
    }
    widest = std::max(widest, high - low);
  }
  return widest;
}

/// Without each element's mean over the samples.
std::vector<double> centred(std::vector<double> values, const Answers& mean_of, std::size_t width) {
  for (std::size_t element = 0; element < width; ++element) {
    double sum = 0;
    for (std::size_t at = element; at < values.size(); at += width) sum += mean_of.values[at];
    const double mean = sum / static_cast<double>(mean_of.samples);
    for (std::size_t at = element; at < values.size(); at += width) values[at] -= mean;
  }
  return values;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

void agree(Parity& made, const Answers& expected, const Answers& actual, std::size_t width, double tie) {
  made.top1_agreement = made.top5_agreement = 1;
  if (width < 2) return;
  std::size_t decided = 0, same = 0, among = 0;
  const std::size_t most = std::min<std::size_t>(5, width);
  for (std::size_t sample = 0; sample < expected.samples; ++sample) {
    const double* wanted = expected.values.data() + sample * width;
    const double* found = actual.values.data() + sample * width;
    const auto best = static_cast<std::size_t>(std::max_element(wanted, wanted + width) - wanted);
    double second = -INFINITY;
    for (std::size_t index = 0; index < width; ++index) {
      if (index != best) second = std::max(second, wanted[index]);
    }
    const auto above = static_cast<std::size_t>(
        std::count_if(found, found + width, [&](double value) { return value > found[best]; }));
    if (wanted[best] - second > tie) {
      ++decided;
      same += std::max_element(found, found + width) == found + best ? 1 : 0;
    } else {
      ++made.undecided;
    }
    among += above < most ? 1 : 0;
  }
  if (decided > 0) made.top1_agreement = static_cast<double>(same) / static_cast<double>(decided);
  made.top5_agreement = static_cast<double>(among) / static_cast<double>(expected.samples);
}

Parity of_one(const Answers& expected, const Answers& actual, double tie) {
  Parity made;
  made.samples = static_cast<std::int64_t>(expected.samples);
  const std::size_t width = expected.values.size() / expected.samples;
  const auto is_finite = [](double value) { return std::isfinite(value); };
  bool usable = std::all_of(expected.values.begin(), expected.values.end(), is_finite) &&
                std::all_of(actual.values.begin(), actual.values.end(), is_finite);
  double scale = 0;
  if (usable) {
    scale = spread(expected, width);
    double largest = 0;
    for (const double value : expected.values) largest = std::max(largest, std::abs(value));
    usable = scale > min_spread * largest && spread(actual, width) > min_spread * scale;
  }
  if (!usable) {
    made.max_error = made.mean_error = unusable;
    made.centred_cosine = -1;
    made.snr_db = -max_snr_db;
    return made;
  }
  double sum = 0, squares = 0;
  for (std::size_t at = 0; at < expected.values.size(); ++at) {
    const double error = std::abs(actual.values[at] - expected.values[at]);
    made.max_error = std::max(made.max_error, error / scale);
    sum += error;
    squares += error * error;
  }
  made.mean_error = sum / static_cast<double>(expected.values.size()) / scale;
  const std::vector<double> a = centred(expected.values, expected, width), b = centred(actual.values, expected, width);
  const double norm = std::sqrt(dot(a, a)) * std::sqrt(dot(b, b));
  made.centred_cosine = norm > 0 ? std::clamp(dot(a, b) / norm, -1.0, 1.0) : -1.0;
  const double ratio = std::max(dot(a, a), 1e-300) / squares;
  made.snr_db = squares > 0 ? std::clamp(10 * std::log10(ratio), -max_snr_db, max_snr_db) : max_snr_db;
  agree(made, expected, actual, width, tie * scale);
  return made;
}

/// In every locale with a point.
std::string printed(double value, std::chars_format format, int precision) {
  char text[400];
  return {text, std::to_chars(text, text + sizeof text, value, format, precision).ptr};
}

std::string percent(double value) { return printed(100 * value, std::chars_format::fixed, 3) + "%"; }
std::string general(double value) { return printed(value, std::chars_format::general, 5); }

}  // namespace

Parity parity_of(const std::vector<Answers>& expected, const std::vector<Answers>& actual, double tie) {
  Parity worst = of_one(expected[0], actual[0], tie);
  for (std::size_t index = 1; index < expected.size(); ++index) {
    const Parity one = of_one(expected[index], actual[index], tie);
    worst.undecided = std::max(worst.undecided, one.undecided);
    worst.max_error = std::max(worst.max_error, one.max_error);
    worst.mean_error = std::max(worst.mean_error, one.mean_error);
    worst.centred_cosine = std::min(worst.centred_cosine, one.centred_cosine);
    worst.snr_db = std::min(worst.snr_db, one.snr_db);
    worst.top1_agreement = std::min(worst.top1_agreement, one.top1_agreement);
    worst.top5_agreement = std::min(worst.top5_agreement, one.top5_agreement);
  }
  return worst;
}

double tie_of(const Limits& limits) {
  if (!limits.mean_error && limits.centred_cosine) return max_tie;
  return std::min(2 * limits.mean_error.value_or(0), max_tie);
}

std::vector<std::string> faults(const Parity& measured, const Limits& limits) {
  if (measured.max_error >= unusable) return {"an answer is not finite, or the model's answers do not depend on its input"};
  std::vector<std::string> found;
  const auto at_most = [&](const char* name, double value, const std::optional<double>& allowed) {
    if (!allowed || value <= *allowed) return;
    found.push_back(std::string(name) + " " + percent(value) + " of the spread, " + percent(*allowed) + " allowed");
  };
  const auto at_least = [&](const char* name, double value, const std::optional<double>& needed) {
    if (!needed || value >= *needed) return;
    found.push_back(std::string(name) + " " + general(value) + ", at least " + general(*needed) + " needed");
  };
  at_most("max error", measured.max_error, limits.max_error);
  at_most("mean error", measured.mean_error, limits.mean_error);
  at_least("centred cosine", measured.centred_cosine, limits.centred_cosine);
  at_least("top-1 agreement", measured.top1_agreement, limits.top1_agreement);
  return found;
}

}  // namespace resnet
