#include "cli/runtime/pool_builder.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "cli/runtime/bit_allocation.h"
#include "cli/runtime/codec_plan.h"
#include "cli/runtime/fidelity_json.h"
#include "cli/runtime/kv_spool.h"
#include "cli/runtime/layer_writer.h"
#include "cli/runtime/probes.h"
#include "cli/runtime/retention/kvzip.h"
#include "cli/runtime/retention/retention.h"
#include "core/kernels/kernels.h"
#include "core/pool.h"

namespace polykv::runtime {
namespace {

using Clock = std::chrono::steady_clock;
using format::Error;
using format::ErrorCode;
using format::Status;

constexpr std::uint64_t kMaxSourceBytes = std::uint64_t{1} << 30;

// What probes may take, of the prefill's time: less than half, so that plan, quantizing and probes together stay near
// the prefill's own time.
constexpr double kProbeShare = 0.45;
constexpr double kLeastProbeMs = 1000.0;

// Below so many bits a value it does much less harm to drop positions too than to round all of them more coarsely:
// at 2.25 bits a sixth of the KLD, for the same recall (tests/eval/README.md).
constexpr double kJointBits = 3.0;

// --max-kld: how often quantizing and measuring are tried, and how far below the limit the next plan aims.
constexpr int kMaxRounds = 5;
constexpr double kNextAim = 0.95;

// A pool that drops positions is not written if fewer of a passage's tokens than this less are repeated.
constexpr double kMostLostHits = 0.05;

// What the fidelity section may take: of probes, and of a head of the plan.
constexpr std::uint64_t kProbeTextBytes = 8192, kHeadTextBytes = 32;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Adds to `ms` what `work` takes.
template <typename Work>
auto timed(double& ms, const Work& work) {
  const Clock::time_point start = Clock::now();
  auto result = work();
  ms += milliseconds_since(start);
  return result;
}

// What is kept if nothing was said: a small budget drops positions too.
RetentionChoice retention_of(const BuildRequest& request, const format::KvShape& shape) {
  if (request.retention) return *request.retention;
  const CodecChoice& codec = request.codec;
  const double bits = codec.pool_bytes ? 8.0 * static_cast<double>(*codec.pool_bytes) / num_values(shape)
                                       : codec.bits_per_value.value_or(kDefaultBits);
  RetentionChoice choice;
  choice.is_auto = codec.needs_sensitivities() && !codec.max_kld && bits < kJointBits;
  return choice;
}

format::Identity make_identity(const BuildRequest& request, const RetentionChoice& retention, const PoolPrompt& prompt,
                               const PrefillRunner& runner, NumberType prefill_type, const std::string& codec) {
  format::Identity identity = make_model_identity(*request.model, *request.chat, request.system);
  identity.set("codec.name", codec);
  if (!request.codec.fixed) identity.set("codec.plan", choice_name(request.codec));
  if (!retention.keeps_all()) identity.set("retention.policy", retention_name(retention));
  identity.set("codec.rotation", "signs-hadamard/1");
  identity.set("codec.codebooks", "trellis/1");
  identity.set("prefill.type", number_type_name(prefill_type));
  identity.set("prefill.runner", runner.version());
  add_document_fields(request.documents, identity);
  if (!prompt.open_prefix.empty()) identity.set(kOpenPrefixField, prompt.open_prefix);
  identity.set("writer.program", "polykv " POLYKV_VERSION);
  return identity;
}

// The spool's heads as they are to be quantized: with what the policy merges into the kept positions.
class MergedSource {
 public:
  // Everything must outlive this.
  MergedSource(KvSpool& spool, const Retention& retention, const KeptPositions& kept, std::size_t num_kv_heads,
               std::size_t num_workers)
      : spool_(spool), retention_(retention), kept_(kept), num_kv_heads_(num_kv_heads), buffers_(num_workers) {}

  HeadKv read(std::uint32_t layer, std::uint32_t kv_head, std::size_t worker) {
    const HeadKv kv = spool_.read(layer, kv_head, worker);
    if (!retention_.merges(layer)) return kv;
    Buffer& buffer = buffers_[worker];
    buffer.keys.assign(kv.keys.begin(), kv.keys.end());
    buffer.values.assign(kv.values.begin(), kv.values.end());
    retention_.merge(layer, kv_head, kept_[layer * num_kv_heads_ + kv_head], buffer.keys, buffer.values);
    return {buffer.keys, buffer.values};
  }

 private:
  struct Buffer {
    std::vector<std::uint16_t> keys, values;
  };
  KvSpool& spool_;
  const Retention& retention_;
  const KeptPositions& kept_;
  std::size_t num_kv_heads_;
  std::vector<Buffer> buffers_;  // [workers]
};

// One build, step by step.
class Build {
 public:
  Build(const BuildRequest& request, PoolPrompt prompt, PrefillRunner& runner, const PrefillOptions& prefill_options,
        const std::filesystem::path& path, const format::WriterOptions& writer_options, core::Workers& workers)
      : request_(request),
        prompt_(std::move(prompt)),
        runner_(runner),
        prefill_options_(prefill_options),
        path_(path),
        writer_options_(writer_options),
        workers_(workers),
        ids_(prompt_.tokens.ids),
        open_text_(prompt_.open_prefix + std::string(prompt_.tokens.open_text())),
        shape_{request.model->config().num_layers, request.model->config().num_kv_heads,
               request.model->config().head_dim, static_cast<std::uint32_t>(ids_.size())},
        retention_(retention_of(request, shape_)) {
    prefill_options_.want_queries = retention_.needs_queries();
    report_.tokens = shape_.num_tokens;
  }

  format::Result<BuildReport> run() {
    if (needs_spool()) {
      POLYKV_CHECK_STATUS(build_from_spool());
    } else {
      POLYKV_CHECK_STATUS(build_at_once());
    }
    std::error_code error;
    report_.pool_bytes = std::filesystem::file_size(path_, error);
    return report_;
  }

 private:
  // What is made from the whole document before the first page is quantized, or measured against the uncompressed
  // values after the last one.
  bool needs_spool() const { return request_.probe || request_.codec.needs_sensitivities() || !retention_.keeps_all(); }

  // Each layer is quantized as the prefill hands it on.
  Status build_at_once() {
    POLYKV_TRY(format::PoolWriter writer, create_writer({uniform_plan(shape_, *request_.codec.fixed), {}}));
    weights_.values = output_squares(request_.model->file, workers_);
    LayerWriter layers(shape_, weights_, writer, workers_);
    POLYKV_CHECK_STATUS(prefill([&](const LayerKv& layer) { return layers.write(layer); }));
    return publish(writer, {});
  }

  // All layers are kept uncompressed, on disk, until the prefill is done.
  Status build_from_spool() {
    POLYKV_TRY(KvSpool spool, KvSpool::create(path_, shape_, writer_options_.force, workers_));
    Retention retention(retention_, request_.model->file, workers_), of_twin = retention;
    POLYKV_CHECK_STATUS(prefill([&](const LayerKv& layer) {
      score(layer, retention, of_twin);
      return spool.write(layer);
    }));
    POLYKV_CHECK_STATUS(spool.map());
    if (retention.needs_repetition())
      POLYKV_CHECK_STATUS(timed(report_.plan_ms, [&] { return repeat(spool, retention, of_twin); }));
    POLYKV_CHECK_STATUS(timed(report_.plan_ms, [&] { return choose_plans(spool, retention, of_twin); }));
    double aim = request_.codec.max_kld.value_or(0.0);
    for (int round = 1;; ++round) {
      POLYKV_TRY(format::PoolWriter writer, create_writer(plan_));
      POLYKV_CHECK_STATUS(timed(report_.quantize_ms, [&] { return quantize(spool, writer, plan_, retention); }));
      if (!request_.probe) return publish(writer, {});
      POLYKV_TRY(const Fidelity fidelity, timed(report_.probe_ms, [&] { return measure(spool, writer, of_twin); }));
      POLYKV_CHECK_STATUS(check_recall(fidelity));
      const double measured = fidelity.tail.kld_mean;
      if (!request_.codec.max_kld || measured <= *request_.codec.max_kld)
        return publish(writer, fidelity_text(fidelity));
      // What is expected is off by some factor, the same for plans that are alike.
      aim *= kNextAim * *request_.codec.max_kld / measured;
      CodecPlan next = allocate_loss(shape_, sensitivities_.heads, aim, plan_.kept);
      if (round == kMaxRounds || next == plan_.codecs) return unreachable_kld(measured);
      plan_.codecs = std::move(next);
      twin_.codecs = plan_.codecs;
      plan_.expected_kld = expected_kld(sensitivities_.heads, plan_.codecs);
    }
  }

  bool has_twin() const { return request_.probe && !retention_.keeps_all(); }

  void score(const LayerKv& layer, Retention& retention, Retention& of_twin) {
    if (retention_.keeps_all()) return;
    timed(report_.plan_ms, [&] {
      retention.add(layer, shape_.num_tokens);
      if (has_twin()) of_twin.add(layer, tail_begin(shape_.num_tokens));
      return true;
    });
  }

  // Scores that come from the document's repetition; the twin's have no part in what comes after its end.
  Status repeat(KvSpool& spool, Retention& retention, Retention& of_twin) {
    const HeadSource source = [&spool](std::uint32_t layer, std::uint32_t head, std::size_t worker) {
      return spool.read(layer, head, worker);
    };
    Repetition repetition{*request_.model, *request_.chat, open_text_, ids_, runner_, prefill_options_, source};
    repetition.options.on_progress = [&](double share) { return progress("repeat", share).has_value(); };
    // The twin's end is a chunk's end whether there is a twin or not: what is kept does not depend on probes.
    const std::uint32_t ends[] = {tail_begin(shape_.num_tokens), shape_.num_tokens};
    POLYKV_TRY(auto scores, score_kvzip(repetition, ends, workers_));
    if (has_twin()) of_twin.set_repeated(std::move(scores.front()));
    retention.set_repeated(std::move(scores.back()));
    return {};
  }

  Status progress(const char* work, double share) const {
    if (!request_.on_progress || request_.on_progress(work, share)) return {};
    return Error(ErrorCode::kInterrupted, "interrupted");
  }

  Status prefill(const std::function<Status(const LayerKv&)>& on_layer) {
    double layers_ms = 0.0;
    const double plan_before = report_.plan_ms;
    POLYKV_CHECK_STATUS(timed(report_.prefill_ms, [&] {
      return runner_.prefill(request_.model->file, ids_, prefill_options_,
                             [&](const LayerKv& layer) { return timed(layers_ms, [&] { return on_layer(layer); }); });
    }));
    report_.prefill_ms -= layers_ms;
    report_.quantize_ms += layers_ms - (report_.plan_ms - plan_before);  // policies look at layers as they come
    return {};
  }

  // Positions and codecs of each (layer, kv_head), from what the prefill made of the document.
  Status choose_plans(KvSpool& spool, const Retention& retention, const Retention& of_twin) {
    POLYKV_CHECK_STATUS(progress("plan", 0.0));
    weights_.values = output_squares(request_.model->file, workers_);
    if (request_.codec.needs_sensitivities()) {
      POLYKV_TRY(sensitivities_,
                 measure_sensitivity(request_.model->file, spool.pool(), ids_, tail_begin(shape_.num_tokens), workers_,
                                     [&](double share) { return progress("plan", share).has_value(); }));
      weights_.keys = sensitivities_.query_squares;
    }
    if (retention_.is_joint()) return choose_jointly(spool, retention, of_twin);
    if (!retention_.keeps_all()) plan_.kept = retention.positions(shape_.num_tokens);
    POLYKV_TRY(plan_.codecs, choose_codecs(plan_.kept));
    if (request_.codec.needs_sensitivities()) plan_.expected_kld = expected_kld(sensitivities_.heads, plan_.codecs);
    if (has_twin()) twin_ = {plan_.codecs, of_twin.positions(shape_.num_tokens)};
    return {};
  }

  format::Result<CodecPlan> choose_codecs(const KeptPositions& kept) {
    const CodecChoice& choice = request_.codec;
    const std::span<const Sensitivity> heads = sensitivities_.heads;
    if (choice.fixed) return uniform_plan(shape_, *choice.fixed);
    if (choice.max_kld) return allocate_loss(shape_, heads, *choice.max_kld, kept);
    if (choice.bits_per_value) return plan_of_bits(shape_, heads, *choice.bits_per_value, kept);
    if (!choice.pool_bytes) return default_plan(shape_, heads, kept);
    POLYKV_TRY(const std::uint64_t kv_bytes,
               kv_bytes_of_file({allocate_bytes(shape_, heads, *choice.pool_bytes, kept), kept}));
    return plan_of_bytes(shape_, heads, kv_bytes, kept);
  }

  // What dropping costs is told without the tail, which the probe scores.
  Status choose_jointly(KvSpool& spool, const Retention& retention, const Retention& of_twin) {
    const double bits = request_.codec.bits_per_value.value_or(kDefaultBits);
    const auto all_bytes = static_cast<std::uint64_t>(bits * num_values(shape_) / 8.0);
    std::vector<std::uint32_t> quotation;
    for (const TextToken& token : request_.model->tokenizer.tokenize(open_text_ + "\n\n\""))
      quotation.push_back(token.id);
    POLYKV_TRY(const std::vector<ReplayedRows> rows, replay_rows(request_.model->file, spool.pool(), ids_,
                                                                 tail_begin(shape_.num_tokens), quotation, workers_));
    const HeadSource source = [&spool](std::uint32_t layer, std::uint32_t head, std::size_t worker) {
      return spool.read(layer, head, worker);
    };
    POLYKV_TRY(const std::vector<double> table,
               (has_twin() ? of_twin : retention).drop_table(rows, source, [&](double share) {
                 return progress("choose", share).has_value();
               }));
    const auto plan_of = [&](const Retention& one, std::uint64_t kv_bytes) {
      return one.joint_plan(sensitivities_.heads, table, kv_bytes, shape_.num_tokens);
    };
    std::uint64_t kv_bytes = all_bytes;
    if (request_.codec.pool_bytes) {
      POLYKV_TRY(kv_bytes, kv_bytes_of_file(plan_of(retention, *request_.codec.pool_bytes)));
    }
    plan_ = plan_of(retention, kv_bytes);
    if (const std::uint64_t least = plan_kv_bytes(shape_, plan_.codecs, plan_.kept); least > kv_bytes) {
      return Error(ErrorCode::kUnusableText, "keys and values of this document need " + std::to_string(least) +
                                                 " bytes at least, and " + std::to_string(kv_bytes) +
                                                 " are left for them");
    }
    if (has_twin()) twin_ = plan_of(of_twin, kv_bytes);
    return {};
  }

  // What --size leaves for keys and values: a pool of a plan that is too large for the file tells what all else takes.
  format::Result<std::uint64_t> kv_bytes_of_file(const JointPlan& too_large) {
    POLYKV_TRY(const format::PoolWriter writer, create_writer(too_large));
    const std::uint64_t other =
        writer.file_bytes(fidelity_room()) - plan_kv_bytes(shape_, too_large.codecs, too_large.kept);
    return *request_.codec.pool_bytes - std::min(*request_.codec.pool_bytes, other);
  }
  std::uint64_t fidelity_room() const { return kProbeTextBytes + sensitivities_.heads.size() * kHeadTextBytes; }

  // What was dropped may be what is asked for: exact words above all.
  Status check_recall(const Fidelity& fidelity) const {
    if (retention_.keeps_all() || request_.accept_loss) return {};
    for (std::size_t i = 0; i < fidelity.hits.size(); ++i) {
      if (fidelity.hits[i] >= fidelity.reference_hits[i] - kMostLostHits) continue;
      char text[256];
      std::snprintf(
          text, sizeof text,
          "keeping %s, the model repeats %.0f %% of a passage at %u %% depth, %.0f %% uncompressed: keep more or "
          "allow more bytes, drop nothing (--retain fullkv), or --accept-loss",
          retention_name(retention_).c_str(), 100.0 * fidelity.hits[i], kPassagePercent[i],
          100.0 * fidelity.reference_hits[i]);
      return Error(ErrorCode::kUnusableText, text);
    }
    return {};
  }

  Error unreachable_kld(double measured) const {
    char text[160];
    std::snprintf(
        text, sizeof text,
        "no plan found with a tail KLD of at most %g: %.2g is as near as it came; ask for a greater one, or %s",
        *request_.codec.max_kld, measured, retention_.keeps_all() ? "take --codec f16" : "keep more positions");
    return Error(ErrorCode::kUnusableText, text);
  }

  // With `is_twin`, one that is not published.
  format::Result<format::PoolWriter> create_writer(const JointPlan& plan, bool is_twin = false) {
    format::PoolSpec spec;
    spec.shape = shape_;
    spec.identity =
        make_identity(request_, retention_, prompt_, runner_, prefill_options_.type, plan_name(plan.codecs));
    spec.tokens = prompt_.tokens;
    spec.layout = plan_layout(shape_, plan.codecs, plan.kept);
    spec.has_means = removes_means(spec.layout);
    spec.created = request_.created;
    format::WriterOptions options = writer_options_;
    options.scratch = is_twin;
    return format::PoolWriter::create(path_, std::move(spec), options);
  }

  // So many layers at a time that each thread has two heads or more.
  Status quantize(KvSpool& spool, format::PoolWriter& writer, const JointPlan& plan, const Retention& retention) {
    LayerWriter layers(shape_, weights_, writer, workers_);
    MergedSource source(spool, retention, plan.kept, shape_.num_kv_heads, workers_.num_threads());
    const auto step =
        static_cast<std::uint32_t>((2 * workers_.num_threads() + shape_.num_kv_heads - 1) / shape_.num_kv_heads);
    for (std::uint32_t first = 0; first < shape_.num_layers; first += step) {
      POLYKV_CHECK_STATUS(progress("quantize", static_cast<double>(first) / shape_.num_layers));
      POLYKV_CHECK_STATUS(layers.write(first, std::min(first + step, shape_.num_layers),
                                       [&](std::uint32_t layer, std::uint32_t kv_head, std::size_t worker) {
                                         return source.read(layer, kv_head, worker);
                                       }));
    }
    return {};
  }

  // What compression did.
  format::Result<Fidelity> measure(KvSpool& spool, format::PoolWriter& writer, const Retention& of_twin) {
    POLYKV_TRY(const core::KvPool pages, written_pool(writer));
    ProbeRequest probes{*request_.model, *request_.chat, open_text_, ids_, spool.pool(), pages};
    probes.limit_ms = std::max(kLeastProbeMs, kProbeShare * report_.prefill_ms);
    probes.on_progress = [&](double share) { return progress("probe", share).has_value(); };
    if (!has_twin()) return run_probes(probes, workers_);
    probes.always_recall = true;
    POLYKV_TRY(format::PoolWriter twin_writer, create_writer(twin_, /*is_twin=*/true));
    POLYKV_CHECK_STATUS(quantize(spool, twin_writer, twin_, of_twin));
    POLYKV_TRY(const core::KvPool twin, written_pool(twin_writer));
    probes.twin = &twin;
    return run_probes(probes, workers_);
  }

  // A view: the writer must outlive it.
  format::Result<core::KvPool> written_pool(format::PoolWriter& writer) const {
    POLYKV_TRY(const format::WrittenValues values, writer.written());
    return core::KvPool({.shape = shape_,
                         .num_sinks = std::min(shape_.num_tokens, format::kNumSinks),
                         .layout = &writer.layout(),
                         .pages = values.pages,
                         .sinks = values.sinks,
                         .means = values.means});
  }

  std::string fidelity_text(const Fidelity& fidelity) const {
    nlohmann::ordered_json json = fidelity_json(
        fidelity, {number_type_name(prefill_options_.type), runner_.version(), core::active_kernels().name},
        shape_.num_tokens);
    if (!sensitivities_.heads.empty())
      json["plan"] = plan_json({choice_name(request_.codec), sensitivities_.heads, plan_.expected_kld});
    return json.dump();
  }

  Status publish(format::PoolWriter& writer, const std::string& fidelity) {
    POLYKV_CHECK_STATUS(progress("write", 0.0));
    POLYKV_CHECK_STATUS(request_.model->file.check_unchanged());
    return timed(report_.quantize_ms, [&] { return writer.finish(fidelity); });
  }

  const BuildRequest& request_;
  PoolPrompt prompt_;
  PrefillRunner& runner_;
  PrefillOptions prefill_options_;
  const std::filesystem::path& path_;
  const format::WriterOptions& writer_options_;
  core::Workers& workers_;
  const std::vector<std::uint32_t> ids_;
  const std::string open_text_;
  const format::KvShape shape_;
  const RetentionChoice retention_;
  DimensionWeights weights_;
  Sensitivities sensitivities_;  // empty without a plan
  JointPlan plan_, twin_;
  BuildReport report_;
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

void add_document_fields(std::span<const Document> documents, format::Identity& identity) {
  identity.set("document.count", std::to_string(documents.size()));
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const std::string prefix = "document." + std::to_string(i) + ".";
    identity.set(prefix + "name", documents[i].name);
    identity.set(prefix + "bytes", std::to_string(documents[i].text.size()));
  }
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
  return Build(request, std::move(prompt), runner, prefill_options, path, writer_options, workers).run();
}

}  // namespace polykv::runtime
