// Where along the document a pool keeps positions, layer by layer: as numbers, and as a chart for a terminal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "format/reader.h"

namespace polykv::cli {

// The document in cells of equally many tokens, or one more: cell c begins at token c * num_tokens / num_cells.
struct KeptMap {
  std::uint32_t num_layers = 0, num_tokens = 0;
  std::size_t num_cells = 0;   // no more than tokens
  std::vector<double> shares;  // [layer][cell]: what the layer's kv_heads keep of the cell, sinks and all, from 0 to 1

  std::uint32_t begin_of(std::size_t cell) const;
  std::size_t cell_of(std::uint32_t token) const;
  double share(std::size_t layer, std::size_t cell) const { return shares[layer * num_cells + cell]; }
  double share_of_layer(std::size_t layer) const;
  bool keeps_all() const;
};
KeptMap kept_map(const format::PoolReader& reader, std::size_t most_cells);

// Shares in steps that a picture can show: 0 is nothing, and only that; 1 is up to a sixth, 6 more than five.
inline constexpr int kKeptSteps = 6;
int kept_step(double share);

// A row a layer: a mark for each cell, denser where more is kept, and the layer's share. Then what the marks mean.
inline constexpr std::size_t kChartCells = 40;
std::string kept_chart(const KeptMap& map);

}  // namespace polykv::cli
