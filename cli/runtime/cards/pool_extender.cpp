#include "cli/runtime/cards/pool_extender.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "cli/runtime/cards/chain_values.h"
#include "core/float16.h"

namespace polykv::runtime {
namespace {

using format::Status;

// One layer of a chain as float16, [kv_head][position][head_dim].
class PastLayers {
 public:
  PastLayers(std::span<const core::KvPool* const> chain, core::Workers& workers)
      : chain_(chain),
        num_kv_heads_(chain.back()->shape().num_kv_heads),
        head_size_(std::size_t{chain.back()->end_position()} * chain.back()->shape().head_dim),
        keys_(num_kv_heads_ * head_size_),
        values_(keys_.size()),
        workers_(workers) {}

  // After an error zeros; the first one is status().
  LayerKv layer(std::uint32_t layer) {
    std::vector<Status> statuses(num_kv_heads_);
    workers_.run(num_kv_heads_, [&](std::size_t kv_head, std::size_t) {
      std::vector<float> keys(head_size_), values(head_size_);
      statuses[kv_head] = dequantize_chain(chain_, layer, static_cast<std::uint32_t>(kv_head), keys, values);
      const auto offset = static_cast<std::ptrdiff_t>(kv_head * head_size_);
      std::transform(keys.begin(), keys.end(), keys_.begin() + offset, core::float_to_float16);
      std::transform(values.begin(), values.end(), values_.begin() + offset, core::float_to_float16);
    });
    for (const Status& status : statuses)
      if (status_) status_ = status;
    return {layer, chain_.back()->end_position(), keys_, values_};
  }
  const Status& status() const { return status_; }

 private:
  std::span<const core::KvPool* const> chain_;
  std::size_t num_kv_heads_, head_size_;
  std::vector<std::uint16_t> keys_, values_;
  core::Workers& workers_;
  Status status_;
};

}  // namespace

format::Result<ExtendReport> extend_pool(const ModelFile& model, CardSpec spec, PrefillRunner& runner,
                                         PrefillOptions prefill, const std::filesystem::path& path,
                                         const format::WriterOptions& options, core::Workers& workers) {
  const std::vector<std::uint32_t> ids = spec.tokens.ids;
  PastLayers past(spec.chain, workers);
  prefill.num_past = spec.chain.back()->end_position();
  prefill.past = [&past](std::uint32_t layer) { return past.layer(layer); };
  POLYKV_TRY(CardWriter writer, CardWriter::create(path, std::move(spec), options, workers));
  const auto start = std::chrono::steady_clock::now();
  const Status ran = runner.prefill(model, ids, prefill, [&](const LayerKv& layer) {
    return past.status() ? writer.layers().write(layer) : past.status();
  });
  POLYKV_CHECK_STATUS(ran);
  ExtendReport report;
  report.prefill_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  POLYKV_CHECK_STATUS(model.check_unchanged());
  POLYKV_TRY(report.pool_bytes, writer.finish());
  return report;
}

}  // namespace polykv::runtime
