// Codes of one page as the integers of their codebook, 64 at a time in a register, for the attention kernels of
// AVX-512. core/kernels/attention_scalar.cpp says it in C++.
//
// vpermb reads the low six bits of an index: a small codebook repeated over the register needs no masking, and higher
// bits are of no meaning.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/codebook.h"
#include "core/kernels/expand.h"
#include "core/kernels/target.h"

#if defined(__GNUC__) && !defined(__clang__)  // gcc 12's own intrinsics start from undefined registers (its bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

POLYKV_TARGET_BEGIN("avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")
namespace polykv::core {
namespace {

using ByteTable = std::array<std::uint8_t, 64>;
inline __m512i load_table(const ByteTable& table) { return _mm512_load_si512(table.data()); }

// mask ? one : other, bit by bit.
inline __m512i select(int mask, __m512i one, __m512i other) {
  return _mm512_ternarylogic_epi64(one, other, _mm512_set1_epi8(static_cast<char>(mask)), 0xe4);
}

// ---- subsets of trellis codes

// The subsets (2 y1 + y0) of the codes of every group, as pairs of bits in two words. With e = 8 i + k, the pair of
// code e is in word i % 2, in its byte i / 2 * 2 from bit k on for even k, in the byte after that from bit k - 1 on for
// odd k.
struct SubsetPairs {
  alignas(64) std::uint64_t words[kMaxTiles][kMaxGroups][2];
};

// Where the pairs of four groups are in two registers, of even k and of odd k, with byte i of a group for its codes 8 i
// to 8 i + 7.
constexpr ByteTable pair_bytes(std::size_t first_group) {
  ByteTable from{};
  for (std::size_t b = 0; b < 64; ++b)
    from[b] = static_cast<std::uint8_t>((first_group + b / 16) * 8 + b % 8 / 2 * 2 + b / 8 % 2 + b % 2 * 64);
  return from;
}
alignas(64) constexpr ByteTable kPairBytes[2] = {pair_bytes(0), pair_bytes(4)};

// For vpmultishiftqb: brings the pair of code e in its word, or its one bit in a word of a bit a code, to bits from
// `place` on of byte e.
constexpr ByteTable pair_shifts(unsigned place) {
  ByteTable from{};
  for (std::size_t e = 0; e < 64; ++e)
    from[e] = static_cast<std::uint8_t>((e / 16 * 16 + (e % 2 == 0 ? e % 8 : e % 8 + 7) - place) % 64);
  return from;
}
constexpr ByteTable bit_shifts(unsigned place) {
  ByteTable from{};
  for (std::size_t e = 0; e < 64; ++e) from[e] = static_cast<std::uint8_t>((e - place) % 64);
  return from;
}
template <unsigned kPlace>
struct Shifts {
  alignas(64) static constexpr ByteTable kPairs = pair_shifts(kPlace), kBits = bit_shifts(kPlace);
};

// Eight groups, from the words of their trellis bits. In a group of keys a half byte is four dimensions of a position,
// those before are in the word before; in one of values it is four positions of a dimension, the byte before is two
// dimensions before.
//   there, first: all ones in the bytes of groups that are there, and that are the first of their positions
template <bool kIsKey>
void find_subsets(const std::byte* words, std::uint64_t there, std::uint64_t first, std::uint64_t (*out)[2]) {
  const __m512i bits = _mm512_maskz_loadu_epi8(there, words);
  __m512i y0, y1;
  if constexpr (kIsKey) {
    const __m512i before = _mm512_maskz_loadu_epi8(there & ~first, words - 8);
    const __m512i up_1 = _mm512_add_epi8(bits, bits), up_2 = _mm512_add_epi8(up_1, up_1);
    const __m512i one = select(0xee, up_1, _mm512_srli_epi64(before, 3));
    const __m512i three = select(0x88, _mm512_add_epi8(up_2, up_2), _mm512_srli_epi64(before, 1));
    y0 = select(0xcc, up_2, _mm512_srli_epi64(before, 2));
    y1 = _mm512_ternarylogic_epi64(bits, one, three, 0x96);  // exclusive or
  } else {
    const __m512i two = _mm512_maskz_loadu_epi8(there & ~(first & 0x0101010101010101), words - 1);
    const __m512i four = _mm512_maskz_loadu_epi8(there & ~(first & 0x0303030303030303), words - 2);
    const __m512i up = _mm512_slli_epi64(_mm512_xor_si512(bits, two), 4);
    const __m512i down = _mm512_srli_epi64(_mm512_xor_si512(two, four), 4);
    y0 = two;
    y1 = _mm512_xor_si512(bits, select(0xf0, up, down));
  }
  const __m512i even = select(0x55, y0, _mm512_add_epi8(y1, y1));
  const __m512i odd = select(0x55, _mm512_srli_epi64(y0, 1), y1);
  _mm512_store_si512(out, _mm512_permutex2var_epi8(even, load_table(kPairBytes[0]), odd));
  _mm512_store_si512(out + 4, _mm512_permutex2var_epi8(even, load_table(kPairBytes[1]), odd));
}

template <bool kIsKey>
void find_subsets(const CodeTiles& tiles, SubsetPairs& out) {
  std::uint64_t first[kMaxGroups / 8]{};
  const std::size_t row = kIsKey ? tiles.num_groups : tiles.num_groups / 4;
  for (std::size_t group = 0; group < tiles.num_groups; group += row)
    first[group / 8] |= std::uint64_t{0xff} << group % 8 * 8;
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile) {
    const std::byte* words = tiles.codes + ((tile + 1) * tiles.bits - 1) * tiles.num_groups * 8;
    for (std::size_t group = 0; group < tiles.num_groups; group += 8) {
      const std::size_t left = tiles.num_groups - group;
      const std::uint64_t there = left >= 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << left * 8) - 1;
      find_subsets<kIsKey>(words + group * 8, there, first[group / 8], out.words[tile] + group);
    }
  }
}

// ---- integers

// The first kEntries of a table, as often as there is room.
constexpr ByteTable repeated(std::size_t num_entries) {
  ByteTable from{};
  for (std::size_t i = 0; i < 64; ++i) from[i] = static_cast<std::uint8_t>(i % num_entries);
  return from;
}
template <std::size_t kEntries>
alignas(64) constexpr ByteTable kRepeated = repeated(kEntries);

inline __m512i load_plane_4(const std::byte* group) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group));
  return _mm512_srlv_epi64(_mm512_broadcast_i64x4(x), _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0));
}

inline __m512i load_pairs(const void* group) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(group)));
}

inline __m512i load_plane_2(const std::byte* group) {
  return _mm512_srlv_epi64(load_pairs(group), _mm512_set_epi64(6, 6, 4, 4, 2, 2, 0, 0));
}

inline std::uint64_t load_word(const std::byte* group) {
  std::uint64_t word;
  std::memcpy(&word, group, sizeof word);
  return word;
}

// The integers of a page, from its codes. Those of keys are 128 more, to be unsigned.
template <unsigned kBits, bool kIsKey>
class Integers {
 public:
  // All of it must outlive the object. `pairs` is room for subsets; `room`, if not null, is for the integers that have
  // been loaded: [tile][group][64], 64-byte aligned.
  Integers(const CodeTiles& tiles, SubsetPairs& pairs, std::int8_t* room)
      : codes_(tiles.codes), num_groups_(tiles.num_groups), ahead_(tiles.ahead), pairs_(pairs), room_(room) {
    if constexpr (kBits <= 5) find_subsets<kIsKey>(tiles, pairs);
    constexpr std::size_t kEntries = kBits <= 5 ? 2u << kBits : 64;
    const __m512i book = _mm512_loadu_si512(codebook(kBits).values);
    book_ = add_bias(_mm512_permutexvar_epi8(load_table(kRepeated<kEntries>), book));
  }

  // The 64 of a group.
  __m512i load(std::size_t tile, std::size_t group) const {
    const std::byte* planes = codes_ + tile * num_groups_ * kBits * 8;
    __builtin_prefetch(planes + group * kBits * 8 + ahead_, 0, 3);
    const __m512i integers = expand(planes, tile, group);
    if (room_ != nullptr) _mm512_store_si512(room_ + (tile * num_groups_ + group) * kGroupCodes, integers);
    return integers;
  }

 private:
  static __m512i add_bias(__m512i integers) {
    return kIsKey ? _mm512_xor_si512(integers, _mm512_set1_epi8(static_cast<char>(128))) : integers;
  }

  __m512i expand(const std::byte* planes, std::size_t tile, std::size_t group) const {
    if constexpr (kBits == 8) return add_bias(_mm512_loadu_si512(planes + group * kGroupCodes));
    if constexpr (kBits <= 5)
      return _mm512_permutexvar_epi8(trellis_index(planes, pairs_.words[tile][group], group), book_);
    const std::byte* plane_2 = planes + num_groups_ * 32;
    const __m512i turn = _mm512_set_epi64(2, 2, 0, 0, 62, 62, 60, 60);  // right: bits 2k and up to bits 4 and 5
    const __m512i high = _mm512_rorv_epi64(load_pairs(plane_2 + group * 16), turn);
    const __m512i low = _mm512_permutexvar_epi8(select(15, load_plane_4(planes + group * 32), high), book_);
    if constexpr (kBits == 6) return low;
    const std::byte* plane_1 = plane_2 + num_groups_ * 16;  // the integers of its codes are 128 more
    return _mm512_mask_add_epi8(low, load_word(plane_1 + group * 8), low, _mm512_set1_epi8(static_cast<char>(128)));
  }

  // The rank, then the pair.
  __m512i trellis_index(const std::byte* planes, const std::uint64_t* pair, std::size_t group) const {
    constexpr unsigned kRank = kBits - 1;
    const __m512i subsets = _mm512_multishift_epi64_epi8(load_table(Shifts<kRank>::kPairs), load_pairs(pair));
    if constexpr (kRank == 0) return subsets;
    __m512i rank;
    if constexpr (kRank == 4) rank = load_plane_4(planes + group * 32);
    if constexpr (kRank == 2 || kRank == 3) rank = load_plane_2(planes + group * 16);
    if constexpr (kRank == 1 || kRank == 3) {
      const std::uint64_t word = load_word(planes + num_groups_ * (kRank / 2 * 16) + group * 8);
      const __m512i bit = _mm512_multishift_epi64_epi8(load_table(Shifts<kRank - 1>::kBits),
                                                       _mm512_set1_epi64(static_cast<long long>(word)));
      rank = kRank == 1 ? bit : select(3, rank, bit);
    }
    return select((1 << kRank) - 1, rank, subsets);
  }

  const std::byte* codes_;
  std::size_t num_groups_, ahead_;
  const SubsetPairs& pairs_;
  std::int8_t* room_;
  __m512i book_;
};

// Integers that are expanded already, [tile][group][64], 64-byte aligned.
class ReadyIntegers {
 public:
  using Integer = std::int8_t;

  ReadyIntegers(const std::int8_t* integers, std::size_t num_groups) : integers_(integers), num_groups_(num_groups) {}
  __m512i load(std::size_t tile, std::size_t group) const {
    return _mm512_load_si512(integers_ + (tile * num_groups_ + group) * kGroupCodes);
  }

 private:
  const std::int8_t* integers_;
  std::size_t num_groups_;
};

}  // namespace
}  // namespace polykv::core
POLYKV_TARGET_END

#endif
