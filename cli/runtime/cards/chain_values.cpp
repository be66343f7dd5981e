#include "cli/runtime/cards/chain_values.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/codec.h"
#include "core/float16.h"
#include "format/bytes.h"

namespace polykv::runtime {
namespace {

using core::KvPool;
using format::Error;
using format::ErrorCode;
using format::Status;

std::vector<std::uint16_t> float16_bits(std::span<const std::byte> bytes) {
  std::vector<std::uint16_t> bits(bytes.size() / 2);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = format::load_le16(bytes.data() + 2 * i);
  return bits;
}

void place_float16(std::span<const std::byte> values, std::span<float> out) {
  const std::vector<std::uint16_t> bits = float16_bits(values);
  std::transform(bits.begin(), bits.end(), out.begin(), core::float16_to_float);
}

Status check_keeps_all(const KvPool& pool, std::uint32_t layer, std::uint32_t kv_head) {
  std::uint64_t kept = pool.num_sinks();
  for (const KvPool::Run& run : pool.runs(layer, kv_head)) kept += run.num_positions;
  if (kept == pool.shape().num_tokens) return {};
  return Error(ErrorCode::kUnsupportedFeature, "layer " + std::to_string(layer) + ", kv_head " +
                                                   std::to_string(kv_head) + " keeps " + std::to_string(kept) + " of " +
                                                   std::to_string(pool.shape().num_tokens) +
                                                   " positions; all of them are needed here");
}

void place_run(const KvPool::Run& run, const core::HeadTransform& transform, std::uint32_t first_position,
               std::size_t dim, std::span<float> keys, std::span<float> values) {
  std::vector<float> run_keys(run.num_positions * dim), run_values(run.num_positions * dim);
  core::dequantize_run(run.codec, run.exponents, run.pages, run.num_positions, dim, transform, run_keys, run_values);
  std::size_t slot = 0;
  for (const format::PositionRange& range : run.positions) {
    const std::size_t first = (range.begin - first_position) * dim, count = (range.end - range.begin) * dim;
    std::copy_n(run_keys.data() + slot, count, keys.data() + first);
    std::copy_n(run_values.data() + slot, count, values.data() + first);
    slot += count;
  }
}

}  // namespace

Status dequantize_pool(std::span<const KvPool* const> chain, std::size_t index, std::uint32_t layer,
                       std::uint32_t kv_head, std::span<float> keys, std::span<float> values) {
  const KvPool& pool = *chain[index];
  POLYKV_CHECK_STATUS(pool.check_layer(layer));
  POLYKV_CHECK_STATUS(check_keeps_all(pool, layer, kv_head));
  // Those of the one pool that has some; codecs of pools before it need none.
  std::vector<std::uint16_t> mean, key_balance, value_balance;
  for (const KvPool* one : chain) {
    const KvPool::Transform own = one->transform(layer, kv_head);
    if (own.mean.empty()) continue;
    POLYKV_CHECK_STATUS(one->check_layer(layer));
    mean = float16_bits(own.mean);
    key_balance = float16_bits(own.key_balance);
    value_balance = float16_bits(own.value_balance);
  }
  place_float16(pool.sink_keys(layer, kv_head), keys);
  place_float16(pool.sink_values(layer, kv_head), values);
  for (const KvPool::Run& run : pool.runs(layer, kv_head)) {
    place_run(run, {mean, key_balance, value_balance}, pool.first_position(), pool.shape().head_dim, keys, values);
  }
  return {};
}

Status dequantize_chain(std::span<const KvPool* const> chain, std::uint32_t layer, std::uint32_t kv_head,
                        std::span<float> keys, std::span<float> values) {
  for (std::size_t i = 0; i < chain.size(); ++i) {
    const std::size_t dim = chain[i]->shape().head_dim, first = chain[i]->first_position() * dim,
                      count = chain[i]->shape().num_tokens * dim;
    POLYKV_CHECK_STATUS(
        dequantize_pool(chain, i, layer, kv_head, keys.subspan(first, count), values.subspan(first, count)));
  }
  return {};
}

}  // namespace polykv::runtime
