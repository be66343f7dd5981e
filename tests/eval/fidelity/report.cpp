#include "tests/eval/fidelity/report.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace polykv::eval {
namespace {

using nlohmann::ordered_json;

ordered_json number_or_null(const std::optional<double>& value) {
  return value ? ordered_json(*value) : ordered_json();
}

// The standard error of exp(mean).
std::optional<double> error_of_ratio(const MeanAndError& log_ratio) {
  if (!log_ratio.standard_error) return std::nullopt;
  return std::exp(log_ratio.mean) * *log_ratio.standard_error;
}

std::string text_line(const Measured& measured, int width) {
  const runtime::Divergence d = measured.summary();
  const MeanAndError kld = mean_and_error(measured.kld_of_windows());
  const MeanAndError log_ratio = mean_and_error(measured.log_ratio_of_windows());
  const auto error_text = [](const std::optional<double>& error, const char* format, double factor) {
    return error ? formatted(format, *error * factor) : std::string("-");
  };
  std::string recall;
  if (!measured.hits.empty()) {
    const MeanAndError hits = mean_and_error(measured.hits), of_f16 = mean_and_error(measured.reference_hits);
    recall = formatted("  %.3f %.3f", hits.mean, of_f16.mean);
  }
  return formatted("%-*s  %6.3f  %.6f %.6f %8s  %.4f  %.4f  %6.2f  %6.3f  %+8.3f %6.3f %6s%s\n", width,
                   measured.name.c_str(), measured.bits_per_value, d.kld_mean, d.kld_stderr,
                   error_text(kld.standard_error, "%.6f", 1.0).c_str(), d.kld_p99, d.kld_max, 100.0 * d.same_top,
                   100.0 * d.rms_dp, 100.0 * (d.ppl_ratio - 1.0), 100.0 * d.ppl_ratio_stderr,
                   error_text(error_of_ratio(log_ratio), "%.3f", 100.0).c_str(), recall.c_str());
}

ordered_json json_of(const Setting& setting, const Measured& measured, bool positions) {
  const runtime::Divergence d = measured.summary();
  const std::vector<double> klds = measured.kld_of_windows(), log_ratios = measured.log_ratio_of_windows();
  const MeanAndError log_ratio = mean_and_error(log_ratios);
  ordered_json json = {
      {"codec", measured.name},
      {"bits_per_value", measured.bits_per_value},
      {"positions", d.positions},
      {"kld_mean", d.kld_mean},
      {"kld_stderr", d.kld_stderr},
      {"kld_window_stderr", number_or_null(mean_and_error(klds).standard_error)},
      {"kld_p99", d.kld_p99},
      {"kld_max", d.kld_max},
      {"same_top", d.same_top},
      {"same_top_stderr", d.same_top_stderr},
      {"rms_dp", d.rms_dp},
      {"ppl_ratio", d.ppl_ratio},
      {"ppl_ratio_stderr", d.ppl_ratio_stderr},
      {"ppl_ratio_window_stderr", number_or_null(error_of_ratio(log_ratio))},
      {"windows", ordered_json::array()},
  };
  for (std::size_t i = 0; i < klds.size(); ++i)
    json["windows"].push_back(
        {{"offset", setting.offsets[i]}, {"kld_mean", klds[i]}, {"ppl_ratio", std::exp(log_ratios[i])}});
  for (std::size_t i = 0; i < measured.hits.size(); ++i) {
    json["windows"][i]["hits"] = measured.hits[i];
    json["windows"][i]["reference_hits"] = measured.reference_hits[i];
  }
  if (positions) {
    json["klds"] = ordered_json::array();
    for (const auto& position : measured.meter.positions()) json["klds"].push_back(position.kld);
  }
  return json;
}

}  // namespace

std::string as_text(const Setting& setting, std::span<const Measured> all) {
  std::size_t width = 5;
  for (const Measured& measured : all) width = std::max(width, measured.name.size());
  const int columns = static_cast<int>(width);
  std::string out = formatted("%s on %s, kernels %s, prefill %s\n", setting.model.c_str(), setting.text.c_str(),
                              setting.kernels.c_str(), setting.prefill.c_str());
  out += formatted("%zu window(s): %zu tokens compressed, the next %zu scored against %s\n", setting.offsets.size(),
                   setting.prefix_tokens, setting.scored_tokens, setting.reference.c_str());
  out += formatted("%-*s  %6s  %8s %8s %8s  %6s  %6s  %6s  %6s  %8s %6s %6s%s\n", columns, "codec", "bits", "KLD mean",
                   "+-", "windows", "99 %", "max", "same %", "dp %", "PPL %", "+-", "wind.",
                   all.front().hits.empty() ? "" : "  recall of f16");
  for (const Measured& measured : all) out += text_line(measured, columns);
  return out;
}

std::string as_json(const Setting& setting, std::span<const Measured> all, bool positions) {
  ordered_json json = {{"schema", "polykv.fidelity/1"},
                       {"model", setting.model},
                       {"text", setting.text},
                       {"prefill", setting.prefill},
                       {"kernels", setting.kernels},
                       {"reference", setting.reference},
                       {"prefix_tokens", setting.prefix_tokens},
                       {"scored_tokens", setting.scored_tokens},
                       {"codecs", ordered_json::array()}};
  for (const Measured& measured : all) json["codecs"].push_back(json_of(setting, measured, positions));
  return json.dump(1) + "\n";
}

}  // namespace polykv::eval
