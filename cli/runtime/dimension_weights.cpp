#include "cli/runtime/dimension_weights.h"

#include <span>

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

}  // namespace polykv::runtime
