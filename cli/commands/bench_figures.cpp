#include "cli/commands/bench_figures.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/report.h"

namespace polykv::cli {
namespace {

using nlohmann::ordered_json;

double gb_s(std::uint64_t bytes, double ms) { return static_cast<double>(bytes) / ms / 1e6; }

double tok_s(const BenchFigures::Step& step) { return static_cast<double>(step.agents) * 1e3 / step.ms; }

double share_of_memory(const BenchFigures& figures, const BenchFigures::Attention& row) {
  return gb_s(row.page_bytes, row.ms) / gb_s(figures.read_bytes, figures.read_ms);
}

std::string fixed(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

std::string right(const std::string& text, std::size_t width) {
  return std::string(text.size() < width ? width - text.size() : 0, ' ') + text;
}

std::string line(const std::string& name, const std::string& value) {
  return "  " + name + std::string(name.size() < 16 ? 16 - name.size() : 1, ' ') + value + "\n";
}

std::string start_text(const BenchFigures::Start& start) {
  return fixed(start.open_ms, 1) + " ms to open pool and model, " + fixed(start.first_step_ms, 1) +
         " ms with a first step";
}

ordered_json start_json(const std::optional<BenchFigures::Start>& start) {
  if (!start) return nullptr;
  return {{"open_ms", start->open_ms}, {"first_step_ms", start->first_step_ms}};
}

std::string attention_text(const BenchFigures& figures) {
  std::string text = "  attention of a step, all layers, without tails\n" + right("agents", 10) + right("depth", 9) +
                     right("ms", 11) + right("GB/s", 9) + right("of memory", 11) + right("float16 ms", 12) +
                     right("ratio", 8) + "\n";
  for (const BenchFigures::Attention& row : figures.attention) {
    text += right(std::to_string(row.agents), 10) + right(with_commas(row.depth), 9) + right(fixed(row.ms, 3), 11) +
            right(fixed(gb_s(row.page_bytes, row.ms), 1), 9) +
            right(fixed(100 * share_of_memory(figures, row), 0) + " %", 11) + right(fixed(row.f16_ms, 3), 12) +
            right(fixed(row.f16_ms / row.ms, 2), 8) + "\n";
  }
  return text;
}

std::string steps_text(const BenchFigures& figures) {
  std::string text = "  step: a token for each agent\n" + right("agents", 10) + right("depth", 9) + right("ms", 11) +
                     right("tok/s", 9) + "\n";
  for (const BenchFigures::Step& row : figures.steps) {
    text += right(std::to_string(row.agents), 10) + right(with_commas(row.depth), 9) + right(fixed(row.ms, 3), 11) +
            right(fixed(tok_s(row), 1), 9) + "\n";
  }
  return text;
}

}  // namespace

std::string bench_text(const BenchFigures& figures) {
  const std::string threads = std::to_string(figures.threads) + (figures.threads == 1 ? " thread" : " threads");
  return printable(figures.pool) + "\n" +
         line("pool", with_commas(figures.tokens) + " tokens, " + printable(figures.codec) + ", " +
                          short_bytes(figures.pool_bytes)) +
         line("model", printable(figures.model) + ", " + short_bytes(figures.weight_bytes) + " of weights") +
         line("kernels", figures.kernels + ", " + threads) +
         line("memory speed", fixed(gb_s(figures.read_bytes, figures.read_ms), 1) + " GB/s (a buffer of " +
                                  short_bytes(figures.read_bytes) + ", read by all threads)") +
         line("warm start", start_text(figures.warm)) +
         line("cold start",
              figures.cold ? start_text(*figures.cold)
                           : "not measured: pool or model cannot be put out of memory (another process uses it?)") +
         line("memory", (figures.private_bytes ? short_bytes(*figures.private_bytes) + " private to a process, and "
                                               : "private bytes not measured; ") +
                            with_commas(figures.tail_bytes_per_token) + " bytes a token of a tail") +
         attention_text(figures) + steps_text(figures);
}

ordered_json bench_json(const BenchFigures& figures) {
  ordered_json json = {{"schema", "polykv.bench/1"},
                       {"pool", figures.pool},
                       {"model", figures.model},
                       {"tokens", figures.tokens},
                       {"codec", figures.codec},
                       {"kernels", figures.kernels},
                       {"threads", figures.threads},
                       {"pool_bytes", figures.pool_bytes},
                       {"weight_bytes", figures.weight_bytes}};
  json["read"] = {
      {"source", "buffer"}, {"bytes", figures.read_bytes}, {"gb_s", gb_s(figures.read_bytes, figures.read_ms)}};
  json["start"] = {{"warm", start_json(figures.warm)}, {"cold", start_json(figures.cold)}};
  json["memory"] = {{"private_bytes", nullptr}, {"tail_bytes_per_token", figures.tail_bytes_per_token}};
  if (figures.private_bytes) json["memory"]["private_bytes"] = *figures.private_bytes;
  json["attention"] = ordered_json::array();
  for (const BenchFigures::Attention& row : figures.attention) {
    json["attention"].push_back({{"agents", row.agents},
                                 {"depth", row.depth},
                                 {"ms", row.ms},
                                 {"page_bytes", row.page_bytes},
                                 {"gb_s", gb_s(row.page_bytes, row.ms)},
                                 {"read_share", share_of_memory(figures, row)},
                                 {"f16_ms", row.f16_ms},
                                 {"ratio", row.f16_ms / row.ms}});
  }
  json["step"] = ordered_json::array();
  for (const BenchFigures::Step& row : figures.steps) {
    json["step"].push_back({{"agents", row.agents}, {"depth", row.depth}, {"ms", row.ms}, {"tok_s", tok_s(row)}});
  }
  return json;
}

}  // namespace polykv::cli
