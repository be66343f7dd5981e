#include "tests/eval/fidelity/protocol.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands/pool_memory.h"
#include "cli/runtime/bit_allocation.h"
#include "cli/runtime/codec_choice.h"
#include "cli/runtime/retention/joint_plan.h"
#include "cli/runtime/retention/kvzip.h"
#include "cli/runtime/retention/layer_plan.h"
#include "format/file.h"
#include "format/reader.h"

namespace polykv::eval {
namespace {

using format::Error;
using format::ErrorCode;
using format::Status;
using runtime::DivergenceMeter;
using tests::CodecsOfHeads;
using tests::QuantizedPool;
using tests::ScoredText;

constexpr std::size_t kWindowTokens = kPrefixTokens + kScoredTokens + 1;  // the last one is a target only

std::vector<double> means_of_windows(const Measured& measured, double DivergenceMeter::Position::*member) {
  std::vector<double> means;
  std::size_t begin = 0;
  for (const std::size_t end : measured.last_ends) {
    double sum = 0.0;
    for (const auto& position : measured.meter.positions().subspan(begin, end - begin)) sum += position.*member;
    means.push_back(sum / static_cast<double>(end - begin));
    begin = end;
  }
  return means;
}

format::Result<CodecsOfHeads> read_codec_list(const std::string& path, std::size_t num_heads) {
  POLYKV_TRY(const std::vector<std::byte> bytes, format::read_file(path));
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  const auto list = nlohmann::json::parse(text, text + bytes.size(), nullptr, /*allow_exceptions=*/false);
  if (!list.is_array() || list.size() != num_heads) {
    return Error(ErrorCode::kUsage, path + ": expected a JSON list of " + std::to_string(num_heads) +
                                        " codec names, one a (layer, kv_head)");
  }
  CodecsOfHeads codecs;
  for (const auto& item : list) {
    const auto codec = item.is_string() ? core::parse_codec_name(item.get<std::string>()) : std::nullopt;
    if (!codec) return Error(ErrorCode::kUsage, path + ": " + item.dump() + " is no codec");
    codecs.push_back(*codec);
  }
  return codecs;
}

constexpr std::string_view kPlan = "auto", kPlanPrefix = "auto:";
constexpr std::string_view kJointPrefix = "joint:";
bool is_joint(std::string_view codec) { return codec.starts_with(kJointPrefix); }
bool is_plan(std::string_view codec) { return codec == kPlan || codec.starts_with(kPlanPrefix) || is_joint(codec); }

// Budgets and modifiers apart: what is scored once.
std::string key_of(const runtime::RetentionChoice& choice) {
  return choice.is_auto ? "auto" : choice.by_layer ? choice.by_layer->name : choice.policy->name;
}

// A policy, or a plan by layer: PLAN.json, PLAN.json+uniform. Empty: neither.
format::Result<std::optional<runtime::RetentionChoice>> retention_of(std::string_view name) {
  constexpr std::string_view kUniform = "+uniform";
  const bool uniform = name.ends_with(kUniform);
  const std::string path(name.substr(0, name.size() - (uniform ? kUniform.size() : 0)));
  if (!path.ends_with(".json")) return runtime::parse_retention(name);
  const auto bytes = format::read_file(path);
  if (!bytes) return Error(bytes.error().code, path + ": " + bytes.error().message);
  const auto plan = runtime::parse_layer_plan(*bytes);
  if (!plan) return Error(plan.error().code, path + ": " + plan.error().message);
  runtime::RetentionChoice choice;
  choice.by_layer = runtime::layer_policies(*plan, runtime::Phase::kPrefill, uniform);
  return std::optional(std::move(choice));
}

// The share of all passages' targets that are ranked first.
format::Result<double> hits_of(const Protocol& protocol, const Window& window, const QuantizedPool& pool) {
  const core::KvPool view = pool.view();
  const std::size_t vocab_size = protocol.model->config().vocab_size;
  std::size_t hits = 0, count = 0;
  for (const Passage& passage : window.passages) {
    POLYKV_TRY(const std::vector<float> logits,
               tests::logits_after(protocol.model->file, view, passage.fed, *protocol.workers));
    const std::size_t first = passage.fed.size() - passage.targets.size();
    for (std::size_t i = 0; i < passage.targets.size(); ++i) {
      const auto row = logits.begin() + static_cast<std::ptrdiff_t>((first + i) * vocab_size);
      const auto top = std::max_element(row, row + static_cast<std::ptrdiff_t>(vocab_size)) - row;
      hits += static_cast<std::uint32_t>(top) == passage.targets[i];
      ++count;
    }
  }
  return static_cast<double>(hits) / static_cast<double>(std::max<std::size_t>(count, 1));
}

// Keys and values with what the policy merges into the kept positions; empty if it merges nothing.
std::optional<tests::Collected> merged_kv(const ScoredText& text, const runtime::Retention& retention,
                                          const runtime::KeptPositions& kept) {
  const format::KvShape& shape = text.shape();
  std::vector<std::uint32_t> merging;
  for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer)
    if (retention.merges(layer)) merging.push_back(layer);
  if (merging.empty()) return std::nullopt;
  tests::Collected kv = text.kv();
  const std::size_t size = std::size_t{shape.num_tokens} * shape.head_dim;
  for (const std::uint32_t layer : merging)
    for (std::uint32_t head = 0; head < shape.num_kv_heads; ++head)
      retention.merge(layer, head, kept[layer * shape.num_kv_heads + head],
                      std::span(kv.keys[layer]).subspan(head * size, size),
                      std::span(kv.values[layer]).subspan(head * size, size));
  return kv;
}

// Quantizes, scores and adds to `measured`.
Status score(const Protocol& protocol, const Window& window, Measured& measured) {
  const ScoredText& text = window.text;
  POLYKV_TRY(const Name name, parse_name(measured.name));
  runtime::KeptPositions kept;
  CodecsOfHeads codecs;
  if (is_joint(name.codec)) {
    const double bits = std::strtod(std::string(name.codec.substr(kJointPrefix.size())).c_str(), nullptr);
    const format::KvShape& shape = text.shape();
    const double num_values = 2.0 * shape.num_layers * shape.num_kv_heads * shape.num_tokens * shape.head_dim;
    const std::string policy = key_of(name.retention);
    runtime::JointPlan plan =
        window.retentions.at(policy)->joint_plan(window.sensitivities, window.drop_tables.at(policy),
                                                 static_cast<std::uint64_t>(bits * num_values / 8.0), shape.num_tokens);
    kept = std::move(plan.kept);
    codecs = std::move(plan.codecs);
  } else if (!name.retention.keeps_all()) {
    kept = runtime::select_positions(text.shape(), window.retentions.at(key_of(name.retention))->scores().front(),
                                     name.retention);
  }
  if (codecs.empty()) {
    POLYKV_TRY(codecs, choose(name.codec, text.shape(), window.sensitivities, kept));
  }
  std::optional<tests::Collected> merged;
  if (!name.retention.keeps_all()) merged = merged_kv(text, *window.retentions.at(key_of(name.retention)), kept);
  POLYKV_TRY(const QuantizedPool pool,
             QuantizedPool::make(merged ? *merged : text.kv(), text.shape(), std::move(codecs), window.weights,
                                 QuantizedPool::Means::kAsInFile, kept));
  POLYKV_TRY(const std::vector<float> logits, text.logits(pool, kScoredTokens));
  measured.meter.add(window.reference, logits, text.targets(), *protocol.workers);
  measured.last_ends.push_back(measured.meter.positions().size());
  if (protocol.recall) {
    POLYKV_TRY(const double hits, hits_of(protocol, window, pool));
    measured.hits.push_back(hits);
    measured.reference_hits.push_back(window.reference_hits);
  }
  measured.bits_per_value += pool.bits_per_value() / static_cast<double>(protocol.offsets.size());
  return {};
}

std::string place_of(const Protocol& protocol, std::size_t window) {
  return "window " + std::to_string(window + 1) + " of " + std::to_string(protocol.offsets.size());
}

Error in_window(const Protocol& protocol, std::size_t window, const std::string& what, const Error& error) {
  return Error(error.code, place_of(protocol, window) + " at token " + std::to_string(protocol.offsets[window]) + ": " +
                               what + ": " + error.message);
}

Status measure_window(const Protocol& protocol, std::size_t index, std::vector<Measured>& all) {
  Wanted wanted;
  for (const Measured& measured : all) {
    POLYKV_TRY(const Name name, parse_name(measured.name));
    wanted.sensitivities |= is_plan(name.codec);
    if (!name.retention.keeps_all()) wanted.policies.emplace(key_of(name.retention), name.retention);
    if (is_joint(name.codec)) wanted.joint.insert(key_of(name.retention));
  }
  POLYKV_TRY(const Window window, open_window(protocol, index, wanted));
  for (Measured& measured : all) {
    if (protocol.say) protocol.say(place_of(protocol, index) + ": " + measured.name);
    if (const Status status = score(protocol, window, measured); !status)
      return in_window(protocol, index, measured.name, status.error());
  }
  return {};
}

// Map, reader and view, each of which the next one looks into.
struct OpenPool {
  format::MappedFile file;
  std::unique_ptr<format::PoolReader> reader;
  core::KvPool view;
};

format::Result<OpenPool> open_pool(const std::string& path) {
  POLYKV_TRY(format::MappedFile file, format::MappedFile::open(path, {.kind = format::FileKind::kPool, .trust = true}));
  POLYKV_TRY(format::PoolReader reader, format::PoolReader::open(file.bytes()));
  auto kept = std::make_unique<format::PoolReader>(std::move(reader));
  core::KvPool view(*kept);
  return OpenPool{std::move(file), std::move(kept), std::move(view)};
}

Status check_same_tokens(const OpenPool& pool, const OpenPool& reference, const runtime::Model& model) {
  const runtime::ModelConfig& config = model.config();
  const format::KvShape& shape = pool.reader->shape();
  if (shape.num_layers != config.num_layers || shape.num_kv_heads != config.num_kv_heads ||
      shape.head_dim != config.head_dim)
    return Error(ErrorCode::kMismatch, "the pool's shape is not the model's");
  if (pool.reader->tokens().ids != reference.reader->tokens().ids)
    return Error(ErrorCode::kUnusableText, "its tokens are not those of the first pool");
  return {};
}

}  // namespace

std::vector<double> Measured::kld_of_windows() const {
  return means_of_windows(*this, &DivergenceMeter::Position::kld);
}

std::vector<double> Measured::log_ratio_of_windows() const {
  return means_of_windows(*this, &DivergenceMeter::Position::log_ratio);
}

MeanAndError mean_and_error(std::span<const double> values) {
  const auto count = static_cast<double>(values.size());
  MeanAndError result;
  for (const double value : values) result.mean += value / count;
  if (values.size() < 2) return result;
  double squares = 0.0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  result.standard_error = std::sqrt(squares / (count - 1.0) / count);
  return result;
}

format::Result<std::vector<std::size_t>> window_offsets(std::size_t num_tokens, std::size_t num_windows) {
  std::vector<std::size_t> offsets;
  // Every stride is half of the one before it; its odd multiples are the middles. The last is the smallest at which
  // windows share no token.
  for (std::size_t stride = kWindowStride; stride >= kWindowTokens; stride /= 2) {
    const bool first = stride == kWindowStride;
    for (std::size_t at = first ? 0 : stride; at + kWindowTokens <= num_tokens; at += first ? stride : 2 * stride) {
      if (offsets.size() < num_windows) offsets.push_back(at);
    }
  }
  if (offsets.size() == num_windows) return offsets;
  return Error(ErrorCode::kUnusableText, "the text has " + std::to_string(num_tokens) +
                                             " tokens: " + std::to_string(offsets.size()) + " windows fit, not " +
                                             std::to_string(num_windows));
}

std::vector<std::uint32_t> tokens_of(const runtime::Model& model, std::string_view text) {
  std::vector<std::uint32_t> ids;
  if (model.tokenizer.adds_bos() && model.tokenizer.bos()) ids.push_back(*model.tokenizer.bos());
  for (const runtime::TextToken& token : model.tokenizer.tokenize(model.tokenizer.normalize(text)))
    ids.push_back(token.id);
  return ids;
}

format::Result<Name> parse_name(std::string_view name) {
  const std::size_t slash = name.starts_with('@') ? std::string_view::npos : name.find('/');
  if (slash == std::string_view::npos) return Name{name, {}};
  const std::string_view rest = name.substr(slash + 1);
  const std::size_t colon = rest.rfind(':');
  POLYKV_TRY(auto retention, retention_of(rest.substr(0, colon)));
  if (retention && is_joint(name)) return Name{name.substr(0, slash), *retention};
  if (!retention || colon == std::string_view::npos || !runtime::parse_keep(rest.substr(colon + 1), *retention))
    return Error(ErrorCode::kUsage, "no such policy and budget: CODEC/POLICY:KEEP, such as auto/snapkv+ada:25%");
  return Name{name.substr(0, slash), *retention};
}

format::Result<CodecsOfHeads> choose(std::string_view name, const format::KvShape& shape,
                                     std::span<const runtime::Sensitivity> sensitivities,
                                     const runtime::KeptPositions& kept) {
  if (name == kPlan) return runtime::default_plan(shape, sensitivities, kept);
  if (is_plan(name)) {
    const double bits = std::strtod(std::string(name.substr(kPlanPrefix.size())).c_str(), nullptr);
    if (!(bits > 0.0 && bits <= 16.0)) return Error(ErrorCode::kUsage, "auto:BITS takes bits per value");
    const double num_values = 2.0 * shape.num_layers * shape.num_kv_heads * shape.num_tokens * shape.head_dim;
    return runtime::allocate_bytes(shape, sensitivities, static_cast<std::uint64_t>(bits * num_values / 8.0), kept);
  }
  if (name.starts_with('@'))
    return read_codec_list(std::string(name.substr(1)), std::size_t{shape.num_layers} * shape.num_kv_heads);
  if (const auto codec = core::parse_codec_name(name)) return tests::same_codec(shape, *codec);
  return Error(ErrorCode::kUsage, "no such codec: f16, kAvB with A and B from 1 to 8, auto, auto:BITS or @FILE");
}

std::vector<Passage> passages_of(const runtime::Model& model, std::span<const std::uint32_t> prefix) {
  std::vector<Passage> passages;
  for (std::size_t i = 0; i < kPassages; ++i) {
    Passage& passage = passages.emplace_back();
    for (const runtime::TextToken& token : model.tokenizer.tokenize("\n\n\"")) passage.fed.push_back(token.id);
    const std::size_t begin = std::min((2 * i + 1) * prefix.size() / (2 * kPassages), prefix.size() - kPassageTokens);
    const auto tokens = prefix.subspan(begin, kPassageTokens);
    passage.fed.insert(passage.fed.end(), tokens.begin(), tokens.end() - 1);
    passage.targets.assign(tokens.begin() + kPassageGiven, tokens.end());
  }
  return passages;
}

// Views of the text's keys and values.
runtime::HeadSource head_source(const ScoredText& text) {
  return [&text](std::uint32_t layer, std::uint32_t head, std::size_t) {
    const std::size_t size = std::size_t{text.shape().num_tokens} * text.shape().head_dim;
    return runtime::HeadKv{std::span(text.kv().keys[layer]).subspan(head * size, size),
                           std::span(text.kv().values[layer]).subspan(head * size, size)};
  };
}

// Scores of the policies that have the prefix repeated: plain text, without a template.
Status repeat(const Protocol& protocol, Window& window) {
  POLYKV_TRY(const runtime::ChatTemplate plain, runtime::make_chat_template("none", {}, {}, protocol.model->tokenizer));
  runtime::PrefillOptions options;
  options.type = protocol.prefill_type;
  options.num_threads = static_cast<std::uint32_t>(protocol.workers->num_threads());
  const runtime::HeadSource source = head_source(window.text);
  for (auto& [policy, retention] : window.retentions) {
    if (!retention->needs_repetition()) continue;
    const std::uint32_t end = window.text.shape().num_tokens;
    POLYKV_TRY(auto scores, runtime::score_kvzip({*protocol.model, plain, "\n\n", window.text.prefix(),
                                                  *protocol.prefill, options, source},
                                                 {&end, 1}, *protocol.workers));
    retention->set_repeated(std::move(scores.front()));
  }
  return {};
}

format::Result<Window> open_window(const Protocol& protocol, std::size_t index, const Wanted& wanted) {
  const runtime::ModelFile& model = protocol.model->file;
  const auto say = [&](const char* what) {
    if (protocol.say) protocol.say(place_of(protocol, index) + ": " + what);
  };
  ScoredText text(model, *protocol.workers, protocol.tokens.subspan(protocol.offsets[index], kWindowTokens),
                  kScoredTokens);
  say("prefill");
  std::map<std::string, runtime::RetentionChoice> choices;
  std::map<std::string, std::unique_ptr<runtime::Retention>> retentions;
  for (const auto& [policy, choice] : wanted.policies) {
    choices[policy] = choice;
    retentions[policy] = std::make_unique<runtime::Retention>(choices[policy], model, *protocol.workers);
  }
  const auto score_layer = [&](const runtime::LayerKv& layer) {
    for (const auto& [policy, retention] : retentions) retention->add(layer, layer.num_tokens);
  };
  const std::function<void(const runtime::LayerKv&)> no_scores;
  if (const Status status =
          text.prefill(*protocol.prefill, protocol.prefill_type, wanted.policies.empty() ? no_scores : score_layer);
      !status)
    return in_window(protocol, index, "prefill", status.error());
  say("reference");
  const core::CodecPair f16{format::kCodecF16, format::kCodecF16};
  POLYKV_TRY(const QuantizedPool exact,
             QuantizedPool::make(text.kv(), text.shape(), tests::same_codec(text.shape(), f16)));
  POLYKV_TRY(std::vector<float> reference, text.logits(exact, kScoredTokens));
  Window window{std::move(text),
                std::move(reference),
                {},
                {{}, runtime::output_squares(model, *protocol.workers)},
                std::move(choices),
                std::move(retentions),
                {},
                {},
                0.0};
  if (protocol.recall) {
    window.passages = passages_of(*protocol.model, window.text.prefix());
    POLYKV_TRY(window.reference_hits, hits_of(protocol, window, exact));
  }
  if (const Status status = repeat(protocol, window); !status)
    return in_window(protocol, index, "repetition", status.error());
  if (!wanted.sensitivities) return window;
  say("sensitivities");
  POLYKV_TRY(runtime::Sensitivities found,
             runtime::measure_sensitivity(model, exact.view(), window.text.prefix(), window.text.shape().num_tokens,
                                          *protocol.workers, {}));
  window.sensitivities = std::move(found.heads);
  window.weights.keys = std::move(found.query_squares);
  if (wanted.joint.empty()) return window;
  say("drops");
  std::vector<std::uint32_t> quotation;
  for (const runtime::TextToken& token : protocol.model->tokenizer.tokenize("\n\n\"")) quotation.push_back(token.id);
  const std::uint32_t num_tokens = window.text.shape().num_tokens;
  POLYKV_TRY(const auto rows,
             runtime::replay_rows(model, exact.view(), window.text.prefix(), num_tokens, quotation, *protocol.workers));
  const runtime::HeadSource source = head_source(window.text);
  for (const std::string& policy : wanted.joint) {
    POLYKV_TRY(window.drop_tables[policy], window.retentions.at(policy)->drop_table(rows, source));
  }
  return window;
}

format::Result<std::vector<Measured>> measure(const Protocol& protocol, std::span<const std::string> names) {
  std::vector<Measured> all;
  for (const std::string& name : names) all.push_back({.name = name, .prefix_tokens = kPrefixTokens});
  for (std::size_t window = 0; window < protocol.offsets.size(); ++window)
    POLYKV_CHECK_STATUS(measure_window(protocol, window, all));
  return all;
}

format::Result<std::vector<Measured>> measure_pools(const runtime::Model& model, core::Workers& workers,
                                                    std::span<const std::string> paths,
                                                    std::span<const std::uint32_t> tokens) {
  const auto in_pool = [](const std::string& path, const Error& error) {
    return Error(error.code, path + ": " + error.message);
  };
  const auto fed = tokens.first(tokens.size() - 1), targets = tokens.subspan(1);
  auto first = open_pool(paths.front());
  if (!first) return in_pool(paths.front(), first.error());
  std::vector<Measured> all;
  std::vector<float> reference;
  for (const std::string& path : paths) {
    auto pool = open_pool(path);
    if (!pool) return in_pool(path, pool.error());
    if (const Status status = check_same_tokens(*pool, *first, model); !status) return in_pool(path, status.error());
    auto logits = tests::logits_after(model.file, pool->view, fed, workers);
    if (!logits) return in_pool(path, logits.error());
    if (reference.empty()) reference = *logits;
    const auto memory = cli::measure_pool_memory(*pool->reader);
    if (!memory) return in_pool(path, memory.error());
    Measured measured{.name = path, .prefix_tokens = pool->reader->shape().num_tokens};
    measured.bits_per_value = 16.0 * static_cast<double>(memory->kv_bytes) / static_cast<double>(memory->f16_kv_bytes);
    measured.meter.add(reference, *logits, targets, workers);
    measured.last_ends.push_back(measured.meter.positions().size());
    all.push_back(std::move(measured));
  }
  return all;
}

}  // namespace polykv::eval
