#include "cli/commands/kept_chart.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cli/report.h"

namespace polykv::cli {
namespace {

constexpr std::size_t kIndent = 4;
constexpr char kMarks[] = " .:-=+#";  // of each step

// How many tokens of [begin, end) lie in each cell, added to counts[0, num_cells).
void count_range(const KeptMap& map, std::uint32_t begin, std::uint32_t end, std::uint32_t* counts) {
  if (begin == end) return;
  for (std::size_t cell = map.cell_of(begin); cell < map.num_cells && map.begin_of(cell) < end; ++cell)
    counts[cell] += std::min(end, map.begin_of(cell + 1)) - std::max(begin, map.begin_of(cell));
}

}  // namespace

std::uint32_t KeptMap::begin_of(std::size_t cell) const {
  return static_cast<std::uint32_t>(std::uint64_t{cell} * num_tokens / num_cells);
}

// The last cell that does not begin after the token.
std::size_t KeptMap::cell_of(std::uint32_t token) const {
  return ((std::uint64_t{token} + 1) * num_cells - 1) / num_tokens;
}

double KeptMap::share_of_layer(std::size_t layer) const {
  double sum = 0;
  for (std::size_t cell = 0; cell < num_cells; ++cell)
    sum += share(layer, cell) * (begin_of(cell + 1) - begin_of(cell));
  return sum / num_tokens;
}

bool KeptMap::keeps_all() const {
  return std::all_of(shares.begin(), shares.end(), [](double share) { return share == 1.0; });
}

KeptMap kept_map(const format::PoolReader& reader, std::size_t most_cells) {
  const format::KvShape& shape = reader.shape();
  const format::Layout& layout = reader.layout();
  KeptMap map{.num_layers = shape.num_layers,
              .num_tokens = shape.num_tokens,
              .num_cells = std::min<std::size_t>(most_cells, shape.num_tokens),
              .shares = {}};
  // Many heads may have one long set: each is counted once.
  const std::size_t num_sets = layout.position_sets.size(), first = reader.first_position();
  std::vector<std::uint32_t> of_sets(num_sets * map.num_cells), of_sinks(map.num_cells);
  for (std::size_t set = 0; set < num_sets; ++set) {
    for (const format::PositionRange range : layout.position_sets[set].ranges)
      count_range(map, static_cast<std::uint32_t>(range.begin - first), static_cast<std::uint32_t>(range.end - first),
                  of_sets.data() + set * map.num_cells);
  }
  count_range(map, 0, reader.num_sinks(), of_sinks.data());
  for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer) {
    std::vector<std::uint64_t> kept(map.num_cells);
    for (std::uint32_t head = 0; head < shape.num_kv_heads; ++head) {
      for (std::size_t cell = 0; cell < map.num_cells; ++cell) kept[cell] += of_sinks[cell];
      for (const format::Run& run : layout.runs[std::size_t{layer} * shape.num_kv_heads + head]) {
        const std::uint32_t* counts = of_sets.data() + run.position_set * map.num_cells;
        for (std::size_t cell = 0; cell < map.num_cells; ++cell) kept[cell] += counts[cell];
      }
    }
    for (std::size_t cell = 0; cell < map.num_cells; ++cell) {
      const std::uint64_t all = std::uint64_t{shape.num_kv_heads} * (map.begin_of(cell + 1) - map.begin_of(cell));
      map.shares.push_back(static_cast<double>(kept[cell]) / static_cast<double>(all));
    }
  }
  return map;
}

int kept_step(double share) {
  return share <= 0 ? 0 : std::clamp(static_cast<int>(std::ceil(share * kKeptSteps)), 1, kKeptSteps);
}

std::string kept_chart(const KeptMap& map) {
  const std::size_t layer_width = std::to_string(map.num_layers - 1).size();
  std::string text;
  for (std::size_t layer = 0; layer < map.num_layers; ++layer) {
    const std::string number = std::to_string(layer);
    text += std::string(kIndent, ' ') + "layer " + std::string(layer_width - number.size(), ' ') + number + "   |";
    for (std::size_t cell = 0; cell < map.num_cells; ++cell) text += kMarks[kept_step(map.share(layer, cell))];
    char percent[16];
    std::snprintf(percent, sizeof percent, "| %5.1f %%\n", 100 * map.share_of_layer(layer));
    text += percent;
  }
  return text + std::string(kIndent, ' ') + "blank: nothing; then . : - = + # for each sixth more that is kept\n";
}

}  // namespace polykv::cli
