// polykv stats POOL...: what a pool costs, exactly, and what compression did to the model's answers.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands/commands.h"
#include "cli/commands/desk.h"
#include "cli/commands/extension.h"
#include "cli/commands/fidelity_page.h"
#include "cli/commands/fidelity_section.h"
#include "cli/commands/fidelity_text.h"
#include "cli/commands/kept_positions.h"
#include "cli/commands/live_readers.h"
#include "cli/commands/measure.h"
#include "cli/commands/pool_file.h"
#include "cli/commands/pool_memory.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using nlohmann::ordered_json;

constexpr const char* kSchema = "polykv.stats/1";

// What --measure found.
struct Measurement {
  ordered_json fidelity;
  std::vector<Agreement> agreements;

  bool agrees() const {
    return std::all_of(agreements.begin(), agreements.end(), [](const Agreement& a) { return a.holds(); });
  }
};

// The readers' sums.
struct LiveTotal {
  std::uint64_t pss_bytes = 0, private_bytes = 0, shared_bytes = 0, without_sharing_bytes = 0;

  LiveTotal(const LiveReaders& live, std::uint64_t pool_bytes) {
    for (const LiveReader& reader : live.readers) {
      pss_bytes += reader.pss_bytes;
      private_bytes += reader.private_bytes;
      shared_bytes += reader.shared_bytes;
      without_sharing_bytes += reader.without_sharing_bytes(pool_bytes);
    }
  }
};

void add_live_json(const LiveReaders& live, std::uint64_t pool_bytes, ordered_json& json) {
  json["live"] = ordered_json::array();
  for (const LiveReader& reader : live.readers) {
    json["live"].push_back({{"pid", reader.process.pid},
                            {"name", reader.process.name},
                            {"pss_bytes", reader.pss_bytes},
                            {"private_bytes", reader.private_bytes},
                            {"shared_bytes", reader.shared_bytes},
                            {"pool_pss_bytes", reader.pool_pss_bytes}});
  }
  const LiveTotal total(live, pool_bytes);
  json["live_total"] = {{"n", live.readers.size()},
                        {"pss_bytes", total.pss_bytes},
                        {"private_bytes", total.private_bytes},
                        {"shared_bytes", total.shared_bytes},
                        {"without_sharing_bytes", total.without_sharing_bytes},
                        {"older_pool_processes", live.num_older},
                        {"unreadable_processes", live.unreadable.size()}};
}

ordered_json to_json(const std::string& path, const PoolMemory& memory, const KeptSummary& kept, std::uint32_t agents,
                     const ordered_json& fidelity, const std::optional<LiveReaders>& live,
                     const std::optional<Measurement>& measurement, const std::optional<ChainSize>& chain) {
  const auto kv_bytes = static_cast<double>(memory.kv_bytes);
  ordered_json json = {{"schema", kSchema},
                       {"pool", path},
                       {"tokens", memory.tokens},
                       {"pool_bytes", memory.pool_bytes},
                       {"kv_bytes", memory.kv_bytes},
                       {"other_bytes", memory.pool_bytes - memory.kv_bytes},
                       {"f16_kv_bytes", memory.f16_kv_bytes},
                       {"bits_per_value", 8 * kv_bytes / static_cast<double>(memory.f16_kv_bytes / 2)},
                       {"ratio", static_cast<double>(memory.f16_kv_bytes) / kv_bytes}};
  for (const PoolPart& part : memory.parts) json["parts"].push_back({{"name", part.name}, {"bytes", part.bytes}});
  if (chain) {
    json["chain"] = {{"pools", chain->num_pools},
                     {"tokens", chain->tokens},
                     {"pool_bytes", chain->bytes},
                     {"f16_kv_bytes", chain->f16_kv_bytes}};
  }
  const std::uint64_t shared = chain ? chain->bytes : memory.pool_bytes;
  const std::uint64_t f16_bytes = chain ? chain->f16_kv_bytes : memory.f16_kv_bytes;
  json["agents"] = {{"n", agents}, {"bytes", shared}, {"without_sharing_bytes", agents * f16_bytes}};
  if (!kept.keeps_all()) json["kept"] = kept_json(kept);
  if (live) add_live_json(*live, memory.pool_bytes, json);
  json["fidelity"] = fidelity;
  if (measurement) {
    json["measured"] = measurement->fidelity;
    json["agrees"] = measurement->agreements.empty() ? ordered_json() : ordered_json(measurement->agrees());
  }
  return json;
}

std::string line(const std::string& name, const std::string& value) {
  return "  " + name + std::string(name.size() < 20 ? 20 - name.size() : 1, ' ') + value + "\n";
}

std::string processes(std::size_t count, const char* one, const char* several) {
  return count == 1 ? std::string("1 process ") + one : with_commas(count) + " processes " + several;
}

std::string live_text(const LiveReaders& live, std::uint64_t pool_bytes) {
  std::string text;
  if (live.readers.empty()) {
    text = line("live", "no process maps the pool");
  } else {
    const LiveTotal total(live, pool_bytes);
    text =
        line("live", processes(live.readers.size(), "maps", "map") + " the pool: PSS " + short_bytes(total.pss_bytes) +
                         " in all, " + short_bytes(total.without_sharing_bytes) + " with copies of their own");
  }
  for (const LiveReader& reader : live.readers) {
    text += line("  " + std::to_string(reader.process.pid) + " " + printable(reader.process.name),
                 "PSS " + short_bytes(reader.pss_bytes) + ", the pool's part " + short_bytes(reader.pool_pss_bytes) +
                     "; private " + short_bytes(reader.private_bytes) + ", shared " + short_bytes(reader.shared_bytes));
  }
  if (live.num_older > 0) {
    text += line("", processes(live.num_older, "still maps", "still map") + " an older pool of this path");
  }
  return text;
}

// Whom we could not look at, some by name.
void notice_unreadable(const std::string& path, const std::vector<ProcessName>& unreadable, Report& report) {
  constexpr std::size_t kNamed = 8;
  if (unreadable.empty()) return;
  std::string names;
  for (std::size_t i = 0; i < std::min(kNamed, unreadable.size()); ++i) {
    names += (i > 0 ? ", " : "") + std::to_string(unreadable[i].pid) + " " + unreadable[i].name;
  }
  if (unreadable.size() > kNamed) names += " and " + with_commas(unreadable.size() - kNamed) + " more";
  report.notice(path, processes(unreadable.size(), "is", "are") + " not counted, for want of permission to look: " +
                          names + (geteuid() == 0 ? "" : "; root may look"));
}

std::string measurement_text(const Measurement& measurement) {
  std::string text = fidelity_text("measured now", measurement.fidelity);
  for (const Agreement& one : measurement.agreements) {
    char numbers[96];
    std::snprintf(numbers, sizeof numbers, "apart by %.6f, at most %.6f", std::fabs(one.measured - one.stored),
                  one.bound);
    text += "    " + one.probe + ": " + numbers + (one.holds() ? ": agree\n" : ": DO NOT AGREE\n");
  }
  if (measurement.agreements.empty() && measurement.fidelity.contains("tail"))
    text += "    the pool has no fidelity to compare it with\n";
  return text;
}

std::string to_text(const PoolMemory& memory, const KeptSummary& kept, std::uint32_t agents,
                    const ordered_json& fidelity, const std::optional<LiveReaders>& live,
                    const std::optional<Measurement>& measurement, const std::optional<ChainSize>& chain) {
  std::string text = line("tokens", with_commas(memory.tokens)) + line("file", bytes_text(memory.pool_bytes));
  for (const PoolPart& part : memory.parts) {
    const std::string bytes = with_commas(part.bytes);
    text += "    " + std::string(part.name) + std::string(part.name.size() < 18 ? 18 - part.name.size() : 1, ' ') +
            std::string(bytes.size() < 18 ? 18 - bytes.size() : 0, ' ') + bytes + " bytes" + (part.is_kv ? "  *" : "") +
            "\n";
  }
  text +=
      line("keys and values *", bytes_text(memory.kv_bytes) + ", " +
                                    rounded_up(8 * memory.kv_bytes, memory.f16_kv_bytes / 2, 3) + " bits per value");
  text += line("as float16", bytes_text(memory.f16_kv_bytes) + ", " +
                                 rounded_down(memory.f16_kv_bytes, memory.kv_bytes, 2) + " times as much");
  const std::string who = with_commas(agents) + (agents == 1 ? " agent" : " agents");
  if (chain) {
    text += line("with those it extends", with_commas(chain->num_pools) + " pools, " + with_commas(chain->tokens) +
                                              " tokens, " + bytes_text(chain->bytes));
  }
  text += line(who, bytes_text(chain ? chain->bytes : memory.pool_bytes) + " shared; " +
                        bytes_text(agents * (chain ? chain->f16_kv_bytes : memory.f16_kv_bytes)) +
                        " in float16 without sharing");
  text += kept_text(kept, fidelity);
  if (live) text += live_text(*live, memory.pool_bytes);
  text += fidelity.is_null() ? line("fidelity", "not measured: the pool was built without probes")
                             : fidelity_text("fidelity, compressed against uncompressed", fidelity);
  if (measurement) text += measurement_text(*measurement);
  return text;
}

// Why the status is 1.
Error disagreement(const Measurement& measurement) {
  std::string probes;
  for (const Agreement& one : measurement.agreements) {
    if (!one.holds()) probes += (probes.empty() ? "" : ", ") + one.probe;
  }
  return Error(ErrorCode::kFailed, "what is measured now does not agree with what the pool says (" + probes +
                                       "): build it again, or see whether the model or polykv changed");
}

// `pool` is closed, so that this process is none of its readers.
format::Result<LiveReaders> look_for_readers(std::unique_ptr<PoolFile> pool) {
  POLYKV_TRY(const MapName name, find_map_name("/proc", pool->file.bytes().data()));
  pool.reset();
  return find_live_readers("/proc", name);
}

// One pool; the exit status.
format::Result<int> show_pool(const std::string& path, bool first, const Options& options, Report& report) {
  std::unique_ptr<PoolFile> pool;
  std::unique_ptr<Desk> desk;
  if (options.measure) {
    POLYKV_TRY(desk, open_desk(path, options, report));
  } else {
    POLYKV_TRY(pool, open_pool_file(path, options.trust, report));
  }
  const format::PoolReader& reader = (desk ? desk->pool() : *pool).reader;
  POLYKV_TRY(const PoolMemory memory, measure_pool_memory(reader));
  POLYKV_TRY(const ordered_json fidelity, parse_fidelity(reader.fidelity()));
  const KeptSummary kept = summarize_kept(reader);
  std::optional<ChainSize> chain;
  if (reader.superblock().has_parent()) {
    POLYKV_TRY(const PoolChain pools, find_chain(path, options, report));
    POLYKV_TRY(chain, measure_chain(pools));
  }
  std::optional<Measurement> measurement;
  if (desk) {
    measurement.emplace();
    POLYKV_TRY(measurement->fidelity, measure_fidelity(path, options, *desk, fidelity, report));
    measurement->agreements = compare_fidelity(fidelity, measurement->fidelity);
    desk.reset();
  }
  std::optional<LiveReaders> live;
  if (options.live) {
    if (!pool) {
      POLYKV_TRY(pool, open_pool_file(path, options.trust, report));
    }
    POLYKV_TRY(live, look_for_readers(std::move(pool)));
    notice_unreadable(path, live->unreadable, report);
  }
  if (options.json) {
    report.print_line(to_json(path, memory, kept, options.agents, fidelity, live, measurement, chain));
  } else {
    report.print((first ? "" : "\n") + printable(path) + "\n" +
                 to_text(memory, kept, options.agents, fidelity, live, measurement, chain));
  }
  if (!measurement || measurement->agrees()) return 0;
  report.flush();
  return report.error(path, disagreement(*measurement));
}

}  // namespace

int run_stats(const Options& options, Report& report) {
  if (!options.text.empty() && !options.measure) {
    return report.error({}, Error(ErrorCode::kUsage, "--text needs --measure; see polykv stats --help"));
  }
  if (!options.html.empty()) {
    const int status = write_fidelity_page(options, kSchema, report);
    if (status != 0 || options.html == "-") return status;
  }
  bool first = true;
  return for_each_pool(options.operands, report, [&](const std::string& path) {
    const auto status = show_pool(path, first, options, report);
    if (!status) return report_pool_error(path, status.error(), kSchema, options.json, report);
    first = false;
    return *status;
  });
}

}  // namespace polykv::cli
