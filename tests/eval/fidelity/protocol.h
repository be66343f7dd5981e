// The fixed protocol: windows of a text, a prefix of each compressed, the tokens after it scored by the step runner on
// the compressed pool against the same keys and values as float16 pages. tests/eval/README.md.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/divergence.h"
#include "cli/runtime/model_identity.h"
#include "cli/runtime/model_runner.h"
#include "cli/runtime/retention/retention.h"
#include "cli/runtime/sensitivity.h"
#include "tests/support/scored_text.h"

namespace polykv::eval {

inline constexpr std::size_t kPrefixTokens = 1536;
inline constexpr std::size_t kScoredTokens = 256;
inline constexpr std::size_t kWindowStride = 20000;

// The error is that of the mean of independent values; nothing where there is one.
struct MeanAndError {
  double mean = 0.0;
  std::optional<double> standard_error;
};

// One codec, plan or pool over all windows.
struct Measured {
  std::string name;
  std::size_t prefix_tokens = 0;            // compressed, of each window
  double bits_per_value = 0.0;              // mean over the windows; everything counted, as `stats` does
  runtime::DivergenceMeter meter = {};      // windows one after the other
  std::vector<std::size_t> last_ends = {};  // [window]: how many of the meter's positions are its own and those before
  // [window]: share of the repeated tokens that is ranked first, on the pool and on the reference; empty without
  // recall.
  std::vector<double> hits = {}, reference_hits = {};

  runtime::Divergence summary() const { return meter.summary(); }
  std::vector<double> kld_of_windows() const;
  std::vector<double> log_ratio_of_windows() const;  // mean ln(perplexity, compressed to reference)
};
MeanAndError mean_and_error(std::span<const double> values);

// The first token of each window: 0, 20,000, ...; where the text has no more of those, the middles between, then the
// middles between these. kUnusableText if that many windows do not fit without sharing tokens.
format::Result<std::vector<std::size_t>> window_offsets(std::size_t num_tokens, std::size_t num_windows);

// The text as the model's tokenizer takes it, without template; BOS before it if the model asks for that.
std::vector<std::uint32_t> tokens_of(const runtime::Model& model, std::string_view text);

// CODEC, or CODEC/POLICY:KEEP, such as auto/snapkv+ada:25%, k5v4/h2o:256 or auto/plan.json+uniform:256;
// joint:BITS/POLICY, positions and bits together, by one policy or by auto.
struct Name {
  std::string_view codec;
  runtime::RetentionChoice retention;  // keeps all without a policy
};
format::Result<Name> parse_name(std::string_view name);  // kUsage: no such policy or budget

// What a codec's name means for the keys and values of a text, of which each head keeps `kept`: a codec pair for every
// head; auto:BITS, a plan made on the text with at most so many bits a value of all positions, everything counted;
// auto, what `build` does without being told; or @FILE, a JSON list of one name a (layer, kv_head). kUsage: no such
// name, or a list of another length.
format::Result<tests::CodecsOfHeads> choose(std::string_view codec, const format::KvShape& shape,
                                            std::span<const runtime::Sensitivity> sensitivities,
                                            const runtime::KeptPositions& kept = {});

struct Protocol {
  const runtime::Model* model;
  core::Workers* workers;
  runtime::PrefillRunner* prefill;
  runtime::NumberType prefill_type;
  std::span<const std::uint32_t> tokens;  // of the whole text
  std::span<const std::size_t> offsets;
  std::function<void(std::string_view)> say;  // what is being done; may be empty
  bool recall = false;                        // passages of the prefix too, which the model is to repeat
};

// Of each window with recall: so many passages, at even depths; of each the first tokens are given after a quotation
// mark, as the recall probe does it.
inline constexpr std::size_t kPassages = 8, kPassageTokens = 32, kPassageGiven = 8;
struct Passage {
  std::vector<std::uint32_t> fed;      // quotation mark, the passage but its last token
  std::vector<std::uint32_t> targets;  // the last so many of them are scored: what follows each
};
std::vector<Passage> passages_of(const runtime::Model& model, std::span<const std::uint32_t> prefix);

// A window's prefix, what its tail gives on uncompressed keys and values, and what plans are made from.
struct Window {
  tests::ScoredText text;
  std::vector<float> reference;                             // logits [kScoredTokens][vocab_size] on float16 pages
  std::vector<runtime::Sensitivity> sensitivities;          // [layer * num_kv_heads + kv_head], if they were asked for
  runtime::DimensionWeights weights;                        // of the keys only with sensitivities
  std::map<std::string, runtime::RetentionChoice> choices;  // what was asked for, by policy
  std::map<std::string, std::unique_ptr<runtime::Retention>> retentions;  // of each
  std::map<std::string, std::vector<double>> drop_tables;                 // of those wanted jointly
  std::vector<Passage> passages;                                          // empty without recall
  double reference_hits = 0.0;
};

// What a window is prepared for.
struct Wanted {
  bool sensitivities = false;
  std::map<std::string, runtime::RetentionChoice> policies = {};
  std::set<std::string> joint = {};
};
// Errors say which window they are about.
format::Result<Window> open_window(const Protocol& protocol, std::size_t index, const Wanted& wanted);

// All names share each window's prefill and reference. An error says which window and name it is about.
format::Result<std::vector<Measured>> measure(const Protocol& protocol, std::span<const std::string> names);

// Pools of the same tokens: each against the first, scored on `tokens` after it (the last is a target only).
// kUnusableText if tokens differ.
format::Result<std::vector<Measured>> measure_pools(const runtime::Model& model, core::Workers& workers,
                                                    std::span<const std::string> paths,
                                                    std::span<const std::uint32_t> tokens);

}  // namespace polykv::eval
