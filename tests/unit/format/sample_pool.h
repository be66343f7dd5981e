// Small pools of random bytes for the tests of format, which does not care what numbers pages hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "format/reader.h"
#include "format/status.h"
#include "format/writer.h"

namespace polykv::tests {

// What a pool is made of: enough to write it, and to compare with what a reader finds.
struct SamplePool {
  format::PoolSpec spec;
  std::vector<std::vector<format::ScaleExponents>> exponents;  // [num_layers][run]
  std::vector<std::vector<std::byte>> pages, sinks, means;     // [num_layers]
  std::string fidelity;
};

// A folder of its own, removed with everything in it.
class TemporaryFolder {
 public:
  TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const char* name) const { return path_ / name; }
  // Names of what is in it, sorted.
  std::vector<std::string> names() const;

 private:
  std::filesystem::path path_;
};

// 1 layer, 1 head, 8 dims, 21 tokens, k5v4: about 13 KiB. Every optional section is there.
SamplePool tiny_sample(std::uint64_t seed = 1);
// Anything valid: shapes, codecs, several runs a head, position sets that are ranges or bitmaps, few tokens.
SamplePool random_sample(std::mt19937_64& random);
// Fills exponents, pages, sinks and means anew, for the spec's layout.
void fill_values(SamplePool& sample, std::mt19937_64& random);

format::Status write_pool(const SamplePool& sample, const std::filesystem::path& path, bool force = false,
                          std::uint32_t mode = 0600);
// The file's bytes. The tests that use it do not expect errors: it throws.
std::vector<std::byte> pool_bytes(const SamplePool& sample);
std::vector<std::byte> bytes_at(const std::filesystem::path& path);

// What open, and then verify with digests, say: the first error, or success.
format::Status open_and_verify(std::span<const std::byte> pool);
// 0 for success, else the number of the error's code.
std::uint32_t code_of(const format::Status& status);

}  // namespace polykv::tests
