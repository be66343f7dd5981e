// CaM, a reconstruction: H2O decides what is kept; the value of a position that is dropped is added, in equal parts, to
// those of the kept positions that follow it, if a coin says so. The coin's chance is the attention that the position
// gets, relative to those it would be added to. How many there are, and what stands for the attention after a whole
// document, is ours (spec/retention.md).
#include <algorithm>

#include "cli/runtime/retention/head_vectors.h"
#include "cli/runtime/retention/policy.h"
#include "core/float16.h"
#include "format/shape.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kTargets = 32;
constexpr float kCoins = 0x1p24f;  // uniform_number is below

}  // namespace

void merge_cam(const MergedHead& head) {
  const std::size_t num_tokens = head.scores.size(), dim = head.head_dim;
  // The mean weight in the rows that see a position.
  const auto attention = [&](std::size_t t) { return head.scores[t] / static_cast<float>(num_tokens - t); };
  std::vector<std::size_t> kept;  // but for the sinks
  for (std::size_t t = format::kNumSinks; t < num_tokens; ++t)
    if (head.kept[t]) kept.push_back(t);
  std::vector<float> added(num_tokens * dim);
  std::size_t first = 0;
  for (std::size_t t = format::kNumSinks; t < num_tokens; ++t) {
    if (head.kept[t]) continue;
    while (first < kept.size() && kept[first] < t) ++first;
    const std::size_t count = std::min(kTargets, kept.size() - first);
    if (count == 0) continue;
    float mean = 0.0f;
    for (std::size_t i = 0; i < count; ++i) mean += attention(kept[first + i]) / static_cast<float>(count);
    if (!(uniform_number(head.layer, head.kv_head, t) * mean < attention(t) * kCoins)) continue;
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t d = 0; d < dim; ++d)
        added[kept[first + i] * dim + d] +=
            core::float16_to_float(head.values[t * dim + d]) / static_cast<float>(count);
  }
  for (const std::size_t t : kept)
    for (std::size_t d = 0; d < dim; ++d)
      head.values[t * dim + d] = finite_float16(core::float16_to_float(head.values[t * dim + d]) + added[t * dim + d]);
}

}  // namespace polykv::runtime
