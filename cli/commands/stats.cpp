// polykv stats POOL...: what a pool costs, exactly, and what compression did to the model's answers.
#include <nlohmann/json.hpp>

#include "cli/commands/commands.h"
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

ordered_json to_json(const std::string& path, const PoolMemory& memory, std::uint32_t agents,
                     const ordered_json& fidelity) {
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

std::string to_text(const PoolMemory& memory, std::uint32_t agents, const ordered_json& fidelity) {
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
  return text + fidelity_text(fidelity);
}

}  // namespace

int run_stats(const Options& options, Report& report) {
  bool first = true;
  return for_each_pool(options.operands, report, [&](const std::string& path) {
    const auto pool = open_pool_file(path, options.trust, report);
    if (!pool) return report_pool_error(path, pool.error(), kSchema, options.json, report);
    const auto memory = measure_pool_memory((*pool)->reader);
    if (!memory) return report_pool_error(path, memory.error(), kSchema, options.json, report);
    const auto fidelity = parse_fidelity((*pool)->reader.fidelity());
    if (!fidelity) return report_pool_error(path, fidelity.error(), kSchema, options.json, report);
    if (options.json) {
      report.print_line(to_json(path, *memory, options.agents, *fidelity));
    } else {
      report.print((first ? "" : "\n") + printable(path) + "\n" + to_text(*memory, options.agents, *fidelity));
    }
    first = false;
    return 0;
  });
}

}  // namespace polykv::cli
