// Pools in memory for the tests of attention, and plain attention in double over their dequantized values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "core/attend.h"
#include "core/codec.h"
#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "core/rotation.h"
#include "format/page_layout.h"

namespace polykv::tests {

class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  float normal() { return normal_(engine_); }
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(engine_()) % n; }
  std::vector<float> normals(std::size_t count) {
    std::vector<float> out(count);
    for (float& value : out) value = normal();
    return out;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

// One position that a (layer, kv_head) keeps, as a reader of the file sees it.
struct Kept {
  std::uint32_t position;
  std::size_t tile;  // positions of one tile share a number
  bool is_rotated;   // its value codec
  std::vector<float> key, value;
};

// What a test asks for: the runs of every head.
struct RunSpec {
  std::vector<format::PositionRange> positions;
  core::CodecPair codec;
};

// Normal keys (around a mean) and values, quantized by core/codec.
class MemoryPool {
 public:
  MemoryPool(const format::KvShape& shape, std::uint32_t first_position, const std::vector<RunSpec>& runs,
             Random& random)
      : shape_(shape), num_sinks_(first_position == 0 ? std::min(shape.num_tokens, format::kNumSinks) : 0) {
    const std::size_t num_heads = std::size_t{shape.num_layers} * shape.num_kv_heads;
    std::vector<format::Run> head_runs;
    for (const RunSpec& spec : runs) {
      head_runs.push_back({static_cast<std::uint32_t>(layout_.position_sets.size()), spec.codec.key, spec.codec.value});
      layout_.position_sets.push_back({spec.positions});
    }
    layout_.runs.assign(num_heads, head_runs);
    std::uint64_t offset = 0;
    for (auto& head : layout_.runs)
      for (format::Run& run : head) {
        run.pages_offset = offset;
        offset += format::run_bytes(run.key_codec, run.value_codec, shape.head_dim,
                                    layout_.position_sets[run.position_set].num_positions());
      }
    pages_.resize(offset);
    kept_.resize(num_heads);
    for (std::size_t head = 0; head < num_heads; ++head) make_head(head, random, first_position);
    pool_ = std::make_unique<core::KvPool>(core::KvPool::Parts{shape, first_position, num_sinks_, &layout_, pages_,
                                                               std::as_bytes(std::span(sinks_)),
                                                               std::as_bytes(std::span(means_))});
  }

  const core::KvPool& pool() const { return *pool_; }
  const std::vector<Kept>& kept(std::uint32_t layer, std::uint32_t kv_head) const {
    return kept_[layer * shape_.num_kv_heads + kv_head];
  }
  std::span<std::byte> pages() { return pages_; }

 private:
  void make_head(std::size_t head, Random& random, std::uint32_t first_position) {
    const std::size_t dim = shape_.head_dim, count = std::size_t{shape_.num_tokens} * dim;
    std::vector<std::uint16_t> keys(count), values(count);
    const std::vector<float> centre = random.normals(dim);
    for (std::size_t i = 0; i < count; ++i) {
      keys[i] = core::float_to_float16(random.normal() + centre[i % dim]);
      values[i] = core::float_to_float16(random.normal());
    }
    std::vector<std::uint16_t> mean(dim);
    core::mean_of_keys(keys, dim, mean);
    // The same for every pool of a chain, as a child's are its parent's.
    std::vector<std::uint16_t> key_balance, value_balance;
    for (std::size_t d = 0; d < dim; ++d) {
      key_balance.push_back(static_cast<std::uint16_t>(0x3c00 + d % 4 * 0x100));
      value_balance.push_back(static_cast<std::uint16_t>(0x3a00 + d % 3 * 0x200));
    }
    for (const auto& vector : {mean, key_balance, value_balance})
      means_.insert(means_.end(), vector.begin(), vector.end());
    const core::HeadTransform transform{mean, key_balance, value_balance};
    for (const auto* raw : {&keys, &values}) sinks_.insert(sinks_.end(), raw->begin(), raw->begin() + num_sinks_ * dim);
    std::size_t tile = 0;
    for (std::uint32_t i = 0; i < num_sinks_; ++i)
      keep(head, {first_position + i, tile, false, {}, {}}, keys, values, i);
    for (format::Run& run : layout_.runs[head]) make_run(head, run, keys, values, transform, first_position, tile);
  }

  void keep(std::size_t head, Kept kept, std::span<const std::uint16_t> keys, std::span<const std::uint16_t> values,
            std::size_t index) {
    for (std::size_t d = 0; d < shape_.head_dim; ++d) {
      kept.key.push_back(core::float16_to_float(keys[index * shape_.head_dim + d]));
      kept.value.push_back(core::float16_to_float(values[index * shape_.head_dim + d]));
    }
    kept_[head].push_back(std::move(kept));
  }

  void make_run(std::size_t head, format::Run& run, std::span<const std::uint16_t> keys,
                std::span<const std::uint16_t> values, const core::HeadTransform& transform,
                std::uint32_t first_position, std::size_t& tile) {
    const std::size_t dim = shape_.head_dim;
    std::vector<std::uint16_t> run_keys, run_values;
    std::vector<std::uint32_t> positions;
    for (const format::PositionRange& range : layout_.position_sets[run.position_set].ranges)
      for (std::uint32_t p = range.begin; p < range.end; ++p) {
        const std::size_t from = (p - first_position) * dim;
        run_keys.insert(run_keys.end(), keys.begin() + from, keys.begin() + from + dim);
        run_values.insert(run_values.end(), values.begin() + from, values.begin() + from + dim);
        positions.push_back(p);
      }
    const core::CodecPair codec{run.key_codec, run.value_codec};
    const std::span<std::byte> pages =
        std::span(pages_).subspan(run.pages_offset, format::run_bytes(codec.key, codec.value, dim, positions.size()));
    run.exponents = core::quantize_run(codec, run_keys, run_values, dim, transform, pages).value();
    std::vector<float> key(run_keys.size()), value(run_keys.size());
    core::dequantize_run(codec, run.exponents, pages, positions.size(), dim, transform, key, value);
    for (std::size_t i = 0; i < positions.size(); ++i) {
      if (i % 16 == 0) ++tile;
      kept_[head].push_back({positions[i],
                             tile,
                             codec.value != format::kCodecF16,
                             {key.begin() + i * dim, key.begin() + (i + 1) * dim},
                             {value.begin() + i * dim, value.begin() + (i + 1) * dim}});
    }
  }

  format::KvShape shape_;
  std::uint32_t num_sinks_;
  format::Layout layout_;
  std::vector<std::byte> pages_;
  std::vector<std::uint16_t> sinks_, means_;
  std::vector<std::vector<Kept>> kept_;
  std::unique_ptr<core::KvPool> pool_;
};

struct Reference {
  std::vector<double> out;
  double tolerance;  // of the norm of the difference
};

// Plain attention of one query over `kept`, and how far ours may be from it. Errors that the kernels add, with p the
// softmax:
//   query codes: uniform, half a scale at most, so score t is off by scale / sqrt(12) * |key t| (one sigma), which
//   moves the
//     output by p[t] * |value t - out| times that;
//   u8 weights: uniform, a 255th of the tile's largest p * |value|, so a tile adds 16 of them divided by sqrt(12), as
//   squares; float32: scores 2^-24 per dim and term, and a few roundings of everything else: 4e-6 of the scores and of
//   the largest value.
// Five sigma of the first two.
inline Reference attend_plainly(std::span<const float> query, const std::vector<const Kept*>& kept) {
  const std::size_t dim = query.size();
  const double factor = 1 / std::sqrt(static_cast<double>(dim));
  std::vector<float> turned(query.begin(), query.end());
  core::rotate(turned);
  double largest = 0;
  for (std::size_t d = 0; d < dim; ++d)
    largest = std::max({largest, std::fabs(static_cast<double>(query[d])), std::fabs(static_cast<double>(turned[d]))});
  const double query_sigma = largest * factor / 16256 / std::sqrt(12.0);

  const auto norm = [](const std::vector<float>& x) {
    double sum = 0;
    for (const float v : x) sum += static_cast<double>(v) * v;
    return std::sqrt(sum);
  };
  Reference reference{std::vector<double>(dim, 0.0), 0};
  std::vector<double> p(kept.size());
  double max = -1e300, sum = 0;
  for (std::size_t t = 0; t < kept.size(); ++t) {
    for (std::size_t d = 0; d < dim; ++d) p[t] += static_cast<double>(query[d]) * factor * kept[t]->key[d];
    max = std::max(max, p[t]);
  }
  std::vector<double> score = p;
  for (double& x : p) sum += x = std::exp(x - max);
  for (std::size_t t = 0; t < kept.size(); ++t) {
    p[t] /= sum;
    for (std::size_t d = 0; d < dim; ++d) reference.out[d] += p[t] * kept[t]->value[d];
  }
  double by_scores = 0, largest_value = 0, squares = 0, tile_top = 0;
  for (std::size_t t = 0; t < kept.size(); ++t) {
    double distance = 0;
    for (std::size_t d = 0; d < dim; ++d) distance += std::pow(kept[t]->value[d] - reference.out[d], 2);
    const double score_error = 5 * query_sigma * norm(kept[t]->key) + 4e-6 * (1 + std::fabs(score[t]));
    by_scores += p[t] * score_error * std::sqrt(distance);
    largest_value = std::max(largest_value, norm(kept[t]->value));
    if (kept[t]->is_rotated) tile_top = std::max(tile_top, p[t] * norm(kept[t]->value));
    if (t + 1 == kept.size() || kept[t + 1]->tile != kept[t]->tile) {
      squares += 16 * std::pow(tile_top / 255, 2) / 12;
      tile_top = 0;
    }
  }
  reference.tolerance = by_scores + 5 * std::sqrt(squares) + 4e-6 * largest_value;
  return reference;
}

// The norm of the difference.
inline double distance(std::span<const float> out, const std::vector<double>& expected) {
  double sum = 0;
  for (std::size_t d = 0; d < out.size(); ++d) sum += std::pow(out[d] - expected[d], 2);
  return std::sqrt(sum);
}

// Runs `body` once for every kernel table of this machine, by name; the best one is in use afterwards.
template <typename Body>
void for_each_table(const Body& body) {
  for (const core::KernelTable* table : core::supported_kernels()) {
    if (!core::select_kernels(table->name) || core::active_kernels().name != table->name) return body("wrong table");
    body(table->name);
  }
  static_cast<void>(core::select_kernels(core::supported_kernels().front()->name));
}

}  // namespace polykv::tests
