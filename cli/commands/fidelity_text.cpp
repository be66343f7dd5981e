#include "cli/commands/fidelity_text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/report.h"

namespace polykv::cli {
namespace {

using nlohmann::ordered_json;

// The file may hold anything under a name.
double number(const ordered_json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number() ? found->get<double>() : std::nan("");
}

template <typename... Values>
std::string print(const char* format, Values... values) {
  char text[128];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

// 0.00051, 0.0047, 12.3: what a column has room for; "-" for what is not there.
std::string short_number(double value, int decimals) {
  if (!std::isfinite(value)) return "-";
  if (std::fabs(value) >= 1000.0) return print("%.0e", value);
  if (value != 0.0 && std::fabs(value) < 0.5 * std::pow(10.0, -decimals)) return print("%.0e", value);
  const int fewer = value < 1.0 ? decimals : value < 10.0 ? decimals - 1 : std::min(decimals, 1);
  return print("%.*f", std::max(fewer, 0), value);
}

std::string percent(double share) {
  return std::isfinite(share) ? short_number(100.0 * share, share < 0.1 ? 2 : 1) + " %" : "-";
}

std::string with_error(const std::string& value, const std::string& error) {
  return error == "-" ? value : value + "+-" + error;
}

std::string perplexity(double ratio, double error) {
  if (!std::isfinite(ratio) || std::fabs(ratio) >= 10.0) return short_number(ratio, 1);
  return with_error(print("%+.1f", 100.0 * (ratio - 1.0)), print("%.1f", 100.0 * error)) + " %";
}

std::string row(const char* name, const char* tokens, const std::string& kld, const std::string& p99,
                const std::string& max, const std::string& same_top, const std::string& rms_dp,
                const std::string& perplexity_change) {
  return print("    %-8s%6s %16s %6s %6s %7s %7s %13s", name, tokens, kld.c_str(), p99.c_str(), max.c_str(),
               same_top.c_str(), rms_dp.c_str(), perplexity_change.c_str()) +
         "\n";
}

std::string probe_row(const std::string& name, const ordered_json& probe) {
  const double positions = number(probe, "positions");
  if (positions == 0.0)
    return print("    %-8s%6s %s", name.c_str(), "0", "not measured: no room or no time for it") + "\n";
  return row(name.c_str(), print(positions < 1e6 ? "%.0f" : "%.0e", positions).c_str(),
             with_error(short_number(number(probe, "kld_mean"), 5), short_number(number(probe, "kld_stderr"), 5)),
             short_number(number(probe, "kld_p99"), 4), short_number(number(probe, "kld_max"), 4),
             percent(number(probe, "same_top")), percent(number(probe, "rms_dp")),
             perplexity(number(probe, "ppl_ratio"), number(probe, "ppl_ratio_stderr")));
}

// "83 %, 79 %, 92 %"
std::string shares(const ordered_json& probe, const char* name) {
  std::string text;
  const auto found = probe.find(name);
  if (found == probe.end() || !found->is_array()) return text;
  for (const ordered_json& value : *found) {
    if (text.size() > 40) return text + ", ...";
    text +=
        (text.empty() ? "" : ", ") + (value.is_number() ? short_number(100.0 * value.get<double>(), 0) + " %" : "-");
  }
  return text;
}

std::string differences(const ordered_json& probe) {
  std::string text;
  const auto found = probe.find("first_difference");
  if (found == probe.end() || !found->is_array()) return text;
  for (const ordered_json& value : *found) {
    if (text.size() > 40) return text + ", ...";
    text += (text.empty() ? "" : ", ") +
            (value.is_number_unsigned() ? "token " + with_commas(value.get<std::uint64_t>() + 1) : "none");
  }
  return text;
}

// What a probe has besides its row.
std::string probe_lines(const ordered_json& probe) {
  std::string text;
  if (const double floor = number(probe, "floor_kld_mean"); std::isfinite(floor) && number(probe, "positions") > 0.0)
    text += print("    floor         %16s  uncompressed, summed in another order", print("%.1e", floor).c_str()) + "\n";
  if (const std::string hits = shares(probe, "hits"); !hits.empty())
    text += "    repeated      " + hits + "; uncompressed " + shares(probe, "reference_hits") + "\n";
  if (const std::string where = differences(probe); !where.empty()) text += "    differs first " + where + "\n";
  return text;
}

}  // namespace

std::string fidelity_text(const std::string& title, const ordered_json& fidelity) {
  std::string text = "  " + title + "\n";
  text += row("", "tokens", "KL divergence", "99 %", "max", "same", "RMS dp", "perplexity");
  std::string lines;
  for (const auto& [name, probe] : fidelity.items()) {
    if (!probe.is_object() || !probe.contains("positions")) continue;  // the protocol
    text += probe_row(printable(name), probe);
    lines += probe_lines(probe);
  }
  return text + lines;
}

}  // namespace polykv::cli
