#include "cli/commands/fidelity_table.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands/fidelity_section.h"
#include "cli/commands/svg_plot.h"
#include "cli/report.h"

namespace polykv::cli {
namespace {

using nlohmann::ordered_json;

constexpr int kMostProbes = 32;
constexpr std::size_t kMostListed = 16;
constexpr std::size_t kMostText = 200;

std::string cell(const std::string& text) { return "<td>" + text + "</td>"; }
std::string name_cell(const std::string& text) { return "<th scope=\"row\">" + escape_markup(text) + "</th>"; }

std::string with_error(double value, double error) {
  const std::string text = short_number(value, 2);
  return std::isfinite(error) ? text + " &#177; " + short_number(error, 2) : text;
}

std::string percent(double part) { return std::isfinite(part) ? short_number(100 * part, 3) + " %" : "-"; }

// 1.0076 +- .0075 is what a reader wants as +0.76 % +- 0.75 %.
std::string perplexity(double ratio, double error) {
  if (!std::isfinite(ratio)) return "-";
  const std::string text = (ratio >= 1 ? "+" : "") + short_number(100 * (ratio - 1), 2);
  return (std::isfinite(error) ? text + " &#177; " + short_number(100 * error, 2) : text) + " %";
}

bool is_probe(const ordered_json& value) { return value.is_object() && value.contains("positions"); }

std::string probe_row(const std::string& name, const ordered_json& probe) {
  const auto number = [&probe](const char* field) { return number_at(probe, field); };
  const double positions = number("positions");
  std::string row = "<tr>" + name_cell(name);
  if (!(positions > 0)) {
    return row + cell("0") + "<td colspan=\"6\">not measured: no room or no time for it</td></tr>\n";
  }
  row += cell(positions < 1e9 ? with_commas(static_cast<std::uint64_t>(positions)) : "-");
  row += cell(with_error(number("kld_mean"), number("kld_stderr")));
  row += cell(short_number(number("kld_p99"), 2)) + cell(short_number(number("kld_max"), 2));
  row += cell(percent(number("same_top"))) + cell(percent(number("rms_dp")));
  return row + cell(perplexity(number("ppl_ratio"), number("ppl_ratio_stderr"))) + "</tr>\n";
}

// The numbers of an array in words; empty if there is none.
template <typename Say>
std::string listed(const ordered_json& object, const char* name, const Say& say) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_array()) return "";
  std::string text;
  for (std::size_t i = 0; i < found->size(); ++i) {
    if (i == kMostListed) return text + ", ...";
    text += (i == 0 ? "" : ", ") + say((*found)[i]);
  }
  return text;
}

std::string item(const std::string& text) { return "<li>" + text + "</li>\n"; }

// What a probe has besides its row.
std::string probe_items(const std::string& name, const ordered_json& probe) {
  std::string text;
  const std::string probe_name = escape_markup(name);
  if (const double floor = number_at(probe, "floor_kld_mean"); std::isfinite(floor)) {
    text += item(probe_name + ": summing in another order, without compression, makes a divergence of " +
                 short_number(floor, 2) + "; nothing smaller can be told.");
  }
  const auto share = [](const ordered_json& value) {
    return value.is_number() ? percent(value.get<double>()) : std::string("-");
  };
  if (const std::string hits = listed(probe, "hits", share); !hits.empty()) {
    const std::string reference = listed(probe, "reference_hits", share);
    text += item(probe_name + ": of passages from the document, repeated by the model, it ranks first " + hits +
                 " of the tokens; uncompressed " + (reference.empty() ? "-" : reference) + ".");
  }
  const auto place = [](const ordered_json& value) {
    return value.is_number_unsigned() ? "token " + with_commas(value.get<std::uint64_t>()) : std::string("none");
  };
  if (const std::string places = listed(probe, "first_difference", place); !places.empty()) {
    text +=
        item(probe_name + ": where an answer first differs from the uncompressed one, counted from 0: " + places + ".");
  }
  return text;
}

std::string protocol_table(const ordered_json& protocol) {
  std::string rows;
  int count = 0;
  for (const auto& [name, value] : protocol.items()) {
    if (++count > kMostProbes) break;
    std::string text = value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', true);
    if (text.size() > kMostText) text = text.substr(0, kMostText) + "...";
    rows += "<tr>" + name_cell(name.substr(0, kMostText)) + cell("<bdi>" + escape_markup(text) + "</bdi>") + "</tr>\n";
  }
  return "<details><summary>How it was measured</summary>\n<table class=\"protocol\"><tbody>\n" + rows +
         "</tbody></table></details>\n";
}

}  // namespace

std::string probe_tables(const ordered_json& fidelity) {
  std::string rows, items;
  int count = 0;
  for (const auto& [name, probe] : fidelity.items()) {
    if (!is_probe(probe) || ++count > kMostProbes) continue;
    const std::string shown = name.substr(0, kMostText);
    rows += probe_row(shown, probe);
    items += probe_items(shown, probe);
  }
  if (rows.empty()) return "<p class=\"missing\">Not measured: the pool was built without probes.</p>\n";
  std::string text =
      "<p>Three probes, each scored token by token against the same model without compression: the document's end "
      "(tail), answers to general questions (answers), passages repeated from it (recall).</p>\n"
      "<div class=\"wide\"><table><thead><tr><th scope=\"col\">probe</th><th scope=\"col\">tokens</th>"
      "<th scope=\"col\">KL divergence</th><th scope=\"col\">99 %</th><th scope=\"col\">max</th>"
      "<th scope=\"col\">same first</th><th scope=\"col\">RMS &#916;p</th><th "
      "scope=\"col\">perplexity</th></tr></thead>"
      "<tbody>\n" +
      rows + "</tbody></table></div>\n";
  text +=
      "<p>KL divergence is in nats, with its standard error, then its 99th percentile and maximum. Same first: how "
      "often the likeliest token is the same. RMS &#916;p: how far the probability of the right token moved. "
      "Perplexity: its "
      "change; below the error it is no change.</p>\n";
  if (!items.empty()) text += "<ul>\n" + items + "</ul>\n";
  const ordered_json* protocol = object_at(fidelity, "protocol");
  return protocol == nullptr || protocol->empty() ? text : text + protocol_table(*protocol);
}

}  // namespace polykv::cli
