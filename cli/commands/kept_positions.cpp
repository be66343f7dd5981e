#include "cli/commands/kept_positions.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cli/report.h"
#include "cli/runtime/probes.h"
#include "format/shape.h"

namespace polykv::cli {
namespace {

using nlohmann::ordered_json;

std::string rounded(double value) { return with_commas(static_cast<std::uint64_t>(std::llround(value))); }

// "recall at 10 % depth falls from 0.98 to 0.91", for each depth that lost.
std::string recall_text(const ordered_json& fidelity) {
  const auto numbers = [&](const char* name) {
    std::vector<double> values;
    const auto recall = fidelity.is_object() ? fidelity.find("recall") : fidelity.end();
    if (!fidelity.is_object() || recall == fidelity.end() || !recall->is_object()) return values;
    const auto list = recall->find(name);
    if (list == recall->end() || !list->is_array()) return values;
    for (const auto& item : *list) values.push_back(item.is_number() ? item.get<double>() : std::nan(""));
    return values;
  };
  const std::vector<double> hits = numbers("hits"), reference = numbers("reference_hits");
  std::string text;
  for (std::size_t i = 0; i < std::min({hits.size(), reference.size(), std::size(runtime::kPassagePercent)}); ++i) {
    if (!(hits[i] < reference[i])) continue;
    char part[96];
    std::snprintf(part, sizeof part, "%s at %u %% depth from %.2f to %.2f", text.empty() ? "" : ",",
                  runtime::kPassagePercent[i], reference[i], hits[i]);
    text += part;
  }
  if (text.empty()) return hits.empty() ? "recall was not measured" : "recall is as of the uncompressed cache";
  return "recall falls" + text;
}

}  // namespace

double KeptSummary::mean() const {
  return std::accumulate(by_layer.begin(), by_layer.end(), 0.0) / static_cast<double>(by_layer.size());
}

KeptSummary summarize_kept(const format::PoolReader& reader) {
  const format::KvShape& shape = reader.shape();
  const format::Layout& layout = reader.layout();
  const std::uint32_t first = reader.first_position(), num_sinks = reader.num_sinks();
  KeptSummary kept;
  kept.num_tokens = shape.num_tokens;
  kept.fewest = shape.num_tokens;
  // A set is stored once and may be many heads': counted by its ends, each once.
  std::vector<std::int64_t> steps(std::size_t{shape.num_tokens} + 1, 0);
  std::vector<std::uint32_t> uses(layout.position_sets.size(), 0);
  for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer) {
    double sum = 0.0;
    for (std::uint32_t head = 0; head < shape.num_kv_heads; ++head) {
      std::uint32_t count = num_sinks;
      for (const format::Run& run : layout.runs[std::size_t{layer} * shape.num_kv_heads + head]) {
        ++uses[run.position_set];
        count += layout.position_sets[run.position_set].num_positions();
      }
      kept.fewest = std::min(kept.fewest, count);
      kept.most = std::max(kept.most, count);
      sum += count;
    }
    kept.by_layer.push_back(sum / shape.num_kv_heads);
  }
  for (std::size_t set = 0; set < uses.size(); ++set) {
    for (const format::PositionRange range : layout.position_sets[set].ranges) {
      steps[range.begin - first] += uses[set];
      steps[range.end - first] -= uses[set];
    }
  }
  std::int64_t now = 0;
  for (std::uint32_t position = 0; position < shape.num_tokens; ++position) {
    now += steps[position];
    kept.by_position.push_back(position < num_sinks ? shape.num_layers * shape.num_kv_heads
                                                    : static_cast<std::uint32_t>(now));
    kept.kept_by_none += kept.by_position.back() == 0;
  }
  return kept;
}

std::string kept_text(const KeptSummary& kept, const ordered_json& fidelity) {
  if (kept.keeps_all()) return "";
  const auto [least, most] = std::minmax_element(kept.by_layer.begin(), kept.by_layer.end());
  const auto layer = [&](auto at) { return std::to_string(at - kept.by_layer.begin()); };
  char share[32];
  std::snprintf(share, sizeof share, "%.1f %%", 100.0 * kept.mean() / kept.num_tokens);
  std::string text = "  kept                of " + with_commas(kept.num_tokens) + " tokens a head keeps " +
                     rounded(kept.mean()) + " on average (" + share + ")";
  if (*least < *most)
    text += "; layer " + layer(least) + " the fewest, " + rounded(*least) + ", layer " + layer(most) + " the most, " +
            rounded(*most);
  text += "\n  dropped             " + with_commas(kept.kept_by_none) + " tokens by all heads; " +
          recall_text(fidelity) + "\n";
  return text;
}

ordered_json kept_json(const KeptSummary& kept) {
  return {{"mean", kept.mean()},
          {"by_layer", kept.by_layer},
          {"fewest", kept.fewest},
          {"most", kept.most},
          {"kept_by_none", kept.kept_by_none}};
}

}  // namespace polykv::cli
