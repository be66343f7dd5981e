#include "cli/commands/pool_memory.h"

namespace polykv::cli {

using format::Error;
using format::ErrorCode;
using format::SectionKind;

format::Result<PoolMemory> measure_pool_memory(const format::PoolReader& reader) {
  PoolMemory memory;
  memory.tokens = reader.shape().num_tokens;
  memory.pool_bytes = reader.superblock().file_bytes;
  memory.parts.push_back({"superblock", format::kSuperblockBytes, false});
  std::uint64_t sum = format::kSuperblockBytes + format::kTrailerBytes;
  for (const format::SectionEntry& section : reader.sections()) {
    const bool is_kv = section.kind == SectionKind::kPages || section.kind == SectionKind::kSinks ||
                       section.kind == SectionKind::kMeans || section.kind == SectionKind::kLayout;
    memory.parts.push_back({format::section_name(section.kind), section.padded_bytes, is_kv});
    if (is_kv) memory.kv_bytes += section.padded_bytes;
    sum += section.padded_bytes;
  }
  memory.parts.push_back({"trailer", format::kTrailerBytes, false});
  if (sum != memory.pool_bytes) return Error(ErrorCode::kBadSectionTable, "the parts do not add up to the file's size");

  const format::KvShape& shape = reader.shape();
  const unsigned __int128 values =
      static_cast<unsigned __int128>(2) * shape.num_layers * shape.num_kv_heads * shape.head_dim * shape.num_tokens;
  constexpr std::uint64_t kMaxAgents = 1'000'000;
  if (values * 2 > UINT64_MAX / kMaxAgents) {
    return Error(ErrorCode::kLimitExceeded, "the shape's product is too large to count with");
  }
  memory.f16_kv_bytes = static_cast<std::uint64_t>(values) * 2;
  return memory;
}

}  // namespace polykv::cli
