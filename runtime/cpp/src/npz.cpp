#include "npz.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <sstream>

namespace resnet::npz {

namespace {

constexpr std::size_t most_inflated = 1032;  // bytes that DEFLATE makes of one at the most
constexpr std::uint32_t elsewhere = 0xFFFFFFFF;

/// Little-endian numbers of a file that may end anywhere.
class Reader {
 public:
  explicit Reader(const std::string& data) : data_(data) {}

  std::uint32_t number(std::size_t at, std::size_t bytes) const {
    const std::string part = text(at, bytes);
    std::uint32_t value = 0;
    for (std::size_t index = bytes; index-- > 0;) value = value << 8U | static_cast<unsigned char>(part[index]);
    return value;
  }

  std::string text(std::size_t at, std::size_t size) const {
    if (at > data_.size() || size > data_.size() - at) throw Fault("it is cut off");
    return data_.substr(at, size);
  }

 private:
  const std::string& data_;
};

/// Where the list of members begins, and how many there are: at the end of the file, before a comment.
std::pair<std::size_t, std::uint32_t> directory_of(const std::string& data) {
  const std::size_t found = data.rfind("PK\x05\x06");
  if (found == std::string::npos) throw Fault("it is not a zip file");
  const Reader reader(data);
  return {reader.number(found + 16, 4), reader.number(found + 10, 2)};
}

std::string inflated(const std::string& packed, std::size_t size) {
  if (size > packed.size() * most_inflated + 64) throw Fault("it promises more than it can hold");
  std::string made(size, '\0');
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw std::bad_alloc();
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(made.data());
  stream.avail_out = static_cast<uInt>(made.size());
  const int ended = inflate(&stream, Z_FINISH);
  inflateEnd(&stream);
  if (ended != Z_STREAM_END || stream.avail_out != 0) throw Fault("it is damaged");
  return made;
}

std::string member(const std::string& data, const std::string& name) {
  const Reader reader(data);
  auto [at, count] = directory_of(data);
  for (; count > 0; --count) {
    if (reader.text(at, 4) != "PK\x01\x02") throw Fault("its list of members is damaged");
    const std::size_t name_size = reader.number(at + 28, 2);
    if (reader.text(at + 46, name_size) != name) {
      at += 46 + name_size + reader.number(at + 30, 2) + reader.number(at + 32, 2);
      continue;
    }
    const std::uint32_t method = reader.number(at + 10, 2), sum = reader.number(at + 16, 4);
    const std::uint32_t packed_size = reader.number(at + 20, 4), size = reader.number(at + 24, 4);
    const std::size_t local = reader.number(at + 42, 4);
    if (packed_size == elsewhere || size == elsewhere || local == elsewhere) throw Fault("it has over 4 GB");
    const std::size_t begin = local + 30 + reader.number(local + 26, 2) + reader.number(local + 28, 2);
    std::string found = reader.text(begin, packed_size);
    if (method == 8) found = inflated(found, size);
    if ((method != 0 && method != 8) || found.size() != size) throw Fault("it is packed in another way than deflated");
    const auto* bytes = reinterpret_cast<const Bytef*>(found.data());
    if (crc32(0, bytes, static_cast<uInt>(found.size())) != sum) throw Fault("its checksum is wrong");
    return found;
  }
  throw Fault("it has no array '" + name.substr(0, name.size() - 4) + "'");
}

const std::array<std::pair<const char*, std::pair<const char*, std::size_t>>, 3> types{{
    {"<f4", {"float32", 4}},
    {"<f8", {"float64", 8}},
    {"|u1", {"uint8", 1}},
}};

/// From Fortran's order to C's.
std::string in_c_order(const std::string& bytes, const std::vector<std::int64_t>& shape, std::size_t size) {
  std::string made(bytes.size(), '\0');
  std::vector<std::size_t> index(shape.size(), 0);
  for (std::size_t to = 0; to < bytes.size(); to += size) {
    std::size_t from = 0;
    for (std::size_t axis = shape.size(); axis-- > 0;) from = from * static_cast<std::size_t>(shape[axis]) + index[axis];
    std::memcpy(made.data() + to, bytes.data() + from * size, size);
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      if (++index[axis] < static_cast<std::size_t>(shape[axis])) break;
      index[axis] = 0;
    }
  }
  return made;
}

/// What stands between two marks right after the key, in a header such as {'descr': '<f4', 'shape': (8, 3), }.
std::string between(const std::string& header, const std::string& key, const std::string& open, char close) {
  const std::string start = "'" + key + "': " + open;
  const std::size_t at = header.find(start);
  const std::size_t end = at == std::string::npos ? at : header.find(close, at + start.size());
  if (end == std::string::npos) throw Fault("an array's header has no " + key + " that is read here");
  return header.substr(at + start.size(), end - at - start.size());
}

/// The axes of "8, 3, 32", "8," or "".
std::vector<std::int64_t> shape_of(const std::string& text) {
  std::vector<std::int64_t> shape;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    std::istringstream number(part);
    std::int64_t length = -1;
    if (!(number >> length) || length < 0) throw Fault("an array has the shape (" + text + ")");
    shape.push_back(length);
  }
  return shape;
}

}  // namespace

std::vector<double> Array::doubles() const {
  std::vector<double> values;
  if (type == "float32") {
    std::vector<float> floats(bytes.size() / 4);
    std::memcpy(floats.data(), bytes.data(), floats.size() * 4);
    return {floats.begin(), floats.end()};
  }
  if (type != "float64") throw Fault("it is " + type + " and no floats");
  values.resize(bytes.size() / 8);
  std::memcpy(values.data(), bytes.data(), values.size() * 8);
  return values;
}

Array array_from_npz(const std::string& data, const std::string& name) {
  const std::string file = member(data, name + ".npy");
  const Reader reader(file);
  if (reader.text(0, 6) != "\x93NUMPY") throw Fault("'" + name + "' is no array");
  const bool short_header = reader.number(6, 1) == 1;
  const std::size_t start = short_header ? 10 : 12;
  const std::size_t header_size = reader.number(8, short_header ? 2 : 4);
  if (header_size > 4096) throw Fault("'" + name + "' has too long a header");
  const std::string header = reader.text(start, header_size);
  const std::string descr = between(header, "descr", "'", '\'');
  const auto type = std::find_if(types.begin(), types.end(), [&](const auto& one) { return descr == one.first; });
  if (type == types.end()) throw Fault("'" + name + "' is of the type " + descr);
  Array made{type->second.first, shape_of(between(header, "shape", "(", ')')), file.substr(start + header_size)};
  const std::size_t size = type->second.second;
  std::size_t wanted = size;
  for (const auto axis : made.shape) {
    const auto length = static_cast<std::size_t>(axis);
    if (length != 0 && wanted > file.size() / length + 1) throw Fault("'" + name + "' is cut off");
    wanted *= length;
  }
  if (made.bytes.size() < wanted) throw Fault("'" + name + "' is cut off");
  made.bytes.resize(wanted);  // what follows an array is passed over
  if (between(header, "fortran_order", "", ',') == "True") made.bytes = in_c_order(made.bytes, made.shape, size);
  return made;
}

}  // namespace resnet::npz
