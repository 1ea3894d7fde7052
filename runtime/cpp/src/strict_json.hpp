// JSON with the rules of the bundle format: UTF-8 without a byte order mark, unique keys, finite numbers, integers
// below 2**53, no lone surrogates, bounded size and depth.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace resnet::json {

/// A value as it was parsed; the members of an object in the order of the file.
struct Value {
  enum class Kind { null, boolean, integer, number, string, array, object };

  Kind kind = Kind::null;
  bool boolean = false;
  std::int64_t integer = 0;
  double number = 0;
  std::string string;
  std::vector<Value> items;
  std::vector<std::pair<std::string, Value>> members;

  const Value* find(const std::string& key) const;
};

/// What breaks the rules.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

constexpr std::size_t max_bytes = 4 * 1024 * 1024;
constexpr int max_depth = 16;
constexpr std::int64_t max_integer = (std::int64_t{1} << 53) - 1;

/// Throws Fault.
Value parse(const std::string& data);

/// The index of the first byte that is not UTF-8 as RFC 3629 defines it.
std::optional<std::size_t> first_bad_byte(const std::string& data);

/// What JSON calls the type.
const char* kind_of(const Value& value);

/// As Python's repr() writes it, cut at 60 characters.
std::string shortened(const Value& value);

/// A string in quotes as Python's repr() writes it.
std::string quoted(const std::string& text);

/// A number as Python's format "%g" writes it.
std::string general(double value);

}  // namespace resnet::json
