// ModelFile on the fixtures: what they say, and every weight against the numbers of the gguf and safetensors packages.
#include "cli/runtime/weights/model_file.h"

#include <nlohmann/json.hpp>
#include <string>

#include "cli/runtime/weights/architectures.h"
#include "format/checksum.h"
#include "tests/support/catch.h"
#include "tests/support/data.h"
#include "tests/unit/weights/model_bytes.h"

using namespace polykv::tests;
using polykv::core::WeightMatrix;
using polykv::core::WeightType;
using polykv::runtime::ModelFile;
using polykv::runtime::RopeScaling;

namespace {

nlohmann::json parse(std::span<const std::byte> text) {
  const auto* begin = reinterpret_cast<const char*>(text.data());
  return nlohmann::json::parse(begin, begin + text.size());
}

std::string hex(const polykv::format::Digest& digest) {
  std::string out;
  for (const std::uint8_t byte : digest) {
    out += "0123456789abcdef"[byte >> 4];
    out += "0123456789abcdef"[byte & 15];
  }
  return out;
}

std::vector<float> dequantize(const WeightMatrix& matrix) {
  std::vector<float> out(matrix.num_rows * matrix.num_cols);
  for (std::size_t row = 0; row < matrix.num_rows; ++row) {
    polykv::core::dequantize_row(matrix, row, std::span(out).subspan(row * matrix.num_cols, matrix.num_cols));
  }
  return out;
}

// Every weight with the name that its file has for it.
std::vector<std::pair<std::string, WeightMatrix>> named_weights(const ModelFile& model) {
  const auto* architecture = polykv::runtime::find_gguf_architecture(model.config().architecture);
  const auto& names = model.gguf() != nullptr ? *architecture->gguf_names : *architecture->hf_names;
  const auto& weights = model.weights();
  std::vector<std::pair<std::string, WeightMatrix>> out = {{std::string(names.embedding), weights.embedding},
                                                           {std::string(names.output_norm), weights.output_norm}};
  if (weights.output.data != weights.embedding.data) out.emplace_back(names.output, weights.output);
  for (std::size_t i = 0; i < weights.layers.size(); ++i) {
    const auto add = [&](std::string_view pattern, const WeightMatrix& matrix, const WeightMatrix& bias) {
      std::string name(pattern);
      name.replace(name.find("{}"), 2, std::to_string(i));
      out.emplace_back(name, matrix);
      if (bias) out.emplace_back(name.replace(name.rfind(".weight"), 7, ".bias"), bias);
    };
    const auto& layer = weights.layers[i];
    add(names.attention_norm, layer.attention_norm, {});
    add(names.query, layer.query, layer.query_bias);
    add(names.key, layer.key, layer.key_bias);
    add(names.value, layer.value, layer.value_bias);
    add(names.attention_output, layer.attention_output, {});
    add(names.ffn_norm, layer.ffn_norm, {});
    add(names.ffn_gate, layer.ffn_gate, {});
    add(names.ffn_up, layer.ffn_up, {});
    add(names.ffn_down, layer.ffn_down, {});
  }
  return out;
}

ModelFile open_fixture(const std::string& name) {
  auto model = ModelFile::open(models_dir() / name);
  INFO(name << ": " << (model ? "" : model.error().message));
  REQUIRE(model);
  return std::move(model).value();
}

}  // namespace

TEST_CASE("every weight of every fixture has the values that the reference packages read") {
  const auto golden = parse(read_bytes(models_dir() / "golden" / "tensors.json"));
  REQUIRE(golden.size() == 8);
  for (const auto& [file, tensors] : golden.items()) {
    const ModelFile model = open_fixture(file);
    const auto weights = named_weights(model);
    CHECK(weights.size() == tensors.size() - tensors.count("rope_freqs.weight"));
    for (const auto& [name, matrix] : weights) {
      INFO(file << " " << name);
      REQUIRE(tensors.contains(name));
      const auto& expected = tensors.at(name);
      CHECK(std::string(weight_type_name(matrix.type)) == expected.at("type"));
      const std::vector<std::size_t> shape = expected.at("shape");
      CHECK(matrix.num_cols == shape.back());
      CHECK(matrix.num_rows == (shape.size() == 2 ? shape[0] : 1));
      const std::vector<float> values = dequantize(matrix);
      for (std::size_t i = 0; i < 4; ++i) CHECK(values[i] == expected.at("first").at(i).get<float>());
      CHECK(hex(polykv::format::sha256(std::as_bytes(std::span(values)))) == expected.at("sha256"));
    }
  }
}

TEST_CASE("the fixtures say what they were made to say") {
  const auto gqa = open_fixture("llama-gqa-bf16");
  CHECK(gqa.config().architecture == "llama");
  CHECK(gqa.config().num_layers == 2);
  CHECK(gqa.config().hidden_size == 64);
  CHECK(gqa.config().num_q_heads == 4);
  CHECK(gqa.config().num_kv_heads == 2);
  CHECK(gqa.config().head_dim == 16);  // derived: config.json has none
  CHECK(gqa.config().ffn_size == 96);
  CHECK(gqa.config().vocab_size == 320);
  CHECK(gqa.config().context_length == 512);
  CHECK_FALSE(gqa.config().interleaved_qk);
  CHECK(gqa.weights().output.data == gqa.weights().embedding.data);
  CHECK_FALSE(gqa.weights().layers[0].query_bias);
  CHECK(gqa.gguf() == nullptr);
  CHECK_FALSE(gqa.tokenizer_json().empty());
  CHECK_FALSE(gqa.generation_config_json().empty());
  CHECK(gqa.weight_file_names() == std::vector<std::string>{"model.safetensors"});

  const auto sharded = open_fixture("llama-mqa-sharded-f16");
  CHECK(sharded.weight_files().size() == 3);
  CHECK(sharded.weight_file_names()[2] == "model-00003-of-00003.safetensors");
  CHECK(sharded.config().head_dim == 40);
  CHECK(sharded.config().rope.scaling == RopeScaling::kLlama3);
  CHECK(sharded.config().rope.original_context == 64);
  CHECK(sharded.weights().output.data != sharded.weights().embedding.data);

  const auto odd = open_fixture("qwen2-mha-odd-mixed");
  CHECK(odd.config().rope.scaling == RopeScaling::kLinear);  // from rope_parameters
  CHECK(odd.config().rope.factor == 4.0);
  CHECK(odd.config().rope.theta == 1e6);
  CHECK(odd.weights().layers[1].key_bias.num_cols == 128);
  CHECK(reinterpret_cast<std::uintptr_t>(odd.weights().embedding.data) % 2 == 1);

  const auto q8_0 = open_fixture("llama-gqa-q8_0.gguf");
  CHECK(q8_0.config().name == "tiny llama gqa q8_0");
  CHECK(q8_0.config().interleaved_qk);
  CHECK(q8_0.config().num_layers == 3);
  CHECK(q8_0.gguf() != nullptr);
  CHECK(q8_0.tokenizer_json().empty());
  CHECK(q8_0.weights().layers[0].query.type == WeightType::kQ8_0);

  const auto v2 = open_fixture("llama-mha-q4_0-v2.gguf");
  CHECK(v2.gguf()->version() == 2);
  CHECK(v2.config().head_dim == 8);
  CHECK(v2.config().rope.scaling == RopeScaling::kLinear);
  CHECK(v2.config().rope.factor == 2.5);

  const auto bias = open_fixture("llama-mqa-bias-f16.gguf");
  CHECK(bias.config().rope.frequency_divisors.size() == 20);
  CHECK(bias.config().rope.frequency_divisors.front() == 1.0f);
  CHECK(bias.config().rope.frequency_divisors.back() == 8.0f);
  CHECK(bias.weights().layers[0].query_bias.num_cols == 120);

  const auto qwen2 = open_fixture("qwen2-gqa-q4_1.gguf");
  CHECK(qwen2.config().architecture == "qwen2");
  CHECK_FALSE(qwen2.config().interleaved_qk);

  const auto shifted = open_fixture("llama-shifted-mixed.gguf");
  std::uint64_t first = ~std::uint64_t{0};
  for (const auto& tensor : shifted.gguf()->tensors()) first = std::min(first, tensor.offset);
  CHECK(shifted.weight_files()[0].bytes()[first - 1] == std::byte{0xaa});  // data begins after 32 bytes of filler
}

TEST_CASE("a GGUF's divisors and a folder's formula give the same frequencies") {
  const auto folder = open_fixture("llama-mqa-sharded-f16"), gguf = open_fixture("llama-mqa-bias-f16.gguf");
  const auto formula = folder.config().rope.inverse_frequencies(40);
  const auto divided = gguf.config().rope.inverse_frequencies(40);
  for (std::size_t i = 0; i < 20; ++i)
    CHECK(std::abs(formula[i] - divided[i]) <= 0x1p-24 * formula[i] * 1.01);  // the divisor is rounded to float32 once
}

TEST_CASE("a model stays whole when it is moved") {
  auto model = open_fixture("llama-gqa-q8_0.gguf");
  const auto* data = model.weights().embedding.data;
  const ModelFile moved = std::move(model);
  CHECK(moved.weights().embedding.data == data);
  CHECK(moved.gguf()->tensor("token_embd.weight")->data.data() == data);
  CHECK(moved.check_unchanged().has_value());
}

TEST_CASE("a model that is changed while in use is noticed, in whichever of its files") {
  const TempFolder folder;
  std::filesystem::copy(models_dir() / "llama-mqa-sharded-f16", folder / "model");
  const auto opened = ModelFile::open(folder / "model");
  REQUIRE(opened.has_value());
  CHECK(opened->check_unchanged().has_value());
  const std::filesystem::path shard = folder / "model/model-00002-of-00003.safetensors";
  std::filesystem::resize_file(shard, std::filesystem::file_size(shard) - 1);
  const auto status = opened->check_unchanged();
  REQUIRE_FALSE(status.has_value());
  CHECK(status.error().code == polykv::format::ErrorCode::kChanged);
  CHECK_THAT(status.error().message, Catch::Matchers::StartsWith("model " + shard.string() + ": it became shorter"));
}

TEST_CASE("the chat template is the model's own") {
  const auto in_gguf = open_fixture("llama-gqa-q8_0.gguf").chat_template();
  const auto in_folder = open_fixture("llama-gqa-bf16").chat_template();
  REQUIRE(in_gguf);
  CHECK(in_gguf == in_folder);
  CHECK(in_gguf->find("<|im_start|>") != std::string::npos);

  TempFolder temp;
  std::filesystem::copy(models_dir() / "llama-gqa-bf16", temp / "model");
  const auto config = temp / "model" / "tokenizer_config.json";
  const auto opened = [&] { return ModelFile::open(temp / "model"); };
  const std::string tool_use = R"({"name":"tool_use","template":"T"})";
  write_bytes(config, to_bytes("{\"chat_template\":[" + tool_use + R"(,{"name":"default","template":"D"}]})"));
  CHECK(opened()->chat_template() == "D");
  write_bytes(temp / "model" / "chat_template.jinja", to_bytes("J"));
  CHECK(opened()->chat_template() == "J");  // as transformers has it: the file wins
  std::filesystem::remove(temp / "model" / "chat_template.jinja");
  write_bytes(config, to_bytes("{}"));
  CHECK(opened()->chat_template() == std::nullopt);
  std::filesystem::remove(config);
  CHECK(opened()->chat_template() == std::nullopt);
  CHECK(opened()->tokenizer_config_json().empty());
  write_bytes(config, to_bytes("{\"chat_template\":[" + tool_use + "]}"));
  CHECK_FALSE(opened());
}

TEST_CASE("the real vocabularies are no models, and say why") {
  const auto data = data_dir();
  if (!data) return skip("shared data: tokenizer-vocabs");
  for (const char* name : {"gpt-2", "llama-bpe", "qwen2"}) {
    const auto model = ModelFile::open(*data / "tokenizer-vocabs" / (std::string(name) + ".gguf"));
    REQUIRE_FALSE(model);
    CHECK(model.error().code == polykv::format::ErrorCode::kUnsupportedModel);
    CHECK(model.error().message.find("vocabulary only") != std::string::npos);
  }
}
