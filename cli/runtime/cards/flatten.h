// A chain of pools as one pool that stands alone. Nothing is quantized again: pages are copied, run by run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "core/pool.h"
#include "format/reader.h"
#include "format/status.h"
#include "format/writer.h"

namespace polykv::runtime {

struct ChainLink {
  const format::PoolReader* reader;
  const core::KvPool* pool;
};

// `chain` is base first. Answers are those of the chain, bit for bit but for the order of sums. Fidelity is not carried
// over: it was measured on the parts. Errors: kBadChecksum; those of PoolWriter.
format::Status flatten(std::span<const ChainLink> chain, const std::filesystem::path& path,
                       const format::WriterOptions& options, std::uint64_t created);

}  // namespace polykv::runtime
