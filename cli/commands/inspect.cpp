// polykv inspect POOL...: what is in the file. Reads metadata only; prints no text of the document.
#include <algorithm>
#include <ctime>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands/commands.h"
#include "cli/commands/extension.h"
#include "cli/commands/kept_chart.h"
#include "cli/commands/plan_chart.h"
#include "cli/commands/pool_file.h"
#include "cli/commands/token_bits.h"
#include "cli/runtime/cards/card_writer.h"
#include "core/codec.h"
#include "format/page_layout.h"

namespace polykv::cli {
namespace {

using format::PoolReader;
using format::SectionEntry;
using nlohmann::ordered_json;

constexpr const char* kSchema = "polykv.inspect/1";

// All runs with one codec pair.
struct CodecSummary {
  std::uint64_t runs = 0, positions = 0, page_bytes = 0;
};

std::map<std::string, CodecSummary> summarize_codecs(const PoolReader& reader) {
  std::map<std::string, CodecSummary> codecs;
  const std::vector<std::uint32_t> set_sizes = position_set_sizes(reader.layout());
  for (const auto& head : reader.layout().runs) {
    for (const format::Run& run : head) {
      const std::uint32_t positions = set_sizes[run.position_set];
      CodecSummary& codec = codecs[core::codec_name({run.key_codec, run.value_codec})];
      ++codec.runs;
      codec.positions += positions;
      codec.page_bytes += format::run_bytes(run.key_codec, run.value_codec, reader.shape().head_dim, positions);
    }
  }
  return codecs;
}

// Each run's codecs, head after head.
ordered_json plan_json(const PoolReader& reader) {
  ordered_json plan = ordered_json::array();
  const format::Layout& layout = reader.layout();
  const std::vector<std::uint32_t> set_sizes = position_set_sizes(layout);
  for (std::size_t head = 0; head < layout.runs.size(); ++head) {
    for (const format::Run& run : layout.runs[head]) {
      plan.push_back({{"layer", head / reader.shape().num_kv_heads},
                      {"kv_head", head % reader.shape().num_kv_heads},
                      {"key", key_codec_name(run.key_codec)},
                      {"value", value_codec_name(run.value_codec)},
                      {"positions", set_sizes[run.position_set]}});
    }
  }
  return plan;
}

// [layer][cell]: the share that is kept.
ordered_json kept_json(const KeptMap& map) {
  ordered_json json = ordered_json::array();
  for (std::size_t layer = 0; layer < map.num_layers; ++layer) {
    json.push_back(ordered_json::array());
    for (std::size_t cell = 0; cell < map.num_cells; ++cell) json.back().push_back(map.share(layer, cell));
  }
  return json;
}

struct TextSummary {
  std::uint64_t text_bytes = 0;
  std::uint64_t open_text_bytes = 0;  // after the last token: tokenized together with each question
};

format::Result<TextSummary> summarize_text(const PoolFile& pool) {
  TextSummary text;
  const SectionEntry* source = format::find_section(pool.reader.sections(), format::SectionKind::kSource);
  if (source == nullptr) return text;
  POLYKV_TRY(text.text_bytes, format::source_text_bytes(pool.file.bytes().subspan(source->offset, source->bytes)));
  const auto& ends = pool.reader.tokens().text_end;
  text.open_text_bytes = text.text_bytes - (ends.empty() ? 0 : ends.back());
  return text;
}

std::vector<std::pair<std::string, const format::Digest*>> fingerprints(const format::Superblock& block) {
  return {{"model", &block.model_fingerprint},
          {"tokenizer", &block.tokenizer_fingerprint},
          {"document", &block.document_fingerprint},
          {"tokens", &block.tokens_fingerprint},
          {"codec", &block.codec_fingerprint}};
}

std::string version_text(const format::Superblock& block) {
  return std::to_string(block.format_major) + "." + std::to_string(block.format_minor);
}

// What is asked of a card.
void add_card_json(const PoolReader& reader, const ChainResult& chain, ordered_json& json) {
  json["parent"] = parent_json(reader, chain);
  json["bits_per_value"] = bits_per_value(reader);
  json["token_bits"] = token_bits(reader);
}

ordered_json to_json(const std::string& path, const PoolFile& pool, const TextSummary& text,
                     const std::optional<ChainResult>& chain) {
  const PoolReader& reader = pool.reader;
  const format::Superblock& block = reader.superblock();
  ordered_json json = {{"schema", kSchema},
                       {"pool", path},
                       {"format_version", version_text(block)},
                       {"writer", block.writer},
                       {"min_reader", block.min_reader},
                       {"file_id", format::to_hex(block.file_id)},
                       {"pool_bytes", block.file_bytes},
                       {"created", nullptr},
                       {"tokens", reader.shape().num_tokens},
                       {"first_position", reader.first_position()},
                       {"num_sinks", reader.num_sinks()},
                       {"text_bytes", text.text_bytes},
                       {"open_text_bytes", text.open_text_bytes},
                       {"shape",
                        {{"num_layers", reader.shape().num_layers},
                         {"num_kv_heads", reader.shape().num_kv_heads},
                         {"head_dim", reader.shape().head_dim},
                         {"num_tokens", reader.shape().num_tokens}}},
                       {"fidelity_measured", !reader.fidelity().empty()},
                       {"num_position_sets", reader.layout().position_sets.size()},
                       {"num_chunks", block.num_chunks}};
  if (block.created != 0) json["created"] = block.created;
  json["codecs"] = ordered_json::array();
  for (const auto& [codec, summary] : summarize_codecs(reader)) {
    json["codecs"].push_back({{"codec", codec},
                              {"runs", summary.runs},
                              {"positions", summary.positions},
                              {"page_bytes", summary.page_bytes}});
  }
  if (chain) add_card_json(reader, *chain, json);
  json["plan"] = plan_json(reader);
  if (const KeptMap kept = kept_map(reader, kChartCells); !kept.keeps_all()) json["kept"] = kept_json(kept);
  for (const auto& [name, digest] : fingerprints(block)) json["fingerprints"][name] = format::to_hex(*digest);
  json["features"] = {
      {"compat", block.features_compat}, {"rewrite", block.features_rewrite}, {"incompat", block.features_incompat}};
  json["identity"] = ordered_json::object();
  for (const auto& [name, value] : reader.identity().fields()) json["identity"][name] = value;
  for (const SectionEntry& section : reader.sections()) {
    json["sections"].push_back({{"name", format::section_name(section.kind)},
                                {"kind", static_cast<std::uint32_t>(section.kind)},
                                {"offset", section.offset},
                                {"bytes", section.bytes},
                                {"padded_bytes", section.padded_bytes}});
  }
  return json;
}

std::string row(const std::string& name, const std::string& value) {
  return "  " + name + std::string(name.size() < 14 ? 14 - name.size() : 1, ' ') + value + "\n";
}

std::string created_text(std::uint64_t created) {
  // Any number may stand there. From the year 10000 on it is no date, and from 2^63 on no time_t: that would be
  // negative.
  constexpr std::uint64_t kYear10000 = 253402300800;
  if (created == 0) return "not recorded";
  if (created >= kYear10000) return std::to_string(created) + " seconds after 1970-01-01";
  const auto time = static_cast<std::time_t>(created);
  std::tm utc{};
  char text[64];
  gmtime_r(&time, &utc);
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &utc);
  return text;
}

// Long values (a system turn may be a page) are cut; --json has them whole.
std::string shown(std::string_view value) {
  const std::string text = printable(value);
  constexpr std::size_t kMost = 100;
  return text.size() <= kMost ? text : text.substr(0, kMost) + "... (" + bytes_text(value.size()) + ")";
}

std::string sections_text(const PoolReader& reader) {
  std::string text = "  sections\n";
  const std::uint64_t all = reader.superblock().file_bytes;
  for (const SectionEntry& section : reader.sections()) {
    char line[128];
    std::snprintf(line, sizeof line, "    %-12s offset %15s %18s bytes %6s %%\n",
                  std::string(format::section_name(section.kind)).c_str(), with_commas(section.offset).c_str(),
                  with_commas(section.bytes).c_str(), rounded_down(100 * section.bytes, all, 2).c_str());
    text += line;
  }
  return text;
}

std::string codecs_text(const PoolReader& reader) {
  std::string text;
  const auto codecs = summarize_codecs(reader);
  if (!codecs_differ(reader.layout())) {
    for (const auto& [codec, summary] : codecs) {
      text += row("codec", codec + " in " + with_commas(summary.runs) + " runs of " + with_commas(summary.positions) +
                               " positions, " + bytes_text(summary.page_bytes));
    }
    return text;
  }
  std::uint64_t page_bytes = 0;
  for (const auto& [codec, summary] : codecs) page_bytes += summary.page_bytes;
  const std::vector<HeadPlan> heads = head_plans(reader.layout());
  const MeanBits mean = mean_bits(heads, 0, heads.size());
  char bits[64];
  std::snprintf(bits, sizeof bits, "keys %.2f bits, values %.2f bits", mean.key, mean.value);
  return row("codec", std::string("mixed: ") + bits + " a code on average, " + bytes_text(page_bytes)) +
         row("plan", "bits of each kv_head's keys and values, and the layer's mean") +
         plan_chart(reader.shape(), heads);
}

// A chart of where positions are kept, if not all are.
std::string kept_rows(const PoolReader& reader) {
  const KeptMap kept = kept_map(reader, kChartCells);
  if (kept.keeps_all()) return "";
  return row("kept", "share of positions that each layer's kv_heads keep, from the document's start to its end") +
         kept_chart(kept);
}

// Of a pool that extends another.
std::string card_rows(const PoolReader& reader, const ChainResult& chain) {
  std::string text = row("extends", parent_text(reader, chain));
  text += row("position", with_commas(reader.first_position()) + " is its first");
  if (const auto sender = reader.identity().get(runtime::kSenderField)) text += row("sender", shown(*sender));
  const std::vector<double> bits = token_bits(reader);
  char average[64];
  std::snprintf(average, sizeof average, "%.2f a value, scales and padding counted", bits_per_value(reader));
  text += row("bits", average);
  const bool differ = std::any_of(bits.begin(), bits.end(), [&](double one) { return one != bits.front(); });
  return differ ? text + token_bits_chart(bits) : text;
}

std::string to_text(const PoolFile& pool, const TextSummary& text, const std::optional<ChainResult>& chain) {
  const PoolReader& reader = pool.reader;
  const format::Superblock& block = reader.superblock();
  const format::KvShape& shape = reader.shape();
  std::string out = row("format", version_text(block) + ", written by " + printable(block.writer));
  out += row("file id", format::to_hex(block.file_id));
  out += row("size", bytes_text(block.file_bytes) + ", " + with_commas(block.num_chunks) + " chunks");
  out += row("created", created_text(block.created));
  out += row("tokens", with_commas(shape.num_tokens) + ", " + std::to_string(reader.num_sinks()) + " of them sinks");
  if (chain) out += card_rows(reader, *chain);
  out += row("text", bytes_text(text.text_bytes) + ", of which " + bytes_text(text.open_text_bytes) +
                         " are tokenized with each question");
  out += row("shape", std::to_string(shape.num_layers) + " layers, " + std::to_string(shape.num_kv_heads) +
                          " kv_heads, head_dim " + std::to_string(shape.head_dim));
  out += codecs_text(reader);
  out += kept_rows(reader);
  out += row("fidelity", reader.fidelity().empty() ? "not measured" : "measured; see polykv stats");
  std::string prints;
  for (const auto& [name, digest] : fingerprints(block)) {
    prints += (prints.empty() ? "" : ", ") + name + " " + format::to_hex(*digest).substr(0, 8);
  }
  out += row("fingerprints", prints) + "  identity\n";
  for (const auto& [name, value] : reader.identity().fields())
    out += "    " + printable(name) + ": " + shown(value) + "\n";
  return out + sections_text(reader);
}

}  // namespace

int run_inspect(const Options& options, Report& report) {
  bool first = true;
  return for_each_pool(options.operands, report, [&](const std::string& path) {
    const auto pool = open_pool_file(path, options.trust, report);
    if (!pool) return report_pool_error(path, pool.error(), kSchema, options.json, report);
    const auto text = summarize_text(**pool);
    if (!text) return report_pool_error(path, text.error(), kSchema, options.json, report);
    std::optional<ChainResult> chain;
    if ((*pool)->reader.superblock().has_parent()) chain.emplace(find_chain(path, options, report));
    if (options.json) {
      report.print_line(to_json(path, **pool, *text, chain));
    } else {
      report.print((first ? "" : "\n") + printable(path) + "\n" + to_text(**pool, *text, chain));
    }
    first = false;
    return 0;
  });
}

}  // namespace polykv::cli
