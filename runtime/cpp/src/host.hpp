// What the libraries do not see of this host, and the user's cache folder.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace resnet {

/// The control group's quota of time, rounded up to cores; none where it is no less than the cores that are visible.
std::optional<int> quota_in_cores();

/// SHA-256 of the processors' model names and flags, and of what limits them; none where the system does not tell them.
std::optional<std::string> cpu_digest();

/// What a library compiled, kept for the next process. What cannot be read or written is made anew.
class CompiledCache {
 public:
  /// @param library  as the folder is named
  explicit CompiledCache(const std::string& library);

  /// Whether there is something to load, whole or not.
  bool holds(const std::string& depends_on) const;

  /// What was stored under the digest of `depends_on`, where it is whole and this user's own.
  std::optional<std::string> load(const std::string& depends_on) const;

  void store(const std::string& depends_on, const std::string& data) const;

 private:
  std::string path(const std::string& depends_on) const;
  void prune(const std::string& newest) const;

  std::string folder_;  // empty where there is no home
};

}  // namespace resnet
