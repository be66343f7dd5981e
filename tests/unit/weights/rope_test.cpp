// RopeConfig::inverse_frequencies against transformers, and its cases one by one.
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>

#include "cli/runtime/weights/model_config.h"
#include "tests/support/catch.h"
#include "tests/unit/weights/model_bytes.h"

using namespace polykv::tests;
using polykv::runtime::RopeConfig;
using polykv::runtime::RopeScaling;

TEST_CASE("inverse frequencies are those of transformers") {
  const Bytes text = read_bytes(models_dir() / "golden" / "rope.json");
  const auto* begin = reinterpret_cast<const char*>(text.data());
  const auto golden = nlohmann::json::parse(begin, begin + text.size());
  REQUIRE(golden.size() >= 5);
  for (const auto& entry : golden) {
    RopeConfig rope;
    rope.theta = entry.at("theta");
    const std::string type = entry.value("rope_type", "default");
    if (type != "default") rope.factor = entry.at("factor");
    if (type == "linear") rope.scaling = RopeScaling::kLinear;
    if (type == "llama3") {
      rope.scaling = RopeScaling::kLlama3;
      rope.low_freq_factor = entry.at("low_freq_factor");
      rope.high_freq_factor = entry.at("high_freq_factor");
      rope.original_context = entry.at("original_max_position_embeddings");
    }
    const std::uint32_t head_dim = entry.at("head_dim");
    const auto frequencies = rope.inverse_frequencies(head_dim);
    REQUIRE(frequencies.size() == head_dim / 2);
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
      const double expected = entry.at("inverse_frequencies").at(i);
      INFO(type << " theta " << rope.theta << " pair " << i);
      // transformers computes in float32: the exponent 2i/head_dim carries 2^-24 relative, which log(theta) <= 14
      // magnifies, then some ten roundings of 2^-24 each follow: 24 * 2^-24 in all.
      CHECK(std::abs(frequencies[i] - expected) <= 24 * 0x1p-24 * expected);
    }
  }
}

TEST_CASE("llama3 scaling keeps short waves, stretches long ones and joins the two without a step") {
  RopeConfig plain, scaled;
  plain.theta = scaled.theta = 500000.0;
  scaled.scaling = RopeScaling::kLlama3;
  scaled.factor = 8;
  const auto before = plain.inverse_frequencies(128), after = scaled.inverse_frequencies(128);
  int kept = 0, stretched = 0, between = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const double wave = 2 * std::numbers::pi / before[i];
    if (wave < 8192.0 / 4) {
      CHECK(after[i] == before[i]);
      ++kept;
    } else if (wave > 8192.0) {
      CHECK(after[i] == before[i] / 8);
      ++stretched;
    } else {
      CHECK(after[i] < before[i]);
      CHECK(after[i] > before[i] / 8);
      ++between;
    }
    if (i > 0) CHECK(after[i] < after[i - 1]);
  }
  CHECK(kept > 0);
  CHECK(stretched > 0);
  CHECK(between > 0);
}

TEST_CASE("divisors of a GGUF replace the llama3 formula, and linear scaling comes on top") {
  RopeConfig rope;
  rope.scaling = RopeScaling::kLlama3;
  rope.factor = 8;
  rope.frequency_divisors = {1.0f, 2.0f, 4.0f, 8.0f};
  const auto divided = rope.inverse_frequencies(8);
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(divided[i] == std::pow(10000.0, -2.0 * static_cast<double>(i) / 8) / rope.frequency_divisors[i]);
  rope.scaling = RopeScaling::kLinear;
  const auto linear = rope.inverse_frequencies(8);
  for (std::size_t i = 0; i < 4; ++i) CHECK(linear[i] == divided[i] / 8);
}
