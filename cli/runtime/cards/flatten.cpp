#include "cli/runtime/cards/flatten.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/cards/card_writer.h"
#include "cli/runtime/codec_plan.h"
#include "cli/runtime/prompt.h"

namespace polykv::runtime {
namespace {

using format::Result;
using format::Status;

// What a pool leaves open is at the beginning of the next one's text too.
Result<format::Tokens> join_tokens(std::span<const ChainLink> chain) {
  format::Tokens all;
  for (const ChainLink& link : chain) {
    const format::Tokens& own = link.reader->tokens();
    const auto before = static_cast<std::uint32_t>(all.text.size());
    all.ids.insert(all.ids.end(), own.ids.begin(), own.ids.end());
    for (const std::uint32_t begin : own.text_begin) all.text_begin.push_back(before + begin);
    for (const std::uint32_t end : own.text_end) all.text_end.push_back(before + end);
    POLYKV_TRY(const std::string text, link.reader->source_text());
    const bool is_last = &link == &chain.back();
    const std::size_t closed = own.text_end.empty() ? 0 : own.text_end.back();
    all.text += is_last ? std::string_view(text) : std::string_view(text).substr(0, closed);
  }
  return all;
}

format::Layout join_layouts(std::span<const ChainLink> chain) {
  format::Layout all;
  all.runs.resize(chain.front().reader->layout().runs.size());
  for (const ChainLink& link : chain) {
    const format::Layout& own = link.reader->layout();
    const auto first_set = static_cast<std::uint32_t>(all.position_sets.size());
    all.position_sets.insert(all.position_sets.end(), own.position_sets.begin(), own.position_sets.end());
    for (std::size_t head = 0; head < own.runs.size(); ++head) {
      for (format::Run run : own.runs[head]) {
        run.position_set += first_set;
        all.runs[head].push_back(run);
      }
    }
  }
  return all;
}

std::string codec_name_of(const format::Layout& layout) {
  CodecPlan pairs;
  for (const auto& head : layout.runs)
    for (const format::Run& run : head) pairs.push_back({run.key_codec, run.value_codec});
  return pairs.empty() ? "f16" : plan_name(pairs);
}

// The base's, less what is of one part of the chain; the documents of all, numbered anew; the end of the last.
format::Identity join_identities(std::span<const ChainLink> chain, const format::Layout& layout) {
  format::Identity all;
  for (const auto& [name, value] : chain.front().reader->identity().fields())
    if (!name.starts_with("document.") && !name.starts_with("prompt.") && name != "codec.plan") all.set(name, value);
  std::size_t num_documents = 0;
  for (const ChainLink& link : chain) {
    for (std::size_t i = 0;; ++i) {
      const std::string from = "document." + std::to_string(i) + ".";
      const auto name = link.reader->identity().get(from + "name"), bytes = link.reader->identity().get(from + "bytes");
      if (!name) break;
      const std::string to = "document." + std::to_string(num_documents++) + ".";
      all.set(to + "name", std::string(*name));
      if (bytes) all.set(to + "bytes", std::string(*bytes));
    }
  }
  all.set("document.count", std::to_string(num_documents));
  all.set("codec.name", codec_name_of(layout));
  all.set("writer.program", "polykv " POLYKV_VERSION);
  const format::Identity& last = chain.back().reader->identity();
  for (const char* name : {kTurnField, kOpenPrefixField})
    if (const auto value = last.get(name)) all.set(name, std::string(*value));
  return all;
}

void append(std::span<const std::byte> bytes, std::vector<std::byte>& to) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

Status write_layer(std::span<const ChainLink> chain, std::uint32_t layer, bool has_means, format::PoolWriter& writer) {
  for (const ChainLink& link : chain) POLYKV_CHECK_STATUS(link.pool->check_layer(layer));
  const core::KvPool& base = *chain.front().pool;
  std::vector<format::ScaleExponents> exponents;
  std::vector<std::byte> pages, sinks, means;
  for (std::uint32_t kv_head = 0; kv_head < base.shape().num_kv_heads; ++kv_head) {
    append(base.sink_keys(layer, kv_head), sinks);
    append(base.sink_values(layer, kv_head), sinks);
    for (const ChainLink& link : chain) {
      for (const core::KvPool::Run& run : link.pool->runs(layer, kv_head)) {
        exponents.push_back(run.exponents);
        append(run.pages, pages);
      }
      const core::KvPool::Transform transform = link.pool->transform(layer, kv_head);
      if (!has_means || transform.mean.empty()) continue;
      for (const auto vector : {transform.mean, transform.key_balance, transform.value_balance}) append(vector, means);
    }
  }
  return writer.write_layer(layer, exponents, pages, sinks, means);
}

}  // namespace

Status flatten(std::span<const ChainLink> chain, const std::filesystem::path& path,
               const format::WriterOptions& options, std::uint64_t created) {
  format::PoolSpec spec;
  spec.shape = chain.front().pool->shape();
  spec.shape.num_tokens = chain.back().pool->end_position();
  POLYKV_TRY(spec.tokens, join_tokens(chain));
  spec.layout = join_layouts(chain);
  spec.has_means = removes_means(spec.layout);
  spec.identity = join_identities(chain, spec.layout);
  spec.created = created;
  const bool has_means = spec.has_means;
  const std::uint32_t num_layers = spec.shape.num_layers;
  POLYKV_TRY(format::PoolWriter writer, format::PoolWriter::create(path, std::move(spec), options));
  for (std::uint32_t layer = 0; layer < num_layers; ++layer)
    POLYKV_CHECK_STATUS(write_layer(chain, layer, has_means, writer));
  return writer.finish("");
}

}  // namespace polykv::runtime
