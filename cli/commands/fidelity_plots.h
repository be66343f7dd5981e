// The pictures of a pool's plan and of what it does to the answers, as SVG.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cli/commands/plan_chart.h"
#include "cli/runtime/codec_plan.h"
#include "cli/runtime/sensitivity.h"
#include "format/shape.h"

namespace polykv::cli {

// More heads, or more positions, are not drawn: the largest models known have half as many.
inline constexpr std::size_t kMostHeadsDrawn = 16384;
inline constexpr std::size_t kMostPositionsDrawn = 4096;

// Bits by layer and kv_head: of the keys, or of the values.
std::string bits_svg(const format::KvShape& shape, const std::vector<HeadPlan>& heads, bool is_key);

// The KL divergence expected from each layer's keys and from its values.
struct LayerDamage {
  double key = 0, value = 0;
};
std::vector<LayerDamage> damage_of_layers(const format::KvShape& shape,
                                          std::span<const runtime::Sensitivity> sensitivities,
                                          const runtime::CodecPlan& plan);
std::string damage_svg(const std::vector<LayerDamage>& layers);

// What the tail probe measured at each position, and its mean; `first` is the position of the first.
std::string positions_svg(const std::vector<double>& klds, std::uint64_t first);

// What the pool is, on the plane of size and divergence. NaN: not measured.
struct PoolPoint {
  double bits_per_value = 0;
  double expected_kld = 0;
  double tail_kld = 0, tail_kld_stderr = 0;
};
// Plans that these sensitivities lead to, at 2.25 to 6 bits a value; presets, one codec for all; and the pool. Empty if
// nothing can be drawn: documents of a few tokens need more bits.
std::string size_svg(const format::KvShape& shape, std::span<const runtime::Sensitivity> sensitivities,
                     const PoolPoint& pool);

}  // namespace polykv::cli
