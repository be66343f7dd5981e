// In which codec each token of a card is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cli/runtime/codec_plan.h"
#include "format/reader.h"
#include "format/status.h"

namespace polykv::runtime {

// What --bits says of a card.
struct CardBits {
  enum class Kind : std::uint8_t {
    kAsBase,   // each head as it is in the base pool
    kUniform,  // the same everywhere
    kMixed,    // by token, from what is measured of the card (mixed_card.h)
    kLearned,  // by token, as the controller in the model's folder says (controller.h)
  };
  Kind kind = Kind::kAsBase;
  double bits = 0;  // of a value; where they differ by token on average, padding counted
  bool by_token() const { return kind == Kind::kMixed || kind == Kind::kLearned; }
};

inline constexpr const char* kCardBitsSyntax = "1 to 8, 16, or auto:B or learned:B with B from 2 to 16";
std::optional<CardBits> parse_card_bits(std::string_view text);
std::string card_bits_name(const CardBits& bits);  // what parse_card_bits reads; "base" for kAsBase

TokenPlan uniform_token_plan(const format::KvShape& shape, core::CodecPair codec);

// A pool's own: as its tokens are. Every head must keep all positions.
TokenPlan token_plan_of(const format::PoolReader& pool);

// Codecs of the base's heads; a head that has sinks alone gets the default codec.
TokenPlan token_plan_as_base(const format::PoolReader& base, std::uint32_t num_tokens);

}  // namespace polykv::runtime
