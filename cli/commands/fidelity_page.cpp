#include "cli/commands/fidelity_page.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/commands/fidelity_plots.h"
#include "cli/commands/fidelity_section.h"
#include "cli/commands/fidelity_table.h"
#include "cli/commands/kept_page.h"
#include "cli/commands/page_parts.h"
#include "cli/commands/page_style.h"
#include "cli/commands/pool_file.h"
#include "cli/commands/svg_plot.h"
#include "cli/runtime/bit_allocation.h"
#include "format/file.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using nlohmann::ordered_json;

std::string cut(std::string text) {
  constexpr std::size_t kMost = 100;
  return text.size() <= kMost ? text : text.substr(0, kMost) + "...";
}

// All that the page is made of.
struct Facts {
  const format::PoolReader& reader;
  const PoolMemory& memory;
  const ordered_json& fidelity;
  std::vector<HeadPlan> heads;
  runtime::CodecPlan plan;                          // empty: a head keeps nothing, or there are too many
  std::vector<runtime::Sensitivity> sensitivities;  // empty: not stored
  double expected_kld = 0;

  Facts(const format::PoolReader& from, const PoolMemory& bytes, const ordered_json& measured)
      : reader(from), memory(bytes), fidelity(measured), heads(head_plans(from.layout())) {
    const auto keeps = [](const HeadPlan& head) { return head.num_runs > 0; };
    if (heads.size() > kMostHeadsDrawn || !std::all_of(heads.begin(), heads.end(), keeps)) return;
    for (const HeadPlan& head : heads) plan.push_back(head.codec);
    sensitivities = stored_sensitivities(fidelity, heads.size());
    if (!sensitivities.empty()) expected_kld = runtime::expected_kld(sensitivities, plan);
  }

  double bits_per_value() const {
    return 8 * static_cast<double>(memory.kv_bytes) / (static_cast<double>(memory.f16_kv_bytes) / 2);
  }
  double of_tail(const char* name) const {  // NaN: not measured, or no divergence
    const ordered_json* tail = object_at(fidelity, "tail");
    if (tail == nullptr || !(number_at(*tail, "positions") > 0)) return std::nan("");
    const double kld = number_at(*tail, name);
    return kld >= 0 && kld <= kMostKld ? kld : std::nan("");
  }
  std::string choice() const {  // as it was asked for; empty: not recorded
    const ordered_json* stored = object_at(fidelity, "plan");
    return stored == nullptr ? "" : text_at(*stored, "choice");
  }
};

std::string fact(const std::string& name, const std::string& value) {
  return "<div><dt>" + name + "</dt><dd>" + value + "</dd></div>\n";
}

std::string head_text(const std::string& name, const Facts& facts) {
  const format::Identity& identity = facts.reader.identity();
  const auto of = [&](const std::string& field) { return cut(std::string(identity.get(field).value_or(""))); };
  std::string documents;
  constexpr int kMostNamed = 8;
  for (int i = 0; i <= kMostNamed; ++i) {
    const std::string document = of("document." + std::to_string(i) + ".name");
    if (document.empty()) break;
    documents += (i == 0 ? "" : ", ") + (i == kMostNamed ? "..." : isolated(document));
  }
  std::string text = "<header>\n<h1>" + isolated(name) +
                     "</h1>\n<p>What compressing this pool's keys and values did to "
                     "the model's answers, and where the bits went.</p>\n<dl>\n";
  text += fact("document", documents.empty() ? "not named" : documents);
  text += fact("model", isolated(of("model.name")));
  text += fact("tokens", with_commas(facts.memory.tokens));
  text += fact("file", short_bytes(facts.memory.pool_bytes));
  text += fact("bits per value",
               rounded_up(8 * facts.memory.kv_bytes, facts.memory.f16_kv_bytes / 2, 2) + "; float16 takes " +
                   rounded_down(facts.memory.f16_kv_bytes, facts.memory.kv_bytes, 2) + " times as much");
  const std::string choice = cut(facts.choice());
  text += fact("codec", isolated(choice.empty() ? of("codec.name") : choice));
  const double kld = facts.of_tail("kld_mean");
  text += fact("KL divergence of the tail", std::isfinite(kld) ? short_number(kld, 2) : "not measured");
  return text + "</dl>\n</header>\n";
}

std::string bits_section(const Facts& facts) {
  const format::KvShape& shape = facts.reader.shape();
  if (facts.heads.size() > kMostHeadsDrawn) {
    return missing("Not drawn: " + with_commas(facts.heads.size()) + " kv_heads are too many for a page.");
  }
  const auto keeps_nothing = [](const HeadPlan& head) { return head.num_runs == 0; };
  if (std::all_of(facts.heads.begin(), facts.heads.end(), keeps_nothing)) {
    return missing("Nothing to draw: all positions are among the first four, which stay float16.");
  }
  const MeanBits mean = mean_bits(facts.heads, 0, facts.heads.size());
  std::string text = paragraph(
      std::string("Each column is a layer, each row one of its kv_heads; shade and number say how many bits each code "
                  "of its keys or values got. ") +
      (codecs_differ(facts.reader.layout()) ? "Errors in few of them matter much, and those got more."
                                            : "All of them got the same here."));
  text += scale_legend({{"b1", "1"},
                        {"b2", "2"},
                        {"b3", "3"},
                        {"b4", "4"},
                        {"b5", "5"},
                        {"b6", "6"},
                        {"b7", "7"},
                        {"b8", "8"},
                        {"bF", "F"}},
                       "bits a code; F is float16");
  text += figure(bits_svg(shape, facts.heads, true), "Keys: " + short_number(mean.key, 3) + " bits on average");
  text += figure(bits_svg(shape, facts.heads, false), "Values: " + short_number(mean.value, 3) + " bits on average");
  const bool several =
      std::any_of(facts.heads.begin(), facts.heads.end(), [](const HeadPlan& head) { return head.num_runs > 1; });
  if (several) text += paragraph("A star marks a head with several runs: the bits of the one with most positions.");
  return text;
}

constexpr const char* kNoSensitivities =
    "Not known: the pool holds no sensitivities. They are measured and kept when a pool is built with a plan of its "
    "own (--codec auto).";

std::string damage_section(const Facts& facts) {
  if (facts.sensitivities.empty()) return missing(kNoSensitivities);
  const auto layers = damage_of_layers(facts.reader.shape(), facts.sensitivities, facts.plan);
  const ordered_json& plan = *object_at(facts.fidelity, "plan");
  const double rows = number_at(plan, "rows");
  const std::string told = rows >= 1 && rows < 1e9
                               ? "told from " + with_commas(static_cast<std::uint64_t>(rows)) + " rows"
                               : std::string("told from rows");
  return paragraph(
             "What rounding the keys and values of each layer is expected to add to the KL divergence of the "
             "answers, " +
             told + " of the document's own attention: " + short_number(facts.expected_kld, 2) +
             " in all. A layer that stands far out would have deserved more bits.") +
         legend({{"<rect x=\"3\" y=\"1\" width=\"13\" height=\"12\" class=\"keys\"/>", "keys"},
                 {"<rect x=\"3\" y=\"1\" width=\"13\" height=\"12\" class=\"values\"/>", "values"}}) +
         figure(damage_svg(layers));
}

std::string positions_section(const Facts& facts) {
  const std::vector<double> klds = stored_kld_by_position(facts.fidelity);
  if (klds.empty() || klds.size() > kMostPositionsDrawn) {
    return missing(
        "Not known: the pool holds no divergence for each position. It is measured when a pool is built "
        "with probes.");
  }
  const std::uint64_t tokens = facts.memory.tokens, count = klds.size();
  const ordered_json* protocol = object_at(facts.fidelity, "protocol");
  const double begin = protocol == nullptr ? std::nan("") : number_at(*protocol, "tail_begin");
  const bool is_known = begin >= 0 && begin <= static_cast<double>(tokens);
  const std::uint64_t first = is_known ? static_cast<std::uint64_t>(begin) : tokens - std::min(tokens, count);
  return paragraph(
             "The tail probe: the model predicts the document's last tokens, one after the other, from the "
             "compressed keys and values before them. Each dot says how far a prediction is from the one without "
             "compression; the scale is logarithmic, so the few highest dots make most of the mean.") +
         figure(positions_svg(klds, first));
}

std::string size_section(const Facts& facts) {
  if (facts.sensitivities.empty()) return missing(kNoSensitivities);
  const std::string svg =
      size_svg(facts.reader.shape(), facts.sensitivities,
               {facts.bits_per_value(), facts.expected_kld, facts.of_tail("kld_mean"), facts.of_tail("kld_stderr")});
  if (svg.empty()) return missing("Not drawn: the document is too short for plans of 2.25 to 6 bits a value.");
  return paragraph(
             "What other sizes would have cost: the line is a plan made for this document at each size, the points "
             "are presets, one codec for all heads. Lower is nearer to the uncompressed answers, further left is "
             "smaller. The bar is the standard error of what was measured.") +
         legend({{"<line x1=\"1\" y1=\"7\" x2=\"19\" y2=\"7\" class=\"best\"/>", "plans, expected"},
                 {"<circle cx=\"10\" cy=\"7\" r=\"4\" class=\"preset\"/>", "presets, expected"},
                 {"<path d=\"M5 2l10 10m0 -10l-10 10\" class=\"chosen\"/>", "this pool, expected"},
                 {"<circle cx=\"10\" cy=\"7\" r=\"5\" class=\"ring\"/>", "this pool, measured on its tail"}}) +
         figure(svg);
}

}  // namespace

format::Result<std::string> fidelity_page(const std::string& path, const format::PoolReader& reader,
                                          const PoolMemory& memory, const ordered_json& fidelity) {
  const Facts facts(reader, memory, fidelity);
  POLYKV_TRY(const std::string kept, kept_section(reader));
  const std::string name = std::filesystem::path(path).filename().string();
  std::string page =
      "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n"
      "<meta charset=\"utf-8\"/>\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width\"/>\n"
      "<meta name=\"color-scheme\" content=\"light dark\"/>\n<title>";
  page += escape_markup(name) + " - polykv</title>\n<style>" + kPageStyle + "</style>\n</head>\n<body>\n";
  page += head_text(name, facts);
  page += section("Where the bits are", bits_section(facts));
  if (!kept.empty()) page += section("What is kept", kept);
  page += section("Where damage is expected", damage_section(facts));
  page += section("What was measured, token by token", positions_section(facts));
  page += section("Size against fidelity", size_section(facts));
  page += section("What was measured, in all", probe_tables(fidelity));
  page += "<footer>Made by polykv " POLYKV_VERSION " from the pool alone; file id " +
          format::to_hex(reader.superblock().file_id) + ".</footer>\n";
  return page + "</body>\n</html>\n";
}

int write_fidelity_page(const Options& options, const char* schema, Report& report) {
  const bool to_stdout = options.html == "-";
  if (options.operands.size() != 1) {
    return report.error("", Error(ErrorCode::kUsage, "stats: --html takes one pool; see polykv stats --help"));
  }
  if (to_stdout && (options.json || options.live || options.measure)) {
    return report.error("", Error(ErrorCode::kUsage, "stats: --html - prints the page alone; name a file for it"));
  }
  const std::string& path = options.operands.front();
  std::error_code ignored;
  if (std::filesystem::equivalent(path, options.html, ignored)) {
    return report.error(options.html, Error(ErrorCode::kUsage, "is the pool itself"));
  }
  std::optional<format::AtomicFile> file;
  if (!to_stdout) {
    auto created = format::AtomicFile::create(options.html, options.force, 0600);
    if (!created) return report.error(options.html, created.error());
    file = std::move(*created);
  }
  const auto page = [&]() -> format::Result<std::string> {
    POLYKV_TRY(const std::unique_ptr<PoolFile> pool, open_pool_file(path, options.trust, report));
    POLYKV_TRY(const PoolMemory memory, measure_pool_memory(pool->reader));
    POLYKV_TRY(const ordered_json fidelity, parse_fidelity(pool->reader.fidelity()));
    return fidelity_page(path, pool->reader, memory, fidelity);
  }();
  if (!page) return report_pool_error(path, page.error(), schema, options.json, report);
  if (to_stdout) {
    report.print(*page);
    return 0;
  }
  format::Status status = file->write_at(0, std::as_bytes(std::span<const char>(*page)));
  if (status) status = file->publish();
  return status ? 0 : report.error(options.html, status.error());
}

}  // namespace polykv::cli
