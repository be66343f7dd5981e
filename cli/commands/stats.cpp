// polykv stats POOL...: what a pool costs, exactly, and what compression did to the model's answers.
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands/commands.h"
#include "cli/commands/live_readers.h"
#include "cli/commands/pool_file.h"
#include "cli/commands/pool_memory.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using nlohmann::ordered_json;

constexpr const char* kSchema = "polykv.stats/1";
constexpr int kMaxFidelityDepth = 8;  // ours has 3; printing what is nested is recursive

// The section's JSON; null if nothing was measured.
format::Result<ordered_json> parse_fidelity(std::string_view text) {
  if (text.empty()) return ordered_json();
  bool too_deep = false;
  const auto limit = [&too_deep](int depth, ordered_json::parse_event_t, ordered_json&) {
    too_deep = too_deep || depth > kMaxFidelityDepth;
    return !too_deep;
  };
  ordered_json json = ordered_json::parse(text, limit, false);
  if (too_deep || !json.is_object()) {
    return Error(ErrorCode::kMalformed, "section fidelity is not a JSON object nested at most 8 deep");
  }
  return json;
}

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

ordered_json to_json(const std::string& path, const PoolMemory& memory, std::uint32_t agents,
                     const ordered_json& fidelity, const std::optional<LiveReaders>& live) {
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
  json["agents"] = {
      {"n", agents}, {"bytes", memory.pool_bytes}, {"without_sharing_bytes", agents * memory.f16_kv_bytes}};
  if (live) add_live_json(*live, memory.pool_bytes, json);
  json["fidelity"] = fidelity;
  return json;
}

std::string line(const std::string& name, const std::string& value) {
  return "  " + name + std::string(name.size() < 20 ? 20 - name.size() : 1, ' ') + value + "\n";
}

// A probe's numbers by their names in --json, several to a line.
std::string fidelity_text(const ordered_json& fidelity) {
  if (fidelity.is_null()) return line("fidelity", "not measured: the pool was built without probes");
  std::string text = "  fidelity\n";
  for (const auto& [name, probe] : fidelity.items()) {
    if (!probe.is_object()) {
      text += "    " + printable(name) + ": " + printable(probe.dump(-1, ' ', true)) + "\n";
      continue;
    }
    std::string numbers;
    for (const auto& [key, value] : probe.items()) {
      numbers += (numbers.empty() ? "" : ", ") + printable(key) + " " + printable(value.dump(-1, ' ', true));
    }
    text += "    " + printable(name) + ": " + numbers + "\n";
  }
  return text;
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

std::string to_text(const PoolMemory& memory, std::uint32_t agents, const ordered_json& fidelity,
                    const std::optional<LiveReaders>& live) {
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
  text += line(who, bytes_text(memory.pool_bytes) + " shared; " + bytes_text(agents * memory.f16_kv_bytes) +
                        " in float16 without sharing");
  if (live) text += live_text(*live, memory.pool_bytes);
  return text + fidelity_text(fidelity);
}

// `pool` is closed, so that this process is none of its readers.
format::Result<LiveReaders> look_for_readers(std::unique_ptr<PoolFile> pool) {
  POLYKV_TRY(const MapName name, find_map_name("/proc", pool->file.bytes().data()));
  pool.reset();
  return find_live_readers("/proc", name);
}

}  // namespace

int run_stats(const Options& options, Report& report) {
  bool first = true;
  return for_each_pool(options.operands, report, [&](const std::string& path) {
    auto pool = open_pool_file(path, options.trust, report);
    if (!pool) return report_pool_error(path, pool.error(), kSchema, options.json, report);
    const auto memory = measure_pool_memory((*pool)->reader);
    if (!memory) return report_pool_error(path, memory.error(), kSchema, options.json, report);
    const auto fidelity = parse_fidelity((*pool)->reader.fidelity());
    if (!fidelity) return report_pool_error(path, fidelity.error(), kSchema, options.json, report);
    std::optional<LiveReaders> live;
    if (options.live) {
      auto found = look_for_readers(std::move(*pool));
      if (!found) return report_pool_error(path, found.error(), kSchema, options.json, report);
      live = std::move(*found);
      notice_unreadable(path, live->unreadable, report);
    }
    if (options.json) {
      report.print_line(to_json(path, *memory, options.agents, *fidelity, live));
    } else {
      report.print((first ? "" : "\n") + printable(path) + "\n" + to_text(*memory, options.agents, *fidelity, live));
    }
    first = false;
    return 0;
  });
}

}  // namespace polykv::cli
