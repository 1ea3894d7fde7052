#include "digest.hpp"

#include <openssl/evp.h>

#include <array>
#include <new>

namespace resnet {

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  if (context_ == nullptr || EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) != 1) {
    EVP_MD_CTX_free(context_);
    throw std::bad_alloc();
  }
}

Sha256::~Sha256() { EVP_MD_CTX_free(context_); }

void Sha256::add(const void* data, std::size_t size) {
  if (EVP_DigestUpdate(context_, data, size) != 1) throw std::bad_alloc();
}

std::string Sha256::digits() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  if (EVP_DigestFinal_ex(context_, digest.data(), &size) != 1) throw std::bad_alloc();
  static constexpr char hexadecimal[] = "0123456789abcdef";
  std::string text;
  for (unsigned int index = 0; index < size; ++index) {
    text += hexadecimal[digest[index] >> 4U];
    text += hexadecimal[digest[index] & 15U];
  }
  return text;
}

std::string sha256_of(const std::string& data) {
  Sha256 digest;
  digest.add(data.data(), data.size());
  return digest.digits();
}

}  // namespace resnet
