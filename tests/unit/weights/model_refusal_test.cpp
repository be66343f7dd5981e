// What ModelFile refuses, and with which of the two answers: damaged (5) or not supported (6).
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cli/runtime/weights/model_file.h"
#include "tests/support/catch.h"
#include "tests/unit/weights/model_bytes.h"

using namespace polykv::tests;
using nlohmann::json;
using polykv::format::ErrorCode;
using polykv::runtime::ModelFile;
using polykv::runtime::RopeScaling;

namespace {

constexpr ErrorCode kBad = ErrorCode::kBadModelFile, kOther = ErrorCode::kUnsupportedModel;

void check_refused(const std::filesystem::path& path, ErrorCode code, std::string_view part) {
  const auto model = ModelFile::open(path);
  INFO("expected: " << part);
  REQUIRE_FALSE(model);
  INFO(model.error().message);
  CHECK(model.error().code == code);
  CHECK(model.error().message.find(part) != std::string::npos);
  CHECK(model.error().message.find('\n') == std::string::npos);
}

// Reads the first and the last row of every weight, so that ASan sees a view that leaves its file.
float touch(const ModelFile& model) {
  float sum = 0;
  const auto read = [&](const polykv::core::WeightMatrix& matrix) {
    if (!matrix) return;
    std::vector<float> row(matrix.num_cols);
    for (const std::size_t i : {std::size_t{0}, matrix.num_rows - 1}) {
      polykv::core::dequantize_row(matrix, i, row);
      sum += row.front() + row.back();
    }
  };
  const auto& weights = model.weights();
  for (const auto& matrix : {weights.embedding, weights.output_norm, weights.output}) read(matrix);
  for (const auto& l : weights.layers) {
    for (const auto& matrix : {l.attention_norm, l.query, l.key, l.value, l.attention_output, l.query_bias, l.key_bias,
                               l.value_bias, l.ffn_norm, l.ffn_gate, l.ffn_up, l.ffn_down})
      read(matrix);
  }
  return sum;
}

void check_gguf(const GgufBuilder& builder, ErrorCode code, std::string_view part) {
  TempFolder temp;
  write_bytes(temp / "model.gguf", builder.build());
  check_refused(temp / "model.gguf", code, part);
}

// The tiny llama with one more key.
GgufBuilder with(const std::function<void(GgufBuilder&)>& change, std::string_view skip = "") {
  GgufBuilder builder = tiny_llama(skip);
  change(builder);
  return builder;
}

// A fixture folder whose config.json goes through `change`.
struct EditedFolder {
  explicit EditedFolder(const std::function<void(json&)>& change, const char* fixture = "llama-gqa-bf16") {
    std::filesystem::copy(models_dir() / fixture, path());
    const Bytes text = read_bytes(path() / "config.json");
    const auto* begin = reinterpret_cast<const char*>(text.data());
    json config = json::parse(begin, begin + text.size());
    change(config);
    write_bytes(path() / "config.json", to_bytes(config.dump()));
  }
  std::filesystem::path path() const { return temp / "model"; }
  TempFolder temp;
};

void check_config(const std::function<void(json&)>& change, ErrorCode code, std::string_view part,
                  const char* fixture = "llama-gqa-bf16") {
  const EditedFolder folder(change, fixture);
  check_refused(folder.path(), code, part);
}

void check_config_opens(const std::function<void(json&)>& change, const char* fixture = "llama-gqa-bf16") {
  const EditedFolder folder(change, fixture);
  const auto model = ModelFile::open(folder.path());
  INFO((model ? "" : model.error().message));
  CHECK(model);
}

}  // namespace

TEST_CASE("a GGUF that polykv does not run is unsupported") {
  TempFolder temp;
  write_bytes(temp / "model.gguf", tiny_llama().build());
  REQUIRE(ModelFile::open(temp / "model.gguf"));

  check_gguf(with([](auto& b) { b.text("general.architecture", "gpt2"); }, "general.architecture"), kOther,
             "'gpt2'; llama and qwen2 are supported");
  check_gguf(with([](auto& b) { b.text("general.type", "adapter"); }), kOther, "general.type");
  check_gguf(with([](auto& b) { b.u32("split.count", 3); }), kOther, "3 parts");
  check_gguf(with([](auto& b) { b.u32("llama.expert_count", 8); }), kOther, "llama.expert_count' is 8");
  check_gguf(with([](auto& b) { b.f32("llama.attn_logit_softcapping", 50); }), kOther, "softcapping' is 50");
  check_gguf(with([](auto& b) { b.f32("llama.final_logit_softcapping", 30); }), kOther, "softcapping' is 30");
  check_gguf(with([](auto& b) { b.f32("llama.logit_scale", 0.5f); }), kOther, "logit_scale' is 0.5; only 1");
  check_gguf(with([](auto& b) { b.u32("llama.attention.sliding_window", 32); }), kOther, "sliding windows");
  check_gguf(with([](auto& b) { b.f32("llama.attention.scale", 0.1f); }), kOther, "attention.scale");
  check_gguf(with([](auto& b) { b.text("llama.rope.scaling.type", "yarn"); }), kOther, "'yarn'; none, linear and");
  check_gguf(with([](auto& b) { b.u32("llama.rope.dimension_count", 4); }), kOther, "dimension_count' is 4");
  check_gguf(with([](auto& b) { b.u32("llama.attention.value_length", 16); }), kOther, "head_dim 16 and keys 8");
  check_gguf(with([](auto& b) { b.u32("llama.attention.key_length", 12), b.u32("llama.attention.value_length", 12); }),
             kOther, "multiples of 8");
  check_gguf(with([](auto& b) { b.tensor("blk.0.attn_output.bias", {16}); }), kOther, "'blk.0.attn_output.bias'");
  check_gguf(with([](auto& b) { b.tensor("blk.0.attn_q_norm.weight", {8}); }), kOther, "'blk.0.attn_q_norm.weight'");
  check_gguf(with([](auto& b) { b.tensor("blk.1.attn_norm.weight", {16}); }), kOther, "'blk.1.attn_norm.weight'");
  check_gguf(with([](auto& b) { b.tensor("rope_factors_long.weight", {4}); }), kOther, "longrope");
  const auto unknown_type = [](GgufBuilder& b) {
    b.data.resize((b.data.size() + 31) / 32 * 32);
    b.info("output.weight", {16, 4}, 12, b.data.size());
  };
  check_gguf(with(unknown_type), kOther, "type Q4_K; F32, F16, BF16, Q8_0, Q4_0 and Q4_1");
  const auto per_layer = [](GgufBuilder& b) {
    b.array("llama.attention.head_count_kv", 4, 1);
    append<std::uint32_t>(b.keys, 1);
  };
  check_gguf(with(per_layer, "llama.attention.head_count_kv"), kOther, "one value per layer");
}

TEST_CASE("GGUF keys that change nothing are taken") {
  TempFolder temp;
  const auto opens = [&](const GgufBuilder& builder) {
    write_bytes(temp / "model.gguf", builder.build());
    auto model = ModelFile::open(temp / "model.gguf");
    INFO((model ? "" : model.error().message));
    REQUIRE(model);
    return std::move(model).value();
  };
  opens(with([](auto& b) { b.u32("llama.expert_count", 0), b.f32("llama.logit_scale", 1); }));
  opens(with([](auto& b) { b.u32("llama.attention.sliding_window", 64); }));  // the whole context: never in effect
  opens(with([](auto& b) { b.f32("llama.attention.scale", 0.35355339f); }));  // 1 / sqrt(8)
  opens(with([](auto& b) { b.text("llama.rope.scaling.type", "none"), b.f32("llama.rope.scaling.factor", 4); }));
  check_gguf(tiny_llama("llama.attention.head_count_kv"), kBad, "expected [16, 16]");  // MHA where it is left out
  const auto old_linear = opens(with([](auto& b) { b.f32("llama.rope.scale_linear", 4); }));
  CHECK(old_linear.config().rope.scaling == RopeScaling::kLinear);
  CHECK(old_linear.config().rope.factor == 4);
  const auto untied = opens(with([](auto& b) { b.tensor("output.weight", {16, 4}); }));
  CHECK(untied.weights().output.data != untied.weights().embedding.data);
  const auto divided = opens(with([](auto& b) { b.tensor("rope_freqs.weight", {4}, 2.0f); }));
  CHECK(divided.config().rope.scaling == RopeScaling::kLlama3);
  CHECK(divided.config().rope.inverse_frequencies(8)[0] == 0.5);
}

TEST_CASE("a GGUF that contradicts itself is damaged") {
  for (const char* key :
       {"llama.block_count", "llama.context_length", "llama.embedding_length", "llama.feed_forward_length",
        "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon", "general.architecture"}) {
    check_gguf(tiny_llama(key), kBad, std::string("'") + key + "' is missing");
  }
  for (const char* name : {"token_embd.weight", "output_norm.weight", "blk.0.attn_k.weight", "blk.0.ffn_down.weight"})
    check_gguf(tiny_llama(name), kBad, name);
  const auto replaced = [](const char* key, std::uint32_t value) {
    return with([&](auto& b) { b.u32(key, value); }, key);
  };
  check_gguf(replaced("llama.block_count", 0), kBad, "number of layers is 0");
  check_gguf(replaced("llama.block_count", 2), kBad, "'blk.1.attn_norm.weight' [16] is missing");
  check_gguf(replaced("llama.block_count", 4000000), kBad, "number of layers is 4000000");
  check_gguf(replaced("llama.embedding_length", 32), kBad, "expected");
  check_gguf(replaced("llama.embedding_length", 15), kBad, "no multiple");
  check_gguf(replaced("llama.attention.head_count", 0), kBad, "no multiple");
  check_gguf(replaced("llama.attention.head_count_kv", 0), kBad, "key/value heads is 0");
  check_gguf(replaced("llama.attention.head_count_kv", 2), kBad,
             "'blk.0.attn_k.weight' has shape [8, 16], expected [16, 16]");
  check_gguf(replaced("llama.feed_forward_length", 25), kBad, "has shape [24, 16], expected [25, 16]");
  check_gguf(replaced("llama.context_length", 0), kBad, "context length is 0");
  check_gguf(with([](auto& b) { b.text("llama.block_count", "1"); }, "llama.block_count"), kBad, "not a number");
  check_gguf(with([](auto& b) { b.f32("llama.rope.freq_base", -1); }), kBad, "RoPE base");
  check_gguf(with([](auto& b) { b.f32("llama.rope.freq_base", __builtin_nanf("")); }), kBad, "RoPE base");
  check_gguf(with([](auto& b) { b.text("llama.rope.scaling.type", "llama3"); }), kBad, "'rope_freqs.weight' is");
  check_gguf(with([](auto& b) { b.tensor("rope_freqs.weight", {4}, 0.0f); }), kBad, "not a positive number");
  check_gguf(with([](auto& b) { b.tensor("rope_freqs.weight", {8}); }), kBad, "has shape [8], expected [4]");
  check_gguf(with([](auto& b) { b.tensor("blk.0.attn_q.bias", {16}); }), kBad, "'blk.0.attn_k.bias' [8] is missing");
}

TEST_CASE("a folder that polykv does not run is unsupported") {
  check_config([](json& c) { c["model_type"] = "mistral", c["architectures"] = {"MistralForCausalLM"}; }, kOther,
               "config.json: model_type is 'mistral'");
  check_config([](json& c) { c["architectures"] = {"LlamaForTokenClassification"}; }, kOther, "TokenClassification");
  check_config([](json& c) { c["architectures"] = {"Qwen2ForCausalLM"}; }, kOther, "Qwen2ForCausalLM");
  check_config([](json& c) { c["quantization_config"] = {{"quant_method", "awq"}}; }, kOther, "quantization_config");
  check_config([](json& c) { c["hidden_act"] = "gelu"; }, kOther, "hidden_act is \"gelu\"");
  check_config([](json& c) { c["mlp_bias"] = true; }, kOther, "mlp_bias");
  check_config([](json& c) { c["num_local_experts"] = 8; }, kOther, "num_local_experts is 8");
  check_config([](json& c) { c["partial_rotary_factor"] = 0.5; }, kOther, "partial_rotary_factor");
  check_config([](json& c) { c["head_dim"] = 12; }, kOther, "multiples of 8");
  check_config([](json& c) { c["layer_types"] = {"full_attention", "sliding_attention"}; }, kOther, "layer_types");
  for (const char* type : {"yarn", "dynamic", "longrope", "mrope"}) {
    check_config([&](json& c) { c["rope_scaling"] = {{"rope_type", type}, {"factor", 2.0}}; }, kOther,
                 std::string("'") + type + "'; default, linear and llama3");
    check_config([&](json& c) { c["rope_scaling"] = {{"type", type}, {"factor", 2.0}}; }, kOther, type);
  }
  const auto sliding = [](json& c) { c["use_sliding_window"] = true; };
  check_config(sliding, kOther, "use_sliding_window", "qwen2-mha-odd-mixed");
  check_config_opens([&](json& c) { sliding(c), c["sliding_window"] = 512; }, "qwen2-mha-odd-mixed");
  check_config_opens([&](json& c) { sliding(c), c["max_window_layers"] = 2; }, "qwen2-mha-odd-mixed");
  check_config_opens([&](json& c) { sliding(c), c["sliding_window"] = nullptr, c["max_window_layers"] = 2; },
                     "qwen2-mha-odd-mixed");

  EditedFolder folder([](json&) {});
  write_bytes(folder.path() / "adapter_config.json", to_bytes("{}"));
  check_refused(folder.path(), kOther, "adapter");
  std::filesystem::remove(folder.path() / "adapter_config.json");
  std::filesystem::remove(folder.path() / "tokenizer.json");
  check_refused(folder.path(), ErrorCode::kUnsupportedTokenizer, "tokenizer.json");
  std::filesystem::remove(folder.path() / "model.safetensors");
  check_refused(folder.path(), kBad, "model.safetensors");
  write_bytes(folder.path() / "pytorch_model.bin", to_bytes("x"));
  check_refused(folder.path(), kOther, "pytorch_model.bin");
}

TEST_CASE("a folder that contradicts itself is damaged") {
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
                          "max_position_embeddings", "model_type", "architectures"}) {
    check_config([&](json& c) { c.erase(key); }, kBad, std::string("config.json: ") + key + " is missing");
    check_config([&](json& c) { c[key] = -1; }, kBad, std::string("config.json: ") + key + " is -1");
  }
  check_config([](json& c) { c["hidden_size"] = "64"; }, kBad, "hidden_size is \"64\"");
  check_config([](json& c) { c["hidden_size"] = 64.5; }, kBad, "hidden_size is 64.5");
  check_config([](json& c) { c["hidden_size"] = 1ull << 33; }, kBad, "hidden_size is 8589934592");
  check_config([](json& c) { c["num_key_value_heads"] = 3; }, kBad, "no multiple");
  check_config([](json& c) { c["num_attention_heads"] = 0; }, kBad, "no multiple");
  check_config([](json& c) { c["num_hidden_layers"] = 3; }, kBad, "'model.layers.2.input_layernorm.weight' [64] is");
  check_config([](json& c) { c["num_hidden_layers"] = 1; }, kOther, "model.safetensors: tensor 'model.layers.1.");
  check_config([](json& c) { c["vocab_size"] = 321; }, kBad, "has shape [320, 64], expected [321, 64]");
  check_config([](json& c) { c["tie_word_embeddings"] = false; }, kBad, "'lm_head.weight' [320, 64] is missing");
  check_config_opens([](json& c) { c["tie_word_embeddings"] = true; }, "llama-mqa-sharded-f16");  // lm_head is ignored
  check_config([](json& c) { c["attention_bias"] = true; }, kBad, "q_proj.bias' [64] is missing");
  check_config([](json& c) { c["tie_word_embeddings"] = "yes"; }, kBad, "not true or false");
  check_config([](json& c) { c["rope_theta"] = 0; }, kBad, "RoPE base");
  check_config([](json& c) { c["rms_norm_eps"] = -1e-5; }, kBad, "epsilon");
  check_config([](json& c) { c["rope_scaling"] = "linear"; }, kBad, "rope_scaling is");
  check_config([](json& c) { c["rope_scaling"] = {{"type", "linear"}}; }, kBad, "rope_scaling.factor is missing");
  check_config([](json& c) { c["rope_scaling"] = {{"type", "llama3"}, {"factor", 8}}; }, kBad, "low_freq_factor is");
  check_config([](json& c) { c["rope_scaling"]["high_freq_factor"] = 1.0; }, kBad, "is not above",
               "llama-mqa-sharded-f16");
  check_config([](json& c) { c["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5.0}}; }, kBad, "differ");

  EditedFolder folder([](json&) {});
  const auto config = folder.path() / "config.json";
  const Bytes good = read_bytes(config);
  const std::vector<std::pair<std::string, std::string>> broken = {
      {"", "not valid JSON"},
      {"[]", "not a JSON object"},
      {"{\"a\":1", "not valid JSON"},
      {"{\"a\":1,\"a\":2}", "key 'a' is there twice"},
      {"{\"a\":" + std::string(64, '[') + std::string(64, ']') + "}", "more than 64 levels"},
      {"{\"a\":" + std::string(63, '[') + std::string(63, ']') + "}", "model_type is missing"},
      {"{\"a\":" + std::string(1'000'000, '['), "more than 64 levels"},
  };
  for (const auto& [text, fault] : broken) {
    write_bytes(config, to_bytes(text));
    check_refused(folder.path(), kBad, "config.json: " + fault);
  }
  write_bytes(config, good);
  REQUIRE(ModelFile::open(folder.path()));
  const Bytes weights = read_bytes(folder.path() / "model.safetensors");
  write_bytes(folder.path() / "model.safetensors", std::span(weights).first(weights.size() - 1));
  check_refused(folder.path(), kBad, "model.safetensors: ");
}

TEST_CASE("an index must name what is there, and nothing else") {
  EditedFolder folder([](json&) {}, "llama-mqa-sharded-f16");
  REQUIRE(ModelFile::open(folder.path()));
  const auto path = folder.path() / "model.safetensors.index.json";
  const Bytes text = read_bytes(path);
  const auto* begin = reinterpret_cast<const char*>(text.data());
  const json good = json::parse(begin, begin + text.size());
  const auto check = [&](const std::function<void(json&)>& change, ErrorCode code, std::string_view part) {
    json index = good;
    change(index["weight_map"]);
    write_bytes(path, to_bytes(index.dump()));
    check_refused(folder.path(), code, part);
  };
  const std::string first = "model-00001-of-00003.safetensors", second = "model-00002-of-00003.safetensors";
  check([](json& map) { map.erase("lm_head.weight"); }, kBad, "says it is nowhere");
  check([&](json& map) { map["lm_head.weight"] = second; }, kBad, "says it is in " + second);
  check([&](json& map) { map["extra.weight"] = first; }, kBad, "'extra.weight' of the index is missing");
  check([](json& map) { map["lm_head.weight"] = "absent.safetensors"; }, ErrorCode::kNotFound, "absent.safetensors: ");
  check([](json& map) { map["lm_head.weight"] = "../model.safetensors"; }, kBad, "no plain file name");
  check([](json& map) { map["lm_head.weight"] = "/etc/passwd"; }, kBad, "no plain file name");
  check([](json& map) { map["lm_head.weight"] = ""; }, kBad, "no plain file name");
  check([](json& map) { map["lm_head.weight"] = 1; }, kBad, "no plain file name");
  check([](json& map) { map = json::object(); }, kBad, "weight_map");
  check([](json& map) { map = 1; }, kBad, "weight_map");
}

TEST_CASE("a model with any byte of its metadata changed is refused or read within its bounds") {
  TempFolder temp;
  const GgufBuilder builder = tiny_llama();
  const Bytes whole = builder.build();
  std::size_t opened = 0, refused = 0;
  const auto open = [&](const std::filesystem::path& path) {
    const auto model = ModelFile::open(path);
    model ? ++opened : ++refused;
    if (model) touch(*model);
  };
  for (std::size_t at = 0; at < builder.header_bytes(); ++at) {
    Bytes file = whole;
    file[at] ^= std::byte{0x01};
    write_bytes(temp / "model.gguf", file);
    open(temp / "model.gguf");
  }
  CHECK(opened > 0);
  CHECK(refused > builder.header_bytes() / 2);

  const EditedFolder folder([](json&) {});
  const Bytes config = read_bytes(folder.path() / "config.json");
  opened = refused = 0;
  for (std::size_t at = 0; at < config.size(); ++at) {
    Bytes file = config;
    file[at] ^= std::byte{0x02};
    write_bytes(folder.path() / "config.json", file);
    open(folder.path());
  }
  CHECK(opened > 0);
  CHECK(refused > config.size() / 2);
}

TEST_CASE("paths that hold no model say so") {
  TempFolder temp;
  check_refused(temp / "nothing", ErrorCode::kNotFound, "");
  check_refused(temp.path(), kBad, "config.json is missing");
  write_bytes(temp / "model.safetensors", to_bytes("{}"));
  check_refused(temp / "model.safetensors", kBad, "not a GGUF file");
  write_bytes(temp / "empty", {});
  check_refused(temp / "empty", kBad, "not a GGUF file");
  check_refused("/dev/null", ErrorCode::kNotRegularFile, "");
}
