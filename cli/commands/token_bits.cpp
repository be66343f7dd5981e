#include "cli/commands/token_bits.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string_view>

#include "format/shape.h"

namespace polykv::cli {
namespace {

constexpr std::size_t kColumns = 64, kMostMarks = 4 * kColumns;
constexpr const char* kIndent = "    ";

constexpr std::string_view kMarks = ".:-=+*%#";  // from the fewest bits to the most

}  // namespace

std::vector<double> token_bits(const format::PoolReader& reader) {
  const format::Layout& layout = reader.layout();
  // Many heads may have one long set with one pair of codecs: bits are summed by set, then along the tokens.
  std::vector<std::uint64_t> of_sets(layout.position_sets.size());
  for (const auto& head : layout.runs)
    for (const format::Run& run : head) of_sets[run.position_set] += std::uint64_t{run.key_codec} + run.value_codec;
  const std::uint32_t num_tokens = reader.shape().num_tokens, first = reader.first_position();
  std::vector<std::int64_t> changes(std::size_t{num_tokens} + 1);
  for (std::size_t set = 0; set < of_sets.size(); ++set) {
    for (const format::PositionRange range : layout.position_sets[set].ranges) {
      changes[range.begin - first] += static_cast<std::int64_t>(of_sets[set]);
      changes[range.end - first] -= static_cast<std::int64_t>(of_sets[set]);
    }
  }
  const auto num_heads = static_cast<double>(layout.runs.size());
  std::vector<double> bits(num_tokens);
  std::int64_t sum = 0;
  for (std::uint32_t t = 0; t < num_tokens; ++t) {
    sum += changes[t];
    bits[t] = t < reader.num_sinks() ? 16.0 : static_cast<double>(sum) / (2.0 * num_heads);
  }
  return bits;
}

double bits_per_value(const format::PoolReader& reader) {
  const format::KvShape& shape = reader.shape();
  const double num_values = 2.0 * shape.num_layers * shape.num_kv_heads * shape.head_dim * shape.num_tokens;
  return 8.0 * static_cast<double>(reader.pages().size() + reader.sinks().size()) / num_values;
}

std::string token_bits_chart(const std::vector<double>& bits) {
  const std::size_t per_mark = std::max<std::size_t>(1, (bits.size() + kMostMarks - 1) / kMostMarks);
  std::vector<double> means;
  for (std::size_t begin = 0; begin < bits.size(); begin += per_mark) {
    const std::size_t end = std::min(begin + per_mark, bits.size());
    double sum = 0.0;
    for (std::size_t t = begin; t < end; ++t) sum += bits[t];
    means.push_back(sum / static_cast<double>(end - begin));
  }
  const auto [fewest, most] = std::minmax_element(means.begin(), means.end());
  const double step = (*most - *fewest) / static_cast<double>(kMarks.size());
  std::string text;
  for (std::size_t at = 0; at < means.size(); at += kColumns) {
    char token[32];
    std::snprintf(token, sizeof token, "token %6zu  |", at * per_mark);
    text += kIndent + std::string(token);
    for (std::size_t i = at; i < std::min(at + kColumns, means.size()); ++i) {
      const double place = step > 0.0 ? (means[i] - *fewest) / step : 0.0;
      text += kMarks[std::min(static_cast<std::size_t>(place), kMarks.size() - 1)];
    }
    text += "|\n";
  }
  char legend[128];
  std::snprintf(legend, sizeof legend, "%s%.*s from %.2f to %.2f bits a code, %zu token%s a mark\n", kIndent,
                static_cast<int>(kMarks.size()), kMarks.data(), *fewest, *most, per_mark, per_mark == 1 ? "" : "s");
  return text + legend;
}

}  // namespace polykv::cli
