// One JSON object, taken apart member by member, with every fault collected.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "strict_json.hpp"

namespace resnet::json {

class Fields {
 public:
  using Choices = std::vector<std::string>;
  using Matches = bool (*)(const std::string&);

  Fields(const Value& value, std::string where, std::vector<std::string>& faults);

  /// Note what is wrong with the member `key`; with "" of the object itself.
  void fault(const std::string& key, const std::string& text);

  /// Note the members that nothing took.
  void done();

  std::string text(const std::string& key, const Choices& choices = {}, Matches matches = nullptr);
  std::optional<std::string> optional_text(const std::string& key, const Choices& choices = {});
  std::int64_t integer(const std::string& key, std::int64_t smallest = 0);
  double number(const std::string& key);
  double positive(const std::string& key);
  std::optional<double> optional_number(const std::string& key);
  bool boolean(const std::string& key);
  std::vector<double> numbers(const std::string& key);
  std::vector<std::int64_t> integers(const std::string& key, std::size_t length = 0);
  std::vector<std::string> texts(const std::string& key);
  std::map<std::string, std::string> mapping(const std::string& key);

  /// Whether the member is there and null; it is noted as missing where it is not there.
  bool is_null(const std::string& key);

  template <typename Record>
  Record record(const std::string& key, Record (*parse)(Fields&)) {
    const Value* value = raw(key);
    if (value != nullptr) return parsed(*value, key, parse);
    std::vector<std::string> unheard;
    const Value empty = object();
    Fields fields(empty, key, unheard);
    return parse(fields);
  }

  template <typename Record>
  std::optional<Record> optional_record(const std::string& key, Record (*parse)(Fields&), bool may_lack = false) {
    const Value* value = may_lack ? peek(key) : raw(key);
    if (value == nullptr || value->kind == Value::Kind::null) return std::nullopt;
    return parsed(*value, key, parse);
  }

  template <typename Record>
  std::vector<Record> records(const std::string& key, Record (*parse)(Fields&), bool may_lack = false) {
    if (may_lack && peek(key) == nullptr) return {};
    std::vector<Record> result;
    std::size_t index = 0;
    for (const Value* item : list(key, is_object, "a list of objects")) {
      result.push_back(parsed(*item, key + "[" + std::to_string(index++) + "]", parse));
    }
    return result;
  }

 private:
  static bool is_object(const Value& value) { return value.kind == Value::Kind::object; }
  static Value object();

  const Value* peek(const std::string& key);
  const Value* raw(const std::string& key);
  std::vector<const Value*> list(const std::string& key, bool (*accepts)(const Value&), const std::string& what);

  template <typename Record>
  Record parsed(const Value& value, const std::string& key, Record (*parse)(Fields&)) {
    Fields fields(value, where_.empty() ? key : where_ + "." + key, faults_);
    Record result = parse(fields);
    fields.done();
    return result;
  }

  const Value& value_;
  std::string where_;
  std::vector<std::string>& faults_;
  std::set<std::string> taken_;
};

}  // namespace resnet::json
