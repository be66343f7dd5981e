#include "cli/runtime/attention_step.h"

#include <random>

#include "format/page_layout.h"

namespace polykv::runtime {

AttentionStep::AttentionStep(const core::KvPool& pool, std::uint32_t num_layers, std::uint32_t num_q_heads,
                             std::size_t num_agents, std::uint32_t depth, core::Workers& workers)
    : pool_(pool),
      num_layers_(num_layers),
      num_q_heads_(num_q_heads),
      workers_(workers),
      visible_{{pool.first_position(), pool.first_position() + depth}} {
  const std::size_t width = std::size_t{num_q_heads} * pool.shape().head_dim;
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  queries_.resize(num_agents * width);
  out_.resize(queries_.size());
  for (float& value : queries_) value = normal(random);
  for (std::size_t i = 0; i < num_agents; ++i)
    rows_.push_back({queries_.data() + i * width, out_.data() + i * width, visible_, nullptr, 0});
}

format::Status AttentionStep::run() {
  const core::KvPool* chain[] = {&pool_};
  const format::KvShape& shape = pool_.shape();
  for (std::uint32_t layer = 0; layer < num_layers_; ++layer) {
    POLYKV_CHECK_STATUS(core::attend(chain, layer % shape.num_layers, num_q_heads_, shape.num_kv_heads, shape.head_dim,
                                     rows_, workers_, scratch_));
  }
  return {};
}

std::uint64_t AttentionStep::page_bytes() const {
  const format::KvShape& shape = pool_.shape();
  std::uint64_t bytes = 0;
  for (std::uint32_t layer = 0; layer < num_layers_; ++layer) {
    for (std::uint32_t kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
      for (const core::KvPool::Run& run : pool_.runs(layer % shape.num_layers, kv_head)) {
        const std::uint32_t num_slots = run.slots_below(visible_.front().end);
        bytes += format::run_bytes(run.codec.key, run.codec.value, shape.head_dim, num_slots);
      }
    }
  }
  return bytes;
}

}  // namespace polykv::runtime
