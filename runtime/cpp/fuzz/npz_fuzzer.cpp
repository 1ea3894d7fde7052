// The reader of check.npz, which is as little trusted as the manifest: the bytes are an archive, or, after a first byte
// that is odd, what is in one, whose checksum is right then.
#include <zlib.h>

#include <cstdint>
#include <new>
#include <string>

#include "../src/npz.hpp"

namespace {

std::string number(std::size_t value, int bytes) {
  std::string text;
  for (; bytes > 0; --bytes, value >>= 8U) text += static_cast<char>(value & 255U);
  return text;
}

/// Stored, under the name input.npy.
std::string archive_of(const std::string& content) {
  const std::string name = "input.npy";
  const std::string sizes =
      number(crc32(0, reinterpret_cast<const Bytef*>(content.data()), static_cast<uInt>(content.size())), 4) +
      number(content.size(), 4) + number(content.size(), 4) + number(name.size(), 2) + number(0, 2);
  const std::string local = "PK\x03\x04" + std::string(10, '\0') + sizes + name + content;
  const std::string listed = "PK\x01\x02" + std::string(12, '\0') + sizes + std::string(14, '\0') + name;
  return local + listed + "PK\x05\x06" + std::string(4, '\0') + number(1, 2) + number(1, 2) +
         number(listed.size(), 4) + number(local.size(), 4) + number(0, 2);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string text(reinterpret_cast<const char*>(data), size);
  if (size > 0 && data[0] % 2 == 1) text = archive_of(text.substr(1));
  try {
    resnet::npz::array_from_npz(text, "input");
  } catch (const resnet::npz::Fault&) {
  } catch (const std::bad_alloc&) {
  }
  return 0;
}
