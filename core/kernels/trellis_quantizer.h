// The contract of the trellis quantizer: 16 rotated vectors to the codes of least square error, and their scales.
// spec/codecs.md, "Quantizing".
//
// Every table gives the same bits: all sums and costs are float, in the order of the specification, without fused
// multiply-add.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polykv::core {

// What a scale is to keep of a vector.
enum class ScaleRule {
  kNorm,        // of keys: |x'| = |x|
  kProjection,  // of values: <x, x'> = <x, x>
};

struct TrellisQuantizer {
  // bits 1 to 5; head_dim a multiple of 8, at most 512; tile [head_dim][16] finite; pointers need no alignment.
  //   codes [head_dim][16]    scales [16]: the step is in them, those of vectors of zeros are 0, and their codes too
  void (*quantize)(unsigned bits, ScaleRule rule, const float* tile, std::size_t head_dim, std::uint8_t* codes,
                   float* scales);
};

extern const TrellisQuantizer kTrellisScalar;
#if defined(__x86_64__)
extern const TrellisQuantizer kTrellisAvx2;
extern const TrellisQuantizer kTrellisAvx512;
#endif

}  // namespace polykv::core
