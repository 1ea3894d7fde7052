// A bundle on disk, opened: its manifest, and the bytes of its files, each checked against its digest.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "resnet_runtime/manifest.hpp"

namespace resnet {

class Bundle {
 public:
  /// Open the directory and parse its manifest. Throws Error (bundle, manifest).
  static Bundle open(const std::string& path);

  const std::string& path() const noexcept { return path_; }
  const Manifest& manifest() const noexcept { return manifest_; }

  /// The bytes of a listed file, of which size and SHA-256 were checked: those that were hashed. Throws Error (bundle).
  std::string read(const FileRecord& record) const;

  /// Check the size and the SHA-256 of a listed file, without holding it in memory. Throws Error (bundle).
  void verify(const FileRecord& record) const;

  /// The names of the classes, where the bundle has them. Throws Error (bundle).
  std::optional<std::vector<std::string>> labels() const;

 private:
  Bundle(std::string path, Manifest manifest) : path_(std::move(path)), manifest_(std::move(manifest)) {}

  std::string path_of(const FileRecord& record) const;
  void check_size(const FileRecord& record, std::int64_t size) const;
  void check_sha256(const FileRecord& record, const std::string& digest) const;

  std::string path_;
  Manifest manifest_;
};

}  // namespace resnet
