#include "cli/commands/plan_chart.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace polykv::cli {
namespace {

using format::CodecId;

constexpr std::size_t kIndent = 4;
constexpr std::size_t kMostHeads = 8;  // whose digits fit 80 columns beside "layer 1023", the bar and its number
constexpr std::size_t kBarWidth = 16;

CodecId codec_of(const HeadPlan& head, bool is_key) { return is_key ? head.codec.key : head.codec.value; }

// " 4 5*3 " or, of many heads, " 2-5  ".
std::string row_digits(const HeadPlan* heads, std::size_t num_heads, bool is_key) {
  std::string text;
  if (num_heads <= kMostHeads) {
    for (std::size_t i = 0; i < num_heads; ++i) {
      text += heads[i].num_runs == 0 ? "." : bits_digit(codec_of(heads[i], is_key));
      text += heads[i].num_runs > 1 ? '*' : ' ';
    }
    return text;
  }
  const auto fewer_bits = [is_key](const HeadPlan& a, const HeadPlan& b) {
    return codec_of(a, is_key) < codec_of(b, is_key);
  };
  const auto [least, most] = std::minmax_element(heads, heads + num_heads, fewer_bits);
  const std::string fewest = bits_digit(codec_of(*least, is_key)), greatest = bits_digit(codec_of(*most, is_key));
  text = fewest == greatest ? fewest : fewest + "-" + greatest;
  const bool several = std::any_of(heads, heads + num_heads, [](const HeadPlan& head) { return head.num_runs > 1; });
  if (several) text += "*";
  return text + std::string(5 - text.size(), ' ');
}

}  // namespace

std::vector<std::uint32_t> position_set_sizes(const format::Layout& layout) {
  std::vector<std::uint32_t> sizes;
  for (const format::PositionSet& set : layout.position_sets) sizes.push_back(set.num_positions());
  return sizes;
}

std::vector<HeadPlan> head_plans(const format::Layout& layout) {
  const std::vector<std::uint32_t> sizes = position_set_sizes(layout);
  std::vector<HeadPlan> heads;
  heads.reserve(layout.runs.size());
  for (const auto& runs : layout.runs) {
    HeadPlan& head = heads.emplace_back();
    head.num_runs = runs.size();
    std::uint32_t most = 0;
    for (const format::Run& run : runs) {
      const std::uint32_t positions = sizes[run.position_set];
      if (positions > most) head.codec = {run.key_codec, run.value_codec};
      most = std::max(most, positions);
      head.num_positions += positions;
      head.key_bits += static_cast<double>(positions) * run.key_codec;  // a codec's number is its bits
      head.value_bits += static_cast<double>(positions) * run.value_codec;
    }
    if (head.num_positions == 0) continue;
    head.key_bits /= static_cast<double>(head.num_positions);
    head.value_bits /= static_cast<double>(head.num_positions);
  }
  return heads;
}

bool codecs_differ(const format::Layout& layout) {
  const auto same = [](const format::Run& a, const format::Run& b) {
    return a.key_codec == b.key_codec && a.value_codec == b.value_codec;
  };
  return std::any_of(layout.runs.begin(), layout.runs.end(), [&](const std::vector<format::Run>& runs) {
    const std::vector<format::Run>& first = layout.runs.front();
    return !std::equal(runs.begin(), runs.end(), first.begin(), first.end(), same);
  });
}

MeanBits mean_bits(const std::vector<HeadPlan>& heads, std::size_t begin, std::size_t end) {
  MeanBits mean;
  double positions = 0;
  for (std::size_t i = begin; i < end; ++i) {
    const auto weight = static_cast<double>(heads[i].num_positions);
    mean.key += weight * heads[i].key_bits;
    mean.value += weight * heads[i].value_bits;
    positions += weight;
  }
  return positions == 0 ? MeanBits() : MeanBits{mean.key / positions, mean.value / positions};
}

std::string key_codec_name(CodecId codec) { return codec == format::kCodecF16 ? "f16" : "k" + std::to_string(codec); }
std::string value_codec_name(CodecId codec) { return codec == format::kCodecF16 ? "f16" : "v" + std::to_string(codec); }
std::string bits_digit(CodecId codec) { return codec == format::kCodecF16 ? "F" : std::to_string(codec); }

std::string plan_chart(const format::KvShape& shape, const std::vector<HeadPlan>& heads) {
  const std::size_t num_heads = shape.num_kv_heads;
  std::vector<double> means;
  for (std::size_t layer = 0; layer < shape.num_layers; ++layer) {
    const MeanBits mean = mean_bits(heads, layer * num_heads, (layer + 1) * num_heads);
    means.push_back((mean.key + mean.value) / 2);
  }
  const double full = *std::max_element(means.begin(), means.end()) > 8 ? 16 : 8;  // bits of a whole bar
  const std::size_t layer_width = std::to_string(shape.num_layers - 1).size();
  std::string text;
  for (std::size_t layer = 0; layer < shape.num_layers; ++layer) {
    const HeadPlan* row = heads.data() + layer * num_heads;
    const std::string number = std::to_string(layer);
    const auto filled = static_cast<std::size_t>(std::lround(means[layer] / full * kBarWidth));
    char mean[16];
    std::snprintf(mean, sizeof mean, "%5.2f", means[layer]);
    text += std::string(kIndent, ' ') + "layer " + std::string(layer_width - number.size(), ' ') + number + "   k " +
            row_digits(row, num_heads, true) + "  v " + row_digits(row, num_heads, false) + "  " +
            std::string(filled, '#') + std::string(kBarWidth - filled, '-') + mean + "\n";
  }
  const bool several = std::any_of(heads.begin(), heads.end(), [](const HeadPlan& head) { return head.num_runs > 1; });
  if (several) text += std::string(kIndent, ' ') + "* has several runs: the bits of the one with most positions\n";
  return text;
}

}  // namespace polykv::cli
