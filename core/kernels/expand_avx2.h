// Codes of one page as the integers of their codebook, 32 at a time in two registers of 16-bit integers, for the
// attention kernels of AVX2. core/kernels/attention_scalar.cpp says it in C++.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/codebook.h"
#include "core/kernels/expand.h"
#include "core/kernels/target.h"

POLYKV_TARGET_BEGIN("avx2")
namespace polykv::core {
namespace {

inline __m128i load_16(const void* bytes) { return _mm_loadu_si128(static_cast<const __m128i*>(bytes)); }
inline __m256i load_32(const void* bytes) { return _mm256_loadu_si256(static_cast<const __m256i*>(bytes)); }
inline void store_32(void* bytes, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(bytes), x); }

// mask ? one : other, bit by bit.
inline __m256i select(int mask, __m256i one, __m256i other) {
  const __m256i ones = _mm256_set1_epi8(static_cast<char>(mask));
  return _mm256_or_si256(_mm256_and_si256(ones, one), _mm256_andnot_si256(ones, other));
}

// ---- subsets of trellis codes

// The subsets (2 y1 + y0) of the codes of every group, as pairs of bits. With e = 8 i + k, the pair of code e is in
// byte 2 i from bit k on for even k, in byte 2 i + 1 from bit k - 1 on for odd k.
struct SubsetPairs {
  alignas(32) std::uint8_t bytes[kMaxTiles][kMaxGroups][16];
};

// Four groups, from `bits`, the words of their trellis bits, and `before`, those of the groups with the four (keys) or
// sixteen (values) dimensions before theirs. In a group of keys four dimensions of a position are neighbours, in one of
// values four positions of a dimension.
template <bool kIsKey>
void find_subsets(__m256i bits, __m256i before, std::uint8_t (*out)[16]) {
  __m256i one, two, three;  // trellis bits of so many dimensions ago
  if constexpr (kIsKey) {
    one = select(0xee, _mm256_slli_epi64(bits, 1), _mm256_srli_epi64(before, 3));
    two = select(0xcc, _mm256_slli_epi64(bits, 2), _mm256_srli_epi64(before, 2));
    three = select(0x88, _mm256_slli_epi64(bits, 3), _mm256_srli_epi64(before, 1));
  } else {
    one = _mm256_or_si256(_mm256_slli_epi64(bits, 4), _mm256_srli_epi64(before, 60));
    two = _mm256_or_si256(_mm256_slli_epi64(bits, 8), _mm256_srli_epi64(before, 56));
    three = _mm256_or_si256(_mm256_slli_epi64(bits, 12), _mm256_srli_epi64(before, 52));
  }
  const __m256i y0 = two, y1 = _mm256_xor_si256(bits, _mm256_xor_si256(one, three));
  const __m256i even = select(0x55, y0, _mm256_add_epi8(y1, y1));
  const __m256i odd = select(0x55, _mm256_srli_epi64(y0, 1), y1);
  const __m256i groups_02 = _mm256_unpacklo_epi8(even, odd), groups_13 = _mm256_unpackhi_epi8(even, odd);
  store_32(out, _mm256_permute2x128_si256(groups_02, groups_13, 0x20));
  store_32(out + 2, _mm256_permute2x128_si256(groups_02, groups_13, 0x31));
}

// All ones in the words whose bit is set.
inline __m256i word_mask(unsigned bits) {
  const __m256i bit = _mm256_setr_epi64x(1, 2, 4, 8);
  return _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(bits), bit), bit);
}

template <bool kIsKey>
void find_subsets(const CodeTiles& tiles, SubsetPairs& out) {
  const std::size_t num_groups = tiles.num_groups, row = kIsKey ? num_groups : num_groups / 4;
  std::uint8_t first[kMaxGroups / 4]{};  // a bit a group: it is the first of its positions
  for (std::size_t group = 0; group < num_groups; group += row)
    first[group / 4] = static_cast<std::uint8_t>(first[group / 4] | 1u << group % 4);
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile) {
    const auto* words =
        reinterpret_cast<const long long*>(tiles.codes + ((tile + 1) * tiles.bits - 1) * num_groups * 8);
    for (std::size_t group = 0; group < num_groups; group += 4) {
      const unsigned there = num_groups - group >= 4 ? 15 : (1u << (num_groups - group)) - 1;
      find_subsets<kIsKey>(_mm256_maskload_epi64(words + group, word_mask(there)),
                           _mm256_maskload_epi64(words + group - 1, word_mask(there & ~unsigned{first[group / 4]})),
                           out.bytes[tile] + group);
    }
  }
}

// ---- integers

// 32 integers in order are four neighbours of eight positions (keys) or dims (values): of each four the first and
// third, and the second and fourth, which stand where products of 16-bit integers are added in pairs.
struct Words {
  __m256i even, odd;
};

// 32 bits -> 32 bytes, 0xff where the bit is set.
inline __m256i spread_bits(const std::byte* bytes) {
  std::int32_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
  const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte_of);
  return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of), bit_of);
}

// The integers of a page, from its codes.
template <unsigned kBits, bool kIsKey>
class Integers {
 public:
  // All of it must outlive the object. `pairs` is room for subsets; `room`, if not null, is for the integers that have
  // been loaded: [tile][group][half][even, odd], 32-byte aligned.
  Integers(const CodeTiles& tiles, SubsetPairs& pairs, std::int16_t* room)
      : codes_(tiles.codes), num_groups_(tiles.num_groups), ahead_(tiles.ahead), pairs_(pairs), room_(room) {
    if constexpr (kBits <= 5) find_subsets<kIsKey>(tiles, pairs);
    const std::int8_t* book = codebook(kBits).values;
    if constexpr (kBits == 4) {  // one for each value of the rank's highest bit
      const __m128 first = _mm_castsi128_ps(load_16(book)), second = _mm_castsi128_ps(load_16(book + 16));
      books_[0] = _mm256_broadcastsi128_si256(_mm_castps_si128(_mm_shuffle_ps(first, second, 0x88)));
      books_[1] = _mm256_broadcastsi128_si256(_mm_castps_si128(_mm_shuffle_ps(first, second, 0xdd)));
    } else {
      for (std::size_t i = 0; i < 4; ++i) books_[i] = _mm256_broadcastsi128_si256(load_16(book + 16 * i));
    }
  }

  // Half kHalf, 0 or 1, of a group.
  template <int kHalf>
  Words load(std::size_t tile, std::size_t group) const {
    const std::byte* planes = codes_ + tile * num_groups_ * kBits * 8;
    if constexpr (kHalf == 0) __builtin_prefetch(planes + group * kBits * 8 + ahead_, 0, 3);
    const __m256i x = expand<kHalf>(planes, tile, group);
    const Words words{_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_srai_epi16(x, 8)};
    if (room_ != nullptr) {
      std::int16_t* to = room_ + (tile * num_groups_ + group) * kGroupCodes + kHalf * 32;
      store_32(to, words.even);
      store_32(to + 16, words.odd);
    }
    return words;
  }

 private:
  template <int kHalf>
  __m256i expand(const std::byte* planes, std::size_t tile, std::size_t group) const {
    if constexpr (kBits == 8) return load_32(planes + group * kGroupCodes + kHalf * 32);
    if constexpr (kBits <= 5) return expand_trellis<kHalf>(planes, tile, group);
    const __m256i code = _mm256_or_si256(load_4<kHalf>(planes, group),
                                         _mm256_slli_epi16(load_2<kHalf>(planes + num_groups_ * 32, group), 4));
    if constexpr (kBits == 7) {  // 2 * code - 127
      const __m256i high = _mm256_slli_epi16(load_1<kHalf>(planes + num_groups_ * 48, group), 7);
      const __m256i low = _mm256_sub_epi8(_mm256_add_epi8(code, code), _mm256_set1_epi8(127));
      return _mm256_xor_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(static_cast<char>(0x80))));
    }
    // A byte shuffle for each 16 entries: codes outside them get their highest bit set (saturating add), for which the
    // shuffle gives 0.
    __m256i values = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i) {
      const __m256i entry = _mm256_sub_epi8(code, _mm256_set1_epi8(static_cast<char>(16 * i)));
      const __m256i index = _mm256_adds_epu8(entry, _mm256_set1_epi8(0x70));
      values = _mm256_or_si256(values, _mm256_shuffle_epi8(books_[i], index));
    }
    return values;
  }

  // Byte shuffles by up to four bits of rank and subset; the other bits choose among their results.
  template <int kHalf>
  __m256i expand_trellis(const std::byte* planes, std::size_t tile, std::size_t group) const {
    constexpr unsigned kRank = kBits - 1;
    const __m256i subsets = load_subsets<kHalf>(pairs_.bytes[tile][group]);
    if constexpr (kBits == 5) {
      const __m256i rank = load_4<kHalf>(planes, group), y0 = _mm256_add_epi8(subsets, subsets);
      const __m256i low =
          _mm256_blendv_epi8(_mm256_shuffle_epi8(books_[0], rank), _mm256_shuffle_epi8(books_[1], rank), y0);
      const __m256i high =
          _mm256_blendv_epi8(_mm256_shuffle_epi8(books_[2], rank), _mm256_shuffle_epi8(books_[3], rank), y0);
      return _mm256_blendv_epi8(low, high, subsets);
    }
    constexpr unsigned kPlace = kRank == 3 ? 2 : kRank;
    __m256i index = _mm256_and_si256(_mm256_srli_epi16(subsets, 6 - kPlace), _mm256_set1_epi8(3 << kPlace));
    if constexpr (kRank == 1) index = _mm256_sub_epi8(index, load_1<kHalf>(planes, group));
    if constexpr (kRank >= 2) index = _mm256_or_si256(index, load_2<kHalf>(planes, group));
    const __m256i integers = _mm256_shuffle_epi8(books_[0], index);
    if constexpr (kRank < 3) return integers;
    return _mm256_blendv_epi8(integers, _mm256_shuffle_epi8(books_[1], index),
                              load_1<kHalf>(planes + num_groups_ * 16, group));
  }

  // y0 and y1 of each code in bits 6 and 7 of its byte; lower bits are of no meaning. A multiplication shifts the two
  // bytes of a word, whose pairs begin at the same bit.
  template <int kHalf>
  static __m256i load_subsets(const std::uint8_t* pairs) {
    const __m256i word_of = _mm256_add_epi8(
        _mm256_set1_epi8(8 * kHalf),
        _mm256_setr_epi64x(0x0100010001000100, 0x0302030203020302, 0x0504050405040504, 0x0706070607060706));
    const __m256i words = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_16(pairs)), word_of);
    return _mm256_mullo_epi16(words, _mm256_set1_epi64x(0x0001000400100040));
  }

  // Bits of codes, from their planes; of one bit 0xff where it is set.
  template <int kHalf>
  static __m256i load_4(const std::byte* plane, std::size_t group) {
    return _mm256_and_si256(_mm256_srli_epi16(load_32(plane + group * 32), 4 * kHalf), _mm256_set1_epi8(15));
  }
  template <int kHalf>
  static __m256i load_2(const std::byte* plane, std::size_t group) {
    const __m256i both = _mm256_broadcastsi128_si256(load_16(plane + group * 16));
    return _mm256_and_si256(
        _mm256_srlv_epi64(both, _mm256_setr_epi64x(4 * kHalf, 4 * kHalf, 4 * kHalf + 2, 4 * kHalf + 2)),
        _mm256_set1_epi8(3));
  }
  template <int kHalf>
  static __m256i load_1(const std::byte* plane, std::size_t group) {
    return spread_bits(plane + group * 8 + kHalf * 4);
  }

  const std::byte* codes_;
  std::size_t num_groups_, ahead_;
  const SubsetPairs& pairs_;
  std::int16_t* room_;
  __m256i books_[4];
};

// Words that have been loaded before.
class ReadyIntegers {
 public:
  using Integer = std::int16_t;

  ReadyIntegers(const std::int16_t* words, std::size_t num_groups) : words_(words), num_groups_(num_groups) {}
  template <int kHalf>
  Words load(std::size_t tile, std::size_t group) const {
    const std::int16_t* from = words_ + (tile * num_groups_ + group) * kGroupCodes + kHalf * 32;
    return {load_32(from), load_32(from + 16)};
  }

 private:
  const std::int16_t* words_;
  std::size_t num_groups_;
};

}  // namespace
}  // namespace polykv::core
POLYKV_TARGET_END

#endif
