#include "strict_json.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <unordered_set>

namespace resnet::json {

namespace {

void check_depth(const std::string& data) {
  int depth = 0;
  bool in_quotes = false, escaped = false;
  for (const char character : data) {
    if (in_quotes) {
      if (escaped) {
        escaped = false;
      } else if (character == '\\') {
        escaped = true;
      } else if (character == '"') {
        in_quotes = false;
      }
    } else if (character == '"') {
      in_quotes = true;
    } else if (character == '[' || character == '{') {
      if (++depth > max_depth) throw Fault("it nests deeper than " + std::to_string(max_depth) + " levels");
    } else if (character == ']' || character == '}') {
      --depth;
    }
  }
}

std::string place(const std::string& data, std::size_t position) {
  std::size_t line = 1, column = 1;
  for (std::size_t index = 0; index < position && index < data.size(); ++index) {
    if (data[index] == '\n') {
      ++line;
      column = 1;
    } else if ((static_cast<unsigned char>(data[index]) & 0xC0U) != 0x80U) {
      ++column;
    }
  }
  return "line " + std::to_string(line) + ", column " + std::to_string(column);
}

/// Builds a Value from what the parser meets.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(const std::string& data) : data_(data) {}

  Value root;

  bool null() override { return put(Value{}); }
  bool boolean(bool value) override {
    Value made;
    made.kind = Value::Kind::boolean;
    made.boolean = value;
    return put(std::move(made));
  }
  bool number_integer(number_integer_t value) override {
    if (value < -max_integer) too_large(std::to_string(value));
    return put_integer(value);
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(max_integer)) too_large(std::to_string(value));
    return put_integer(static_cast<std::int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    // Integers past 64 bits come as this too. (The decimal point in `text` is the locale's.)
    if (text.find_first_not_of("-0123456789") == string_t::npos) too_large(text);
    if (!std::isfinite(value)) throw Fault(text.substr(0, 32) + " is not a finite number");
    Value made;
    made.kind = Value::Kind::number;
    made.number = value;
    return put(std::move(made));
  }
  bool string(string_t& value) override {
    Value made;
    made.kind = Value::Kind::string;
    made.string = std::move(value);
    return put(std::move(made));
  }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Value::Kind::object); }
  bool start_array(std::size_t) override { return open(Value::Kind::array); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (!names_.back().insert(name).second) {
      throw Fault("the key " + json::quoted(name) + " stands twice in one object");
    }
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) override {
    if (error.id == 406) throw Fault("a number is not a finite number");
    const std::size_t index = position == 0 ? 0 : position - 1;
    throw Fault("it is not JSON at " + place(data_, index));
  }

 private:
  [[noreturn]] static void too_large(const std::string& text) {
    throw Fault("the integer " + text.substr(0, 32) + " is not below 2**53");
  }
  bool put_integer(std::int64_t value) {
    Value made;
    made.kind = Value::Kind::integer;
    made.integer = value;
    return put(std::move(made));
  }
  Value* place_for(Value&& made) {
    if (open_.empty()) {
      root = std::move(made);
      return &root;
    }
    Value& parent = *open_.back();
    if (parent.kind == Value::Kind::array) {
      parent.items.push_back(std::move(made));
      return &parent.items.back();
    }
    parent.members.emplace_back(std::move(key_), std::move(made));
    return &parent.members.back().second;
  }
  bool put(Value&& made) {
    place_for(std::move(made));
    return true;
  }
  bool open(Value::Kind kind) {
    Value made;
    made.kind = kind;
    open_.push_back(place_for(std::move(made)));  // a parent grows only after its child is closed
    names_.emplace_back();
    return true;
  }
  bool close() {
    open_.pop_back();
    names_.pop_back();
    return true;
  }

  const std::string& data_;
  std::vector<Value*> open_;
  std::vector<std::unordered_set<std::string>> names_;  // of the members of each
  std::string key_;
};

std::string representation(double value) {
  std::array<char, 32> buffer{};
  const auto scientific = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  const std::string text(buffer.data(), scientific.ptr);
  const auto mark = text.find('e');
  const int exponent = std::atoi(text.c_str() + mark + 1);
  if (exponent < -4 || exponent >= 16) {
    std::array<char, 16> power{};
    std::snprintf(power.data(), power.size(), "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
    return text.substr(0, mark) + power.data();
  }
  const auto fixed = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed);
  std::string plain(buffer.data(), fixed.ptr);
  return plain.find('.') == std::string::npos ? plain + ".0" : plain;
}

std::string representation(const Value& value) {
  switch (value.kind) {
    case Value::Kind::null: return "None";
    case Value::Kind::boolean: return value.boolean ? "True" : "False";
    case Value::Kind::integer: return std::to_string(value.integer);
    case Value::Kind::number: return representation(value.number);
    case Value::Kind::string: return quoted(value.string);
    case Value::Kind::array: {
      std::string text = "[";
      for (const auto& item : value.items) text += (text.size() > 1 ? ", " : "") + representation(item);
      return text + "]";
    }
    case Value::Kind::object: {
      std::string text = "{";
      for (const auto& [key, item] : value.members) {
        text += (text.size() > 1 ? ", " : "") + quoted(key) + ": " + representation(item);
      }
      return text + "}";
    }
  }
  return "";
}

}  // namespace

const Value* Value::find(const std::string& key) const {
  for (const auto& [name, value] : members) {
    if (name == key) return &value;
  }
  return nullptr;
}

std::optional<std::size_t> first_bad_byte(const std::string& data) {
  const auto at = [&](std::size_t index) {
    return index < data.size() ? static_cast<unsigned char>(data[index]) : 0U;
  };
  for (std::size_t index = 0; index < data.size();) {
    const unsigned lead = at(index);
    if (lead < 0x80) {
      ++index;
      continue;
    }
    int length = 0;
    unsigned low = 0x80, high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF) {
      length = 2;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      length = 3;
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      length = 4;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    } else {
      return index;
    }
    for (int offset = 1; offset < length; ++offset) {
      const unsigned byte = at(index + static_cast<std::size_t>(offset));
      if (byte < low || byte > high) return index;
      low = 0x80;
      high = 0xBF;
    }
    index += static_cast<std::size_t>(length);
  }
  return std::nullopt;
}

Value parse(const std::string& data) {
  if (data.size() > max_bytes) {
    throw Fault("it has " + std::to_string(data.size()) + " bytes, and " + std::to_string(max_bytes) + " are allowed");
  }
  if (const auto bad = first_bad_byte(data)) throw Fault("byte " + std::to_string(*bad) + " is not UTF-8");
  check_depth(data);
  if (data.compare(0, 3, "\xEF\xBB\xBF") == 0) throw Fault("it is not JSON at line 1, column 1");
  if (const auto zero = data.find('\0'); zero != std::string::npos) {
    throw Fault("it is not JSON at " + place(data, zero));  // where the parser would take the text to end
  }
  Builder builder(data);
  nlohmann::json::sax_parse(data, &builder);
  return std::move(builder.root);
}

const char* kind_of(const Value& value) {
  switch (value.kind) {
    case Value::Kind::null: return "null";
    case Value::Kind::boolean: return "boolean";
    case Value::Kind::integer:
    case Value::Kind::number: return "number";
    case Value::Kind::string: return "string";
    case Value::Kind::array: return "array";
    case Value::Kind::object: break;
  }
  return "object";
}

std::string quoted(const std::string& text) {
  const bool single = text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char quote = single ? '"' : '\'';
  std::string result(1, quote);
  for (const char character : text) {
    const auto byte = static_cast<unsigned char>(character);
    if (character == quote || character == '\\') {
      result += '\\';
      result += character;
    } else if (character == '\n') {
      result += "\\n";
    } else if (character == '\r') {
      result += "\\r";
    } else if (character == '\t') {
      result += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\x%02x", byte);
      result += escape.data();
    } else {
      result += character;
    }
  }
  return result + quote;
}

std::string shortened(const Value& value) {
  const std::string text = representation(value);
  std::size_t characters = 0, cut = text.size();
  for (std::size_t index = 0; index < text.size(); ++index) {
    if ((static_cast<unsigned char>(text[index]) & 0xC0U) == 0x80U) continue;
    if (++characters == 58) cut = index;
  }
  return characters <= 60 ? text : text.substr(0, cut) + "...";
}

std::string general(double value) {
  std::array<char, 32> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::general, 6).ptr;
  return {buffer.data(), end};
}

}  // namespace resnet::json
