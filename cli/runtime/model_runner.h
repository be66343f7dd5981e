// The two ways a model runs, without a word of LibTorch.
//
// A prefill runner reads a document layer by layer and hands each layer's keys and values on: ours in bfloat16
// (block_prefill.h), or LibTorch's in either type (libpolykv_torch.so), which is the reference too. The step runner
// (step_runner.h, ours) takes a few rows at a time against pools and tails. Each checks the others.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "cli/runtime/weights/model_file.h"
#include "core/kernels/kernels.h"
#include "format/status.h"

namespace polykv::runtime {

// What one layer computed for the whole document. Views that live during the callback.
struct LayerKv {
  std::uint32_t layer;
  std::uint32_t num_tokens;
  // float16 bits [num_kv_heads][num_tokens][head_dim]; keys after RoPE, in half-split order whatever the model file.
  std::span<const std::uint16_t> keys;
  std::span<const std::uint16_t> values;
  // The same of [num_q_heads], after RoPE; empty unless PrefillOptions::want_queries.
  std::span<const std::uint16_t> queries = {};
};

enum class NumberType : std::uint8_t { kF32, kBF16 };

struct PrefillOptions {
  NumberType type = NumberType::kF32;
  std::uint32_t num_threads = 1;
  bool want_queries = false;
  // Called after each layer's part of the work: share of all work done, 0 to 1. Returning false stops the run
  // (kInterrupted).
  std::function<bool(double)> on_progress = {};
  // Positions before the first token, which all tokens see: `past` gives a layer's keys and values of exactly so many,
  // which must stay good while that layer runs. Tokens then have positions from num_past on, and on_layer gets only
  // theirs.
  std::uint32_t num_past = 0;
  std::function<LayerKv(std::uint32_t layer)> past = {};
};

// Layer-outer: one layer's weights are dequantized, all of the document runs through it, the layer is handed on and
// freed.
class PrefillRunner {
 public:
  virtual ~PrefillRunner() = default;

  // Positions options.num_past .. + tokens.size() - 1. on_layer is called once a layer, in order; an error from it ends
  // the run. Errors: kInterrupted, kNotFinite (a number that float16 cannot hold, layer named), kFailed (LibTorch's
  // own).
  virtual format::Status prefill(const ModelFile& model, std::span<const std::uint32_t> tokens,
                                 const PrefillOptions& options,
                                 const std::function<format::Status(const LayerKv&)>& on_layer) = 0;

  // Logits [positions.size()][vocab_size] of the document at some positions (ascending), for checks and probes.
  virtual format::Status logits(const ModelFile& model, std::span<const std::uint32_t> tokens,
                                const PrefillOptions& options, std::span<const std::uint32_t> positions,
                                std::span<float> out) = 0;

  virtual std::string version() const = 0;  // "LibTorch 2.13.0", "polykv 0.1.0 avx512_bf16"
};

// bf16 where the CPU has AVX512_BF16 (those with AMX have it), else f32.
NumberType default_prefill_type();
const char* number_type_name(NumberType type);  // "f32", "bf16"

// Ours for bf16 where core has the kernels for it (core/kernels/prefill.h), else LibTorch's.
format::Result<std::unique_ptr<PrefillRunner>> make_prefill_runner(NumberType type);

// Loads libpolykv_torch.so, found beside the program (lib/polykv, ../lib/polykv). LibTorch itself is found by the
// plug-in's RUNPATH or POLYKV_TORCH_DIR. kNoTorch says how to get it.
format::Result<std::unique_ptr<PrefillRunner>> load_prefill_runner();

// The plug-in's one entry: bumped whenever a class that crosses it changes, this header's and format's Error.
inline constexpr std::uint32_t kPrefillPluginVersion = 4;
using CreatePrefillRunner = PrefillRunner* (*)(std::uint32_t version);  // null: another version
inline constexpr const char* kPrefillPluginEntry = "polykv_create_prefill_runner";

}  // namespace polykv::runtime
