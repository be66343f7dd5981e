// XXH3-64 (libxxhash) and SHA-256 (libcrypto). Only this file and checksum.cpp know which library.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace polykv::format {

std::uint64_t xxh3_64(std::span<const std::byte> bytes, std::uint64_t seed = 0);

using Digest = std::array<std::uint8_t, 32>;

Digest sha256(std::span<const std::byte> bytes);

// Incremental SHA-256.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void update(std::span<const std::byte> bytes);
  Digest finish();  // once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace polykv::format
