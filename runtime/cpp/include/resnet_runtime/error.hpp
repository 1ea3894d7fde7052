// The one exception of this library.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace resnet {

/// Whose fault it is; the names are those of Python's exceptions.
enum class ErrorKind { input, image, bundle, manifest, unavailable, backend, check, closed };

/// What went wrong, in one sentence that names the thing, what was found and how to mend it.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message, std::vector<std::string> details = {})
      : std::runtime_error(message), kind_(kind), details_(std::move(details)) {}

  ErrorKind kind() const noexcept { return kind_; }

  /// Findings that belong to the sentence, one each.
  const std::vector<std::string>& details() const noexcept { return details_; }

 private:
  ErrorKind kind_;
  std::vector<std::string> details_;
};

/// Python's name of the exception, such as "ManifestError".
const char* name_of(ErrorKind kind) noexcept;

}  // namespace resnet
