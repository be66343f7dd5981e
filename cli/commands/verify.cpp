// polykv verify POOL...: every byte of the file against its checksums, and every unused slot against zero.
#include <nlohmann/json.hpp>

#include "cli/commands/commands.h"
#include "cli/commands/extension.h"
#include "cli/commands/pool_file.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "core/codec.h"
#include "format/messages.h"
#include "format/page_layout.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::PoolReader;
using format::SectionEntry;
using format::Status;
using nlohmann::ordered_json;

constexpr const char* kSchema = "polykv.verify/1";

// Thrown by the progress callback, the only way out of PoolReader::verify before its end; caught in this file.
struct Stopped {};

// Slots past a run's positions, and padding inside pages: `format` does not know codecs, so it cannot check these.
Status check_page_padding(const PoolReader& reader) {
  const SectionEntry* section = format::find_section(reader.sections(), format::SectionKind::kPages);
  const std::uint32_t head_dim = reader.shape().head_dim;
  for (std::size_t head = 0; head < reader.layout().runs.size(); ++head) {
    for (const format::Run& run : reader.layout().runs[head]) {
      POLYKV_CHECK_STATUS(check_stop());
      const std::uint32_t positions = reader.layout().position_sets[run.position_set].num_positions();
      const std::size_t bytes = format::run_bytes(run.key_codec, run.value_codec, head_dim, positions);
      const auto pages = reader.pages().subspan(run.pages_offset, bytes);
      const Status status = core::check_run_padding({run.key_codec, run.value_codec}, pages, positions, head_dim);
      if (status) continue;
      const std::uint64_t offset = section->offset + run.pages_offset + status.error().offset;
      const std::size_t num_kv_heads = reader.shape().num_kv_heads;
      return Error(status.error().code, offset,
                   "section pages, layer " + std::to_string(head / num_kv_heads) + ", kv_head " +
                       std::to_string(head % num_kv_heads) + " at " + format::hex_offset(offset) +
                       ": an unused slot is not zero");
    }
  }
  return {};
}

Status verify_pool(const PoolFile& pool, bool digests, Report& report) {
  Progress progress(report);
  try {
    POLYKV_CHECK_STATUS(pool.reader.verify(digests, [&](std::uint64_t done, std::uint64_t total) {
      if (stop_requested()) throw Stopped{};
      progress.update(done, total, "B", "verify");
    }));
  } catch (const Stopped&) {
    return check_stop();
  }
  POLYKV_CHECK_STATUS(check_page_padding(pool.reader));
  return pool.file.check_unchanged();
}

ordered_json fault_json(const Error& error, const PoolFile* pool) {
  ordered_json json = error_json(error);
  if (pool == nullptr || error.offset == format::kNoOffset) return json;
  for (const SectionEntry& section : pool->reader.sections()) {
    if (error.offset < section.offset || error.offset >= section.offset + section.padded_bytes) continue;
    json["section"] = format::section_name(section.kind);
    if (section.num_chunks > 0) {
      json["chunk"] = (error.offset - section.offset) / format::kChunkBytes;
    }
  }
  return json;
}

int verify_one(const std::string& path, const Options& options, Report& report) {
  const auto pool = open_pool_file(path, options.trust, report);
  Status status = pool ? verify_pool(**pool, options.digest, report) : Status(pool.error());
  if (status && (*pool)->reader.superblock().has_parent()) {  // its own bytes are good; without those they are no use
    if (const ChainResult chain = find_chain(path, options, report); !chain) status = chain.error();
  }
  if (!status) {
    const PoolFile* open = pool ? pool->get() : nullptr;
    if (options.json) {
      report.print_line(
          {{"schema", kSchema}, {"pool", path}, {"ok", false}, {"error", fault_json(status.error(), open)}});
    }
    return report.error(path, status.error());
  }
  const format::Superblock& block = (*pool)->reader.superblock();
  if (options.json) {
    report.print_line({{"schema", kSchema},
                       {"pool", path},
                       {"ok", true},
                       {"pool_bytes", block.file_bytes},
                       {"chunks", block.num_chunks},
                       {"digests", options.digest},
                       {"error", nullptr}});
  } else {
    report.print(printable(path) + ": ok, " + bytes_text(block.file_bytes) + ", " + with_commas(block.num_chunks) +
                 " chunks" + (options.digest ? ", SHA-256 too" : "") + "\n");
  }
  return 0;
}

}  // namespace

int run_verify(const Options& options, Report& report) {
  return for_each_pool(options.operands, report,
                       [&](const std::string& path) { return verify_one(path, options, report); });
}

}  // namespace polykv::cli
