// What can be said of a pool as one that extends another: where its parent is, and how much the whole chain has.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cli/commands/pool_chain.h"
#include "cli/options.h"
#include "cli/report.h"
#include "format/reader.h"

namespace polykv::cli {

// A pool's chain, or why it cannot be had.
using ChainResult = format::Result<PoolChain>;
ChainResult find_chain(const std::string& path, const Options& options, Report& report);

// {name, superblock_sha256, found, error}
nlohmann::ordered_json parent_json(const format::PoolReader& reader, const ChainResult& chain);

// "auto.pkv, found as ./auto.pkv", or what is wrong. For one line.
std::string parent_text(const format::PoolReader& reader, const ChainResult& chain);

struct ChainSize {
  std::size_t num_pools = 0;
  std::uint64_t tokens = 0, bytes = 0, f16_kv_bytes = 0;
};
format::Result<ChainSize> measure_chain(const PoolChain& chain);

}  // namespace polykv::cli
