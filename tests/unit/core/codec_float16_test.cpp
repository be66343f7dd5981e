// float16.h against arithmetic on every pattern, and against the CPU's own conversion where there is one.
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/float16.h"
#include "tests/support/catch.h"
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace {

using polykv::core::float16_to_float;
using polykv::core::float_to_float16;

TEST_CASE("float16 to float on all patterns", "[float16]") {
  for (unsigned half = 0; half < 0x10000; ++half) {
    const unsigned exponent = half >> 10 & 31, fraction = half & 0x3ff;
    const float sign = half >> 15 != 0 ? -1.0f : 1.0f;
    const float got = float16_to_float(static_cast<std::uint16_t>(half));
    INFO("half " << half);
    if (exponent == 31 && fraction != 0) {
      REQUIRE(std::isnan(got));
      REQUIRE(std::isnan(float16_to_float(float_to_float16(got))));
      continue;
    }
    const double magnitude = exponent == 31  ? HUGE_VAL
                             : exponent == 0 ? std::ldexp(fraction, -24)
                                             : std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
    REQUIRE(got == sign * static_cast<float>(magnitude));
    REQUIRE(std::signbit(got) == (sign < 0));
    REQUIRE(float_to_float16(got) == half);
  }
}

// Between neighbours a < b: just below the middle goes to a, just above to b, the middle itself to the even one.
TEST_CASE("float to float16 rounds to nearest even", "[float16]") {
  for (std::uint16_t half = 0; half < 0x7c00; ++half) {
    const float a = float16_to_float(half);
    const float b = half == 0x7bff ? 65536.0f : float16_to_float(static_cast<std::uint16_t>(half + 1));
    const float middle = a + (b - a) / 2;  // exact: one bit more than a float16 has
    const auto next = static_cast<std::uint16_t>(half + 1);
    const std::uint16_t even = half % 2 == 0 ? half : next;
    INFO("half " << half);
    REQUIRE(float_to_float16(middle) == even);
    REQUIRE(float_to_float16(-middle) == (even | 0x8000));
    REQUIRE(float_to_float16(std::nextafter(middle, 0.0f)) == half);
    REQUIRE(float_to_float16(std::nextafter(middle, 1e30f)) == next);
  }
  CHECK(float_to_float16(1e30f) == 0x7c00);
  CHECK(float_to_float16(-HUGE_VALF) == 0xfc00);
  CHECK(float_to_float16(1e-30f) == 0);
}

#if defined(__x86_64__)
__attribute__((target("f16c"))) std::uint16_t hardware_float16(float value) {
  return static_cast<std::uint16_t>(_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT), 0));
}

TEST_CASE("float to float16 as the hardware rounds", "[float16]") {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_F16C) == 0) return;
  for (std::uint64_t bits = 0; bits < 0x100000000u; bits += 2039) {  // a prime: 2.1 million patterns over all exponents
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (std::isnan(value)) continue;
    if (float_to_float16(value) != hardware_float16(value)) FAIL("float bits " << bits);
  }
}
#endif

}  // namespace
