#include "format/checksum.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include <new>

namespace polykv::format {

std::uint64_t xxh3_64(std::span<const std::byte> bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();

  // libcrypto fails here only for want of memory.
  State() {
    if (context == nullptr || EVP_DigestInit_ex(context, EVP_sha256(), nullptr) != 1) throw std::bad_alloc();
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> bytes) {
  if (EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) != 1) throw std::bad_alloc();
}

Digest Sha256::finish() {
  Digest digest{};
  unsigned int digest_bytes = 0;
  if (EVP_DigestFinal_ex(state_->context, digest.data(), &digest_bytes) != 1) throw std::bad_alloc();
  return digest;
}

Digest sha256(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

}  // namespace polykv::format
