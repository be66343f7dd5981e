// Bits for each token of a card: the least expected loss at a size. spec/card-bits.md, section 1.
//
// Loss is told by token (card_rows.h): minimise sum eps(t, b(t)) S(t) within a number of bytes (arXiv 2605.03884,
// section on the objective), here with what a codec loses for eps and a token's sensitivity for S, keys and values
// apart. Tokens of equal precision in a head are a run, in tiles of 16: a precision takes whole tiles, filled with
// those tokens of fewer bits that gain most, so that none has fewer than 16 tokens and what is padding is counted.
#pragma once

#include <cstdint>
#include <span>

#include "cli/runtime/cards/card_rows.h"
#include "cli/runtime/codec_plan.h"
#include "format/shape.h"

namespace polykv::runtime {

// What may differ: tokens, all heads alike; the same in the paper's 2, 4, 8 and 16 bits alone; heads, all tokens alike;
// or tokens and heads.
enum class Grain : std::uint8_t { kTokens, kPaper, kHeads, kBoth };

// As many bytes at most as `bits` bits for every value take (kNvN, padding counted; between whole bits in proportion).
// `shape` is the card's, `bits` 2 to 16.
TokenPlan allocate_tokens(const format::KvShape& shape, const TokenSensitivities& sensitivities, double bits,
                          Grain grain);

// The same for tokens that are not there yet, all of them alike: each head its bits, to within the padding of its last
// tiles. `heads` is [num_layers *
// num_kv_heads].
TokenPlan allocate_heads(const format::KvShape& shape, std::span<const Sensitivity> heads, double bits);

}  // namespace polykv::runtime
