// A pool and those it extends, opened together.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/commands/pool_file.h"
#include "cli/report.h"
#include "core/pool.h"
#include "format/status.h"

namespace polykv::cli {

// Base first, never empty; the last is the pool that was named.
class PoolChain {
 public:
  explicit PoolChain(std::vector<std::unique_ptr<PoolFile>> files);

  std::size_t size() const { return files_.size(); }
  const PoolFile& file(std::size_t i) const { return *files_[i]; }
  const PoolFile& last() const { return *files_.back(); }
  std::vector<const core::KvPool*> views() const;  // good while the chain lives, wherever it moves

  std::vector<std::uint32_t> token_ids() const;  // of all pools, in order

  // kShrunk or kChanged, naming the pool if it is not the last.
  format::Status check_unchanged() const;

 private:
  std::vector<std::unique_ptr<PoolFile>> files_;
  std::vector<std::unique_ptr<core::KvPool>> pools_;
};

struct ChainOptions {
  bool trust = false;
  std::vector<std::string> folders = {};  // --pool-path
  std::uint32_t trusted_owner = ~0u;      // as of open_pool_file
};

// One pool, if it has no parent. A parent is looked for by the digest of its superblock: in the folder of
// the pool that names it, in `folders`, in the user's index. Errors: those of open_pool_file, naming which; kMismatch:
// a parent is nowhere, or is not of the same model, tokenizer and template, or does not end where its child begins;
// kLimitExceeded: more than kMostPools.
inline constexpr std::size_t kMostPools = 256;
format::Result<PoolChain> open_pool_chain(const std::string& path, const ChainOptions& options, Report& report);

}  // namespace polykv::cli
