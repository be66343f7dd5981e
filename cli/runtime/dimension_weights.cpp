#include "cli/runtime/dimension_weights.h"

#include <algorithm>

#include "format/section.h"

namespace polykv::runtime {

std::vector<float> output_squares(const ModelFile& model, core::Workers& workers) {
  const ModelConfig& config = model.config();
  const std::size_t dim = config.head_dim, layer_size = config.num_kv_heads * dim;
  std::vector<float> result(config.num_layers * layer_size);
  workers.run(config.num_layers, [&](std::size_t layer, std::size_t) {
    const core::WeightMatrix& output = model.weights().layers[layer].attention_output;
    std::vector<float> row(output.num_cols);
    std::vector<double> sums(layer_size, 0.0);
    for (std::size_t r = 0; r < output.num_rows; ++r) {
      core::dequantize_row(output, r, row);
      for (std::size_t c = 0; c < row.size(); ++c)
        sums[c / dim / config.q_per_kv() * dim + c % dim] += double{row[c]} * double{row[c]};
    }
    for (std::size_t i = 0; i < layer_size; ++i) result[layer * layer_size + i] = static_cast<float>(sums[i]);
  });
  return result;
}

core::HeadTransform make_transform(core::CodecPair codec, std::span<const std::uint16_t> keys,
                                   std::span<const std::uint16_t> values, const DimensionWeights& weights,
                                   std::size_t head, std::span<std::uint16_t> vectors) {
  if (vectors.empty()) return {};
  const std::size_t dim = vectors.size() / format::kMeanVectors;
  const std::span<std::uint16_t> mean = vectors.subspan(0, dim), key_balance = vectors.subspan(dim, dim),
                                 value_balance = vectors.subspan(2 * dim, dim);
  constexpr std::uint16_t kOne = 0x3c00;
  std::fill(mean.begin(), mean.end(), std::uint16_t{0});
  std::fill(key_balance.begin(), key_balance.end(), kOne);
  std::fill(value_balance.begin(), value_balance.end(), kOne);
  if (format::key_codec_removes_mean(codec.key)) {
    core::mean_of_keys(keys, dim, mean);
    if (!weights.keys.empty() && !keys.empty())
      core::balance_of(keys, mean, std::span(weights.keys).subspan(head * dim, dim), core::kKeyBalancePower,
                       key_balance);
  }
  if (codec.value != format::kCodecF16 && !weights.values.empty() && !values.empty()) {
    core::balance_of(values, {}, std::span(weights.values).subspan(head * dim, dim), core::kValueBalancePower,
                     value_balance);
  }
  return {mean, key_balance, value_balance};
}

}  // namespace polykv::runtime
