#include "cli/runtime/retention/packed_keys.h"

#include <algorithm>

#include "core/kernels/attention.h"
#include "core/kernels/kernels.h"
#include "format/page_layout.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kTile = format::kTileTokens;
constexpr std::size_t kPage = format::kPageTokens;

}  // namespace

PackedKeys::PackedKeys(std::span<const std::uint16_t> keys, std::size_t head_dim)
    : head_dim_(head_dim),
      num_slots_((keys.size() / head_dim + kTile - 1) / kTile * kTile),
      tiles_(num_slots_ * head_dim) {
  for (std::size_t t = 0; t < keys.size() / head_dim; ++t)
    for (std::size_t d = 0; d < head_dim; ++d)
      tiles_[(t / kTile * head_dim + d) * kTile + t % kTile] = keys[t * head_dim + d];
}

void PackedKeys::score(const float* queries, std::size_t num_vectors, Slots slots, float* out,
                       std::size_t stride) const {
  const core::AttentionKernels& kernels = *core::active_kernels().attention;
  std::vector<float> partial(num_vectors * core::kScoreStride);
  for (std::size_t first = slots.begin; first < slots.end; first += core::kPartialSlots) {
    const std::size_t count = std::min(core::kPartialSlots, slots.end - first);
    for (std::size_t slot = 0; slot < count; slot += kPage) {
      const auto* page = reinterpret_cast<const std::byte*>(tiles_.data() + (first + slot) * head_dim_);
      kernels.score_float16({nullptr, page, std::min(kPage, count - slot) / kTile, head_dim_, 0}, queries, num_vectors,
                            partial.data() + slot);
    }
    for (std::size_t v = 0; v < num_vectors; ++v)
      std::copy_n(partial.data() + v * core::kScoreStride, count, out + v * stride + first - slots.begin);
  }
}

}  // namespace polykv::runtime
