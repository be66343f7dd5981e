// Quantizes layer after layer into a pool that is being written: of every head the runs of its layout.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cli/runtime/dimension_weights.h"
#include "cli/runtime/model_runner.h"
#include "core/codec.h"
#include "core/pool.h"
#include "core/workers.h"
#include "format/shape.h"
#include "format/status.h"
#include "format/writer.h"

namespace polykv::runtime {

// One head's, float16 bits [num_tokens][head_dim].
struct HeadKv {
  std::span<const std::uint16_t> keys, values;
};

// Where a head's keys and values come from. Called on some worker's thread, once a head; what it returns stays good
// until its next call with the same worker.
using HeadSource = std::function<HeadKv(std::uint32_t layer, std::uint32_t kv_head, std::size_t worker)>;

class LayerWriter {
 public:
  // Which positions in which codecs: as the writer's layout says. Writer and workers must outlive this; buffers are
  // kept from call to call.
  //   chain   what the pool extends, base first: its means and balances count, if it has any
  LayerWriter(const format::KvShape& shape, DimensionWeights weights, format::PoolWriter& writer,
              core::Workers& workers, std::span<const core::KvPool* const> chain = {});

  // Layers [first_layer, end_layer), which follow those written before. All heads go through the workers together, so
  // several layers at a time keep many threads busy. Errors: kNotFinite, naming layer and kv_head; the writer's.
  format::Status write(std::uint32_t first_layer, std::uint32_t end_layer, const HeadSource& source);

  // A layer as the prefill hands it on.
  format::Status write(const LayerKv& layer);

 private:
  // What a worker copies kept positions to, where these are not all.
  struct Kept {
    std::vector<std::uint16_t> keys, values, transform;
  };
  HeadKv kept_of(const std::vector<format::Run>& runs, const HeadKv& kv, Kept& kept) const;
  format::Status quantize_head(std::size_t head, const HeadKv& kv, Kept& kept);  // index since first_layer_
  std::size_t head_bytes(const std::vector<format::Run>& runs) const;
  std::uint32_t run_positions(const format::Run& run) const;
  core::HeadTransform transform_of(core::CodecPair codec, std::size_t head, const HeadKv& kept,
                                   std::vector<std::uint16_t>& inherited);

  format::KvShape shape_;
  DimensionWeights weights_;
  const core::KvPool* transforms_ = nullptr;  // the pool of the chain that has means
  std::uint32_t first_position_;
  std::uint32_t num_sinks_;
  bool has_means_;  // of its own
  format::PoolWriter& writer_;
  core::Workers& workers_;
  std::vector<Kept> kept_;  // [workers]

  // Of the layers in work.
  std::uint32_t first_layer_ = 0;
  std::vector<std::size_t> head_offsets_;          // in pages_, and their end
  std::vector<std::size_t> first_runs_;            // in exponents_, and their end
  std::vector<format::ScaleExponents> exponents_;  // [head] runs in order
  std::vector<std::byte> pages_;
  std::vector<std::uint16_t> sinks_;  // [head][key, value][num_sinks][head_dim]
  std::vector<std::uint16_t> means_;  // [head][mean, key balance, value balance][head_dim]; empty without means
};

}  // namespace polykv::runtime
