#include "core/trellis.h"

#include <algorithm>
#include <cstddef>

#include "core/codebook.h"

namespace polykv::core {
namespace {

NearestPoints make_nearest_points(unsigned bits) {
  const std::size_t num_points = std::size_t{1} << (bits - 1);
  NearestPoints table{};
  for (unsigned subset = 0; subset < 4; ++subset) {
    const std::int8_t* points = codebook(bits).values + (subset << (bits - 1));
    std::size_t rank = 0;
    for (int doubled = NearestPoints::kLowest; doubled <= NearestPoints::kHighest; ++doubled) {
      while (rank + 1 < num_points && doubled >= points[rank] + points[rank + 1]) ++rank;
      table.entry[static_cast<std::size_t>(doubled - NearestPoints::kLowest)] |=
          std::uint64_t{static_cast<std::uint8_t>(points[rank])} << (8 * subset) | std::uint64_t{rank}
                                                                                       << (40 + 4 * subset);
    }
  }
  return table;
}

}  // namespace

const NearestPoints& nearest_points(unsigned bits) {
  static const std::array<NearestPoints, 5> tables = [] {
    std::array<NearestPoints, 5> all;
    for (unsigned b = 1; b <= 5; ++b) all[b - 1] = make_nearest_points(b);
    return all;
  }();
  return tables[bits - 1];
}

// The bits of positive floats are in the order of the floats, so all of this is arithmetic on them: a unit of the byte
// is 2^18 units of a float's last place, a unit of the exponent 2^23.

std::uint8_t scale_to_byte(float scale, int exponent) {
  const std::int64_t above =
      std::int64_t{std::bit_cast<std::uint32_t>(scale)} - (std::int64_t{exponent + 127} << 23);  // 2^exponent is 0
  const std::int64_t byte = (above + (1 << 17)) >> 18;
  if (byte >= 1) return static_cast<std::uint8_t>(byte);
  return above >= -(1 << 23) ? 1 : 0;
}

std::optional<std::int8_t> scale_exponent(float largest) {
  if (largest == 0.0f) return std::int8_t{0};
  const std::int64_t rounded = std::int64_t{std::bit_cast<std::uint32_t>(largest)} + (1 << 17);
  const int exponent = static_cast<int>(rounded >> 23) - 127 - 7;  // a byte reaches seven powers of two up
  if (exponent > format::kMaxScaleExponent) return std::nullopt;
  return static_cast<std::int8_t>(std::max(exponent, format::kMinScaleExponent));
}

}  // namespace polykv::core
