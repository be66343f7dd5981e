#include "cli/commands/extension.h"

#include <nlohmann/json.hpp>

#include "cli/commands/pool_memory.h"
#include "cli/runtime/cards/card_writer.h"

namespace polykv::cli {

using nlohmann::ordered_json;

ChainResult find_chain(const std::string& path, const Options& options, Report& report) {
  return open_pool_chain(path, {options.trust, options.pool_path}, report);
}

ordered_json parent_json(const format::PoolReader& reader, const ChainResult& chain) {
  ordered_json json = {{"name", nullptr},
                       {"superblock_sha256", format::to_hex(reader.superblock().parent_digest)},
                       {"found", nullptr},
                       {"error", nullptr}};
  if (const auto name = reader.identity().get(runtime::kParentNameField)) json["name"] = *name;
  if (chain) {
    json["found"] = chain->file(chain->size() - 2).file.path().string();
  } else {
    json["error"] = error_json(chain.error());
  }
  return json;
}

std::string parent_text(const format::PoolReader& reader, const ChainResult& chain) {
  const std::string name(reader.identity().get(runtime::kParentNameField).value_or("a pool without a name"));
  if (chain) return printable(name) + ", found as " + printable(chain->file(chain->size() - 2).file.path().string());
  return printable(name) + ": NOT USABLE: " + printable(chain.error().message);
}

format::Result<ChainSize> measure_chain(const PoolChain& chain) {
  ChainSize size{.num_pools = chain.size()};
  for (std::size_t i = 0; i < chain.size(); ++i) {
    POLYKV_TRY(const PoolMemory memory, measure_pool_memory(chain.file(i).reader));
    size.tokens += memory.tokens;
    size.bytes += memory.pool_bytes;
    size.f16_kv_bytes += memory.f16_kv_bytes;
  }
  return size;
}

}  // namespace polykv::cli
