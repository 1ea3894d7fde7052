#include "resnet_runtime/bundle.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "digest.hpp"
#include "files.hpp"
#include "resnet_runtime/error.hpp"
#include "resnet_runtime/tensor.hpp"
#include "strict_json.hpp"
#include "words.hpp"

namespace resnet {

namespace {

constexpr const char* manifest_name = "manifest.json";
constexpr std::size_t block = std::size_t{1} << 20U;

std::string folder_of(const std::string& path) { return std::filesystem::path(path).parent_path().string(); }

Error bundle_error(const std::string& message) { return {ErrorKind::bundle, message}; }

bool is_link(const std::string& path) {
  struct stat about {};
  return lstat(path.c_str(), &about) == 0 && S_ISLNK(about.st_mode);
}

/// A regular file that is not a link, open for reading.
class File {
 public:
  File(const std::string& path, const std::string& name)
      : name_(folder_of(path) + ": " + name), descriptor_(path, O_NOFOLLOW | O_NONBLOCK) {
    const int why = errno;
    if (is_link(path)) throw bundle_error(name_ + " is a link, and a bundle holds none");
    if (descriptor_.number() < 0 && why == ENOENT) throw bundle_error(name_ + " is missing: copy the bundle again");
    if (descriptor_.number() < 0) throw bundle_error(name_ + " cannot be opened: " + std::strerror(why));
    struct stat about {};
    if (fstat(descriptor_.number(), &about) != 0 || !S_ISREG(about.st_mode)) {
      throw bundle_error(name_ + " is not a regular file");
    }
    size_ = static_cast<std::size_t>(about.st_size);
  }

  std::size_t size() const { return size_; }

  /// Up to `count` bytes; fewer only at the end.
  std::size_t read(char* to, std::size_t count) {
    try {
      return descriptor_.read(to, count);
    } catch (const std::system_error& error) {
      throw bundle_error(name_ + " cannot be read: " + error.code().message());
    }
  }

 private:
  std::string name_;
  Descriptor descriptor_;
  std::size_t size_ = 0;
};

/// At most `limit` + 1 bytes, and no more than there are: what a manifest claims must not decide how much is reserved.
std::string read_file(const std::string& path, const std::string& name, std::size_t limit) {
  File file(path, name);
  std::string data(std::min(limit, file.size()) + 1, '\0');
  data.resize(file.read(data.data(), data.size()));
  return data;
}

}  // namespace

Bundle Bundle::open(const std::string& path) {
  struct stat about {};
  const std::string manifest_path = (std::filesystem::path(path) / manifest_name).string();
  if (stat(path.c_str(), &about) != 0) {
    const int why = errno;
    if (why != ENOENT && why != ENOTDIR) throw bundle_error(path + " cannot be opened: " + std::strerror(why));
    throw bundle_error(path + " does not exist, and a bundle is a directory that resnet-export wrote");
  }
  if (!S_ISDIR(about.st_mode)) {
    throw bundle_error(path + " is a file, and a bundle is a directory that resnet-export wrote");
  }
  if (stat(manifest_path.c_str(), &about) != 0) {
    const int why = errno;
    if (why != ENOENT) throw bundle_error(path + " cannot be opened: " + std::strerror(why));
    throw bundle_error(path + " is not a bundle: it has no " + manifest_name);
  }
  const std::string data = read_file(manifest_path, manifest_name, json::max_bytes);
  return {path, Manifest::from_bytes(data, manifest_path)};
}

std::string Bundle::read(const FileRecord& record) const {
  std::string data = read_file(path_of(record), record.path, static_cast<std::size_t>(record.size));
  check_size(record, static_cast<std::int64_t>(data.size()));
  check_sha256(record, sha256_of(data));
  return data;
}

void Bundle::verify(const FileRecord& record) const {
  File file(path_of(record), record.path);
  std::vector<char> buffer(block);
  Sha256 digest;
  std::int64_t size = 0;
  while (size <= record.size) {
    const std::size_t got = file.read(buffer.data(), buffer.size());
    if (got == 0) break;
    digest.add(buffer.data(), got);
    size += static_cast<std::int64_t>(got);
  }
  check_size(record, size);
  check_sha256(record, digest.digits());
}

std::optional<std::vector<std::string>> Bundle::labels() const {
  if (!manifest_.labels) return std::nullopt;
  std::string text = read(*manifest_.labels);
  if (const auto bad = json::first_bad_byte(text)) {
    throw bundle_error(path_ + ": labels.txt is not UTF-8 at byte " + std::to_string(*bad));
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  std::vector<std::string> labels;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    labels.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  const auto& shape = manifest_.outputs.front().shape;
  if (shape.size() != 1 || shape[0] != static_cast<std::int64_t>(labels.size())) {
    std::string found = shape.size() == 1 ? std::to_string(shape[0]) + " classes" : "an output of the shape " + shape_text(shape);
    throw bundle_error(path_ + ": labels.txt has " + std::to_string(labels.size()) + " labels, and the model has " +
                       found + ": export the model again with one label a class");
  }
  return labels;
}

std::string Bundle::path_of(const FileRecord& record) const {
  for (std::size_t slash = record.path.find('/'); slash != std::string::npos; slash = record.path.find('/', slash + 1)) {
    if (is_link(path_ + "/" + record.path.substr(0, slash))) {
      throw bundle_error(path_ + ": " + record.path + " goes through a link, and a bundle holds none");
    }
  }
  return (std::filesystem::path(path_) / record.path).string();
}

void Bundle::check_size(const FileRecord& record, std::int64_t size) const {
  if (size == record.size) return;
  const std::string found = size > record.size ? "more" : std::to_string(size) + " bytes";
  throw bundle_error(path_ + ": the manifest lists " + record.path + " with " + std::to_string(record.size) +
                     " bytes, and it has " + found + ": copy the bundle again");
}

void Bundle::check_sha256(const FileRecord& record, const std::string& digest) const {
  if (digest == record.sha256) return;
  throw bundle_error(path_ + ": " + record.path + " does not match the SHA-256 in the manifest: copy the bundle again");
}

}  // namespace resnet
