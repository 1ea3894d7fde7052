// SHA-256, by OpenSSL.
#pragma once

#include <cstddef>
#include <string>

struct evp_md_ctx_st;

namespace resnet {

/// Of bytes that come in parts.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void add(const void* data, std::size_t size);

  /// 64 hexadecimal digits; once.
  std::string digits();

 private:
  evp_md_ctx_st* context_;
};

std::string sha256_of(const std::string& data);

}  // namespace resnet
