#include "cli/runtime/pool_builder.h"

#include <chrono>
#include <cstring>

#include "format/page_layout.h"

namespace polykv::runtime {
namespace {

using Clock = std::chrono::steady_clock;
using format::Error;
using format::ErrorCode;
using format::Status;

constexpr std::uint64_t kMaxSourceBytes = std::uint64_t{1} << 30;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

format::Identity make_identity(const BuildRequest& request, const PoolPrompt& prompt, const PrefillRunner& runner,
                               NumberType prefill_type) {
  format::Identity identity = make_model_identity(*request.model, *request.chat, request.system);
  identity.set("codec.name", core::codec_name(request.codec));
  identity.set("codec.rotation", "signs-hadamard/1");
  identity.set("codec.codebooks", "lloyd-max/1");
  identity.set("prefill.type", number_type_name(prefill_type));
  identity.set("prefill.runner", runner.version());
  identity.set("document.count", std::to_string(request.documents.size()));
  for (std::size_t i = 0; i < request.documents.size(); ++i) {
    const std::string prefix = "document." + std::to_string(i) + ".";
    identity.set(prefix + "name", request.documents[i].name);
    identity.set(prefix + "bytes", std::to_string(request.documents[i].text.size()));
  }
  if (!prompt.open_prefix.empty()) identity.set("prompt.open_prefix", prompt.open_prefix);
  identity.set("writer.program", "polykv " POLYKV_VERSION);
  return identity;
}

// Quantizes one layer after another and hands it to the writer. Buffers are kept from layer to layer.
class LayerWriter {
 public:
  LayerWriter(const BuildRequest& request, const format::KvShape& shape, format::PoolWriter& writer,
              core::Workers& workers)
      : codec_(request.codec),
        shape_(shape),
        num_sinks_(std::min(shape.num_tokens, format::kNumSinks)),
        writer_(writer),
        workers_(workers),
        head_pages_bytes_(format::run_bytes(codec_.key, codec_.value, shape.head_dim, shape.num_tokens - num_sinks_)),
        pages_(head_pages_bytes_ * shape.num_kv_heads),
        sinks_(std::size_t{2} * num_sinks_ * shape.head_dim * shape.num_kv_heads),
        means_(format::key_codec_removes_mean(codec_.key) ? std::size_t{shape.head_dim} * shape.num_kv_heads : 0) {}

  Status write(const LayerKv& layer) {
    std::vector<Status> statuses(shape_.num_kv_heads);
    workers_.run(shape_.num_kv_heads,
                 [&](std::size_t head, std::size_t) { statuses[head] = quantize_head(layer, head); });
    for (std::size_t head = 0; head < statuses.size(); ++head) {
      if (statuses[head]) continue;
      return Error(statuses[head].error().code, "layer " + std::to_string(layer.layer) + ", kv_head " +
                                                    std::to_string(head) + ": " + statuses[head].error().message);
    }
    return writer_.write_layer(layer.layer, pages_, std::as_bytes(std::span(sinks_)), std::as_bytes(std::span(means_)));
  }

 private:
  Status quantize_head(const LayerKv& layer, std::size_t head) {
    const std::size_t head_values = std::size_t{shape_.num_tokens} * shape_.head_dim;
    const std::size_t sink_values = std::size_t{num_sinks_} * shape_.head_dim;
    const auto keys = layer.keys.subspan(head * head_values, head_values);
    const auto values = layer.values.subspan(head * head_values, head_values);
    std::uint16_t* sinks = sinks_.data() + head * 2 * sink_values;
    std::copy_n(keys.begin(), sink_values, sinks);
    std::copy_n(values.begin(), sink_values, sinks + sink_values);
    std::span<std::uint16_t> mean;
    if (!means_.empty()) {
      mean = std::span(means_).subspan(head * shape_.head_dim, shape_.head_dim);
      core::mean_of_keys(keys.subspan(sink_values), shape_.head_dim, mean);
    }
    return core::quantize_run(codec_, keys.subspan(sink_values), values.subspan(sink_values), shape_.head_dim, mean,
                              std::span(pages_).subspan(head * head_pages_bytes_, head_pages_bytes_));
  }

  core::CodecPair codec_;
  format::KvShape shape_;
  std::uint32_t num_sinks_;
  format::PoolWriter& writer_;
  core::Workers& workers_;
  std::size_t head_pages_bytes_;
  std::vector<std::byte> pages_;
  std::vector<std::uint16_t> sinks_;
  std::vector<std::uint16_t> means_;
};

}  // namespace

Status check_documents(std::span<const Document> documents) {
  std::uint64_t bytes = 0;
  for (const Document& document : documents) {
    if (document.text.empty()) return Error(ErrorCode::kUnusableText, document.name + ": the document is empty");
    if (const auto offset = find_invalid_utf8(document.text)) {
      return Error(ErrorCode::kUnusableText, *offset,
                   document.name + ": not UTF-8 at byte " + std::to_string(*offset) +
                       "; convert it first, for example with iconv");
    }
    bytes += document.text.size();
  }
  if (bytes > kMaxSourceBytes) return Error(ErrorCode::kUnusableText, "the documents are larger than 1 GiB");
  return {};
}

format::Result<PoolPrompt> make_prompt(const BuildRequest& request) {
  std::vector<std::string> texts;
  for (const Document& document : request.documents) texts.push_back(document.text);
  PoolPrompt prompt = make_pool_prompt(request.model->tokenizer, *request.chat,
                                       join_documents(request.model->tokenizer, *request.chat, texts));
  const std::size_t num_tokens = prompt.tokens.ids.size();
  const std::uint32_t context = request.model->config().context_length;
  if (num_tokens == 0) {
    return Error(ErrorCode::kUnusableText, "the text has no token that later text cannot change; add more text");
  }
  if (num_tokens >= context) {
    return Error(ErrorCode::kUnusableText, "the documents have " + std::to_string(num_tokens) +
                                               " tokens with the template; " + std::to_string(context - 1) +
                                               " fit the model's context");
  }
  return prompt;
}

format::Result<BuildReport> build_pool(const BuildRequest& request, PoolPrompt prompt, PrefillRunner& runner,
                                       const PrefillOptions& prefill_options, const std::filesystem::path& path,
                                       const format::WriterOptions& writer_options, core::Workers& workers) {
  const ModelConfig& config = request.model->config();
  BuildReport report;
  report.tokens = static_cast<std::uint32_t>(prompt.tokens.ids.size());
  const format::KvShape shape{config.num_layers, config.num_kv_heads, config.head_dim, report.tokens};
  const std::vector<std::uint32_t> ids = prompt.tokens.ids;
  format::PoolSpec spec;
  spec.shape = shape;
  spec.identity = make_identity(request, prompt, runner, prefill_options.type);
  spec.tokens = std::move(prompt.tokens);
  spec.layout = format::Layout::uniform(shape, 0, request.codec.key, request.codec.value);
  spec.has_means = format::key_codec_removes_mean(request.codec.key);
  spec.created = request.created;
  POLYKV_TRY(format::PoolWriter writer, format::PoolWriter::create(path, std::move(spec), writer_options));

  LayerWriter layers(request, shape, writer, workers);
  const Clock::time_point start = Clock::now();
  POLYKV_CHECK_STATUS(runner.prefill(request.model->file, ids, prefill_options, [&](const LayerKv& layer) {
    const Clock::time_point layer_start = Clock::now();
    Status status = layers.write(layer);
    report.quantize_ms += milliseconds_since(layer_start);
    return status;
  }));
  report.prefill_ms = milliseconds_since(start) - report.quantize_ms;
  const Clock::time_point finish_start = Clock::now();
  POLYKV_CHECK_STATUS(writer.finish({}));
  report.quantize_ms += milliseconds_since(finish_start);
  std::error_code error;
  report.pool_bytes = std::filesystem::file_size(path, error);
  return report;
}

}  // namespace polykv::runtime
