#include <algorithm>
#include <cmath>
#include <numbers>

#include "cli/runtime/retention/head_vectors.h"
#include "cli/runtime/retention/layer_attention.h"
#include "cli/runtime/retention/packed_keys.h"
#include "cli/runtime/retention/policy.h"
#include "core/float16.h"
#include "core/kernels/attention.h"
#include "format/shape.h"

namespace polykv::runtime {
namespace {

// A kept position that a dropped one is most like, and how much: the cosine of their keys.
struct Nearest {
  std::size_t dropped, kept;
  float cosine;
};

std::vector<Nearest> nearest_kept(const MergedHead& head, std::span<const std::size_t> kept,
                                  std::span<const std::size_t> dropped) {
  const std::size_t dim = head.head_dim;
  const auto key_of = [&](std::size_t t) { return head.keys.subspan(t * dim, dim); };
  std::vector<std::uint16_t> kept_keys;
  std::vector<float> inverse_norms;
  std::vector<float> key(dim);
  const auto load = [&](std::size_t t) {
    std::transform(key_of(t).begin(), key_of(t).end(), key.begin(), core::float16_to_float);
    const double norm = vector_norm(key);
    return norm > 0.0 ? static_cast<float>(1.0 / norm) : 0.0f;
  };
  for (const std::size_t t : kept) {
    kept_keys.insert(kept_keys.end(), key_of(t).begin(), key_of(t).end());
    inverse_norms.push_back(load(t));
  }
  const PackedKeys packed(kept_keys, dim);
  std::vector<Nearest> nearest;
  std::vector<float> queries(core::kMaxVectors * dim), products(core::kMaxVectors * packed.num_slots());
  for (std::size_t first = 0; first < dropped.size(); first += core::kMaxVectors) {
    const std::size_t count = std::min(core::kMaxVectors, dropped.size() - first);
    for (std::size_t i = 0; i < count; ++i) {
      const float inverse = load(dropped[first + i]);
      for (std::size_t d = 0; d < dim; ++d) queries[i * dim + d] = key[d] * inverse;
    }
    packed.score(queries.data(), count, {0, packed.num_slots()}, products.data(), packed.num_slots());
    for (std::size_t i = 0; i < count; ++i) {
      const float* row = products.data() + i * packed.num_slots();
      Nearest best{dropped[first + i], kept[0], row[0] * inverse_norms[0]};
      for (std::size_t j = 1; j < kept.size(); ++j)
        if (row[j] * inverse_norms[j] > best.cosine) best = {dropped[first + i], kept[j], row[j] * inverse_norms[j]};
      nearest.push_back(best);
    }
  }
  return nearest;
}

double variance(std::span<const float> values) {
  const auto count = static_cast<double>(values.size());
  double mean = 0.0, squares = 0.0;
  for (const float value : values) mean += double{value} / count;
  for (const float value : values) squares += (double{value} - mean) * (double{value} - mean);
  return values.size() > 1 ? squares / (count - 1.0) : 0.0;
}

}  // namespace

// H2O's score. The layer's weight is exp(-v), v the mean over q_heads of the variance of the sums that positions get,
// on a scale from the head with the least (0) to that with the most (1).
RetentionScores score_d2o(const RetentionLayer& layer) {
  const std::size_t num_tokens = layer.num_tokens(), num_q_heads = layer.config.num_q_heads;
  const std::vector<float> sums = LayerAttention(layer).sum_rows({0, num_tokens});
  std::vector<double> variances;
  for (std::size_t q_head = 0; q_head < num_q_heads; ++q_head)
    variances.push_back(variance(std::span(sums).subspan(q_head * num_tokens, num_tokens)));
  const auto [least, most] = std::minmax_element(variances.begin(), variances.end());
  double mean = 0.0;
  for (const double value : variances) mean += (value - *least) / (*most - *least + 1e-6) / layer.config.num_q_heads;
  return {sum_groups(layer, sums), std::exp(-mean)};
}

// The first two layers and the last are kept whole, if that takes no more than half of all; the rest by weight.
std::vector<std::uint32_t> share_d2o(std::uint64_t total, std::span<const double> weights, std::uint32_t least,
                                     std::uint32_t most) {
  constexpr std::size_t kFirst = 2, kLast = 1;
  const std::uint64_t whole = std::uint64_t{most} * (kFirst + kLast);
  if (weights.size() <= kFirst + kLast || 2 * whole > total) return share_out(total, weights, least, most);
  std::vector<std::uint32_t> shares =
      share_out(total - whole, weights.subspan(kFirst, weights.size() - kFirst - kLast), least, most);
  shares.insert(shares.begin(), kFirst, most);
  shares.insert(shares.end(), kLast, most);
  return shares;
}

// Each dropped position goes to the kept one that its key is most like, if it is like it at least as much as dropped
// ones are on average (the moving threshold's first value; a document is dropped from once). A kept key, and its value,
// is then the mean of its own, of weight e, and of those that came, of weight exp(cosine).
void merge_d2o(const MergedHead& head) {
  std::vector<std::size_t> kept, dropped;
  for (std::size_t t = format::kNumSinks; t < head.scores.size(); ++t) (head.kept[t] ? kept : dropped).push_back(t);
  if (kept.empty() || dropped.empty()) return;
  const std::vector<Nearest> nearest = nearest_kept(head, kept, dropped);
  double threshold = 0.0;
  for (const Nearest& one : nearest) threshold += double{one.cosine} / static_cast<double>(nearest.size());
  const std::size_t dim = head.head_dim;
  const auto merge = [&](std::span<std::uint16_t> vectors) {
    std::vector<float> sums(head.scores.size() * dim), weights(head.scores.size());
    for (const Nearest& one : nearest) {
      if (double{one.cosine} < threshold) continue;
      const float weight = std::exp(one.cosine);
      weights[one.kept] += weight;
      for (std::size_t d = 0; d < dim; ++d)
        sums[one.kept * dim + d] += weight * core::float16_to_float(vectors[one.dropped * dim + d]);
    }
    for (const std::size_t t : kept) {
      if (weights[t] == 0.0f) continue;
      constexpr auto kOwn = std::numbers::e_v<float>;
      for (std::size_t d = 0; d < dim; ++d) {
        const float own = core::float16_to_float(vectors[t * dim + d]);
        vectors[t * dim + d] = finite_float16((kOwn * own + sums[t * dim + d]) / (kOwn + weights[t]));
      }
    }
  };
  merge(head.values);
  merge(head.keys);
}

}  // namespace polykv::runtime
