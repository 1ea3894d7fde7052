#include "fields.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "words.hpp"

namespace resnet::json {

namespace {

bool is_integer(const Value& value) { return value.kind == Value::Kind::integer; }
bool is_positive_integer(const Value& value) { return is_integer(value) && value.integer > 0; }
bool is_number(const Value& value) { return is_integer(value) || value.kind == Value::Kind::number; }
bool is_string(const Value& value) { return value.kind == Value::Kind::string; }
double as_double(const Value& value) { return is_integer(value) ? static_cast<double>(value.integer) : value.number; }

}  // namespace

Value Fields::object() {
  Value made;
  made.kind = Value::Kind::object;
  return made;
}

Fields::Fields(const Value& value, std::string where, std::vector<std::string>& faults)
    : value_(value), where_(std::move(where)), faults_(faults) {
  if (!is_object(value)) fault("", std::string("is a JSON ") + kind_of(value) + ", not an object");
}

void Fields::fault(const std::string& key, const std::string& text) {
  std::string path = where_;
  if (!key.empty()) path += (path.empty() ? "" : ".") + key;
  faults_.push_back((path.empty() ? "the manifest" : path) + " " + text);
}

void Fields::done() {
  for (const auto& member : value_.members) {
    if (taken_.count(member.first) == 0) fault(member.first, "is not a key of this schema");
  }
}

const Value* Fields::peek(const std::string& key) {
  taken_.insert(key);
  return value_.find(key);
}

const Value* Fields::raw(const std::string& key) {
  const Value* found = peek(key);
  if (found == nullptr && is_object(value_)) fault(key, "is missing");
  return found;
}

bool Fields::is_null(const std::string& key) {
  const Value* found = raw(key);
  return found == nullptr || found->kind == Value::Kind::null;
}

std::string Fields::text(const std::string& key, const Choices& choices, Matches matches) {
  const Value* value = raw(key);
  if (value == nullptr) return "";
  if (!is_string(*value) || value->string.empty()) {
    fault(key, "is " + shortened(*value) + ", not a non-empty string");
  } else if (!choices.empty() && std::find(choices.begin(), choices.end(), value->string) == choices.end()) {
    fault(key, "is " + shortened(*value) + ", not one of " + joined(choices));
  } else if (matches != nullptr && !matches(value->string)) {
    fault(key, "is " + shortened(*value) + ", which is not allowed there");
  } else {
    return value->string;
  }
  return "";
}

std::optional<std::string> Fields::optional_text(const std::string& key, const Choices& choices) {
  const Value* value = peek(key);
  if (value != nullptr && value->kind == Value::Kind::null) return std::nullopt;
  const std::string found = text(key, choices);
  return value == nullptr ? std::nullopt : std::optional<std::string>(found);
}

std::int64_t Fields::integer(const std::string& key, std::int64_t smallest) {
  const Value* value = raw(key);
  if (value == nullptr) return smallest;
  if (!is_integer(*value) || value->integer < smallest) {
    fault(key, "is " + shortened(*value) + ", not an integer of at least " + std::to_string(smallest));
    return smallest;
  }
  return value->integer;
}

double Fields::number(const std::string& key) {
  const Value* value = raw(key);
  if (value == nullptr) return 0;
  if (!is_number(*value)) {
    fault(key, "is " + shortened(*value) + ", not a number");
    return 0;
  }
  return as_double(*value);
}

double Fields::positive(const std::string& key) {
  const double value = number(key);
  const Value* found = peek(key);
  if (found != nullptr && is_number(*found) && value <= 0) fault(key, "is " + shortened(*found) + ", not above 0");
  return value;
}

std::optional<double> Fields::optional_number(const std::string& key) {
  const Value* value = peek(key);
  if (value != nullptr && value->kind == Value::Kind::null) return std::nullopt;
  const double found = number(key);
  return value == nullptr ? std::nullopt : std::optional<double>(found);
}

bool Fields::boolean(const std::string& key) {
  const Value* value = raw(key);
  if (value == nullptr) return false;
  if (value->kind != Value::Kind::boolean) fault(key, "is " + shortened(*value) + ", not true or false");
  return value->kind == Value::Kind::boolean && value->boolean;
}

std::vector<double> Fields::numbers(const std::string& key) {
  std::vector<double> result;
  for (const Value* item : list(key, is_number, "a list of numbers")) result.push_back(as_double(*item));
  return result;
}

std::vector<std::int64_t> Fields::integers(const std::string& key, std::size_t length) {
  const std::string what =
      length == 0 ? "a list of positive integers" : "a list of " + std::to_string(length) + " positive integers";
  std::vector<std::int64_t> result;
  for (const Value* item : list(key, is_positive_integer, what)) result.push_back(item->integer);
  if (length != 0 && result.size() != length) {
    if (!result.empty()) {
      fault(key, "has " + std::to_string(result.size()) + " items, not " + std::to_string(length));
    }
    return std::vector<std::int64_t>(length, 1);
  }
  return result;
}

std::vector<std::string> Fields::texts(const std::string& key) {
  std::vector<std::string> result;
  for (const Value* item : list(key, is_string, "a list of strings")) result.push_back(item->string);
  return result;
}

std::map<std::string, std::string> Fields::mapping(const std::string& key) {
  const Value* value = raw(key);
  if (value == nullptr) return {};
  std::map<std::string, std::string> result;
  bool fits = is_object(*value);
  for (const auto& [name, item] : value->members) {
    fits = fits && is_string(item);
    result[name] = item.string;
  }
  if (fits) return result;
  fault(key, "is not an object of strings");
  return {};
}

std::vector<const Value*> Fields::list(
    const std::string& key, bool (*accepts)(const Value&), const std::string& what) {
  const Value* value = raw(key);
  if (value == nullptr) return {};
  std::vector<const Value*> result;
  bool fits = value->kind == Value::Kind::array;
  for (const auto& item : value->items) {
    fits = fits && accepts(item);
    result.push_back(&item);
  }
  if (fits) return result;
  fault(key, "is not " + what);
  return {};
}

}  // namespace resnet::json
