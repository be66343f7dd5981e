// Codes become the codebook's integers by byte permutes: vpermb reads the low six bits of an index, so a small codebook
// repeated over the register needs no masking.
#if defined(__x86_64__)

#include <immintrin.h>

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

constexpr std::size_t kGroup = 64;  // codes

std::uint64_t load_bits(const std::byte* bytes) {
  std::uint64_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  return bits;
}

alignas(64) constexpr std::uint8_t kBytes0To63[64] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                                      16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
                                                      32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
                                                      48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};

// The codebook's integers from `first` on over a register; of trellis codes as often as there is room.
template <unsigned kBits>
__m512i load_book(int first, __m512i flip) {
  constexpr int kEntries = kBits <= 5 ? 2 << kBits : 64;
  const __m512i index = _mm512_and_si512(_mm512_load_si512(kBytes0To63), _mm512_set1_epi8(kEntries - 1));
  const __m512i book = _mm512_permutexvar_epi8(index, _mm512_loadu_si512(codebook(kBits).values + first));
  return _mm512_xor_si512(book, flip);
}

__m512i load_plane_4(const std::byte* group) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group));
  return _mm512_srlv_epi64(_mm512_broadcast_i64x4(x), _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0));
}

__m512i load_plane_2(const std::byte* group) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(group)));
}

// Codes of 6 and 7 bits, a tile of num_groups groups. `high` is the codebook of codes with a 1 in the last plane.
template <unsigned kBits>
void expand_tile(const std::byte* tile, std::size_t num_groups, __m512i low, __m512i high, std::int8_t* out) {
  const __m512i turn_2 = _mm512_set_epi64(2, 2, 0, 0, 62, 62, 60, 60);  // right: bits 2k and up to bits 4 and 5
  const std::byte* plane_2 = tile + num_groups * 32;
  const std::byte* plane_1 = plane_2 + num_groups * 16;
  for (std::size_t group = 0; group < num_groups; ++group) {
    const __m512i high_bits = _mm512_rorv_epi64(load_plane_2(plane_2 + group * 16), turn_2);
    // mask ? low bits : high bits
    const __m512i index =
        _mm512_ternarylogic_epi64(load_plane_4(tile + group * 32), high_bits, _mm512_set1_epi8(15), 0xe4);
    __m512i values = _mm512_permutexvar_epi8(index, low);
    if constexpr (kBits == 7)
      values = _mm512_mask_permutexvar_epi8(values, load_bits(plane_1 + group * 8), index, high);
    _mm512_store_si512(out + group * kGroup, values);
  }
}

// The subsets (2 y1 + y0) of eight groups' codes, a bit a code.
struct Subsets {
  alignas(64) std::uint64_t y1[8], y0[8];
};

// From `bits`, the trellis bits of eight groups, and `before`, those of the groups with the four (keys) or sixteen
// (values) dimensions before theirs. In a group of keys four dimensions of a position are neighbours, in one of values
// four positions of a dimension.
template <bool kIsKey>
void find_subsets(__m512i bits, __m512i before, Subsets& out) {
  __m512i one, two, three;  // trellis bits of so many dimensions ago
  if constexpr (kIsKey) {   // mask ? those of the same group : those of the one before
    one = _mm512_ternarylogic_epi64(_mm512_slli_epi64(bits, 1), _mm512_srli_epi64(before, 3),
                                    _mm512_set1_epi8(static_cast<char>(0xee)), 0xe4);
    two = _mm512_ternarylogic_epi64(_mm512_slli_epi64(bits, 2), _mm512_srli_epi64(before, 2),
                                    _mm512_set1_epi8(static_cast<char>(0xcc)), 0xe4);
    three = _mm512_ternarylogic_epi64(_mm512_slli_epi64(bits, 3), _mm512_srli_epi64(before, 1),
                                      _mm512_set1_epi8(static_cast<char>(0x88)), 0xe4);
  } else {
    one = _mm512_or_si512(_mm512_slli_epi64(bits, 4), _mm512_srli_epi64(before, 60));
    two = _mm512_or_si512(_mm512_slli_epi64(bits, 8), _mm512_srli_epi64(before, 56));
    three = _mm512_or_si512(_mm512_slli_epi64(bits, 12), _mm512_srli_epi64(before, 52));
  }
  _mm512_store_si512(out.y1, _mm512_ternarylogic_epi64(bits, one, three, 0x96));  // exclusive or
  _mm512_store_si512(out.y0, two);
}

// Bit e of `bits` to bit kPlace of byte e; the other bits of the bytes are others of `bits`.
template <int kPlace>
__m512i spread_bits(std::uint64_t bits) {
  const __m512i from = _mm512_sub_epi8(_mm512_load_si512(kBytes0To63), _mm512_set1_epi8(kPlace));
  return _mm512_multishift_epi64_epi8(from, _mm512_set1_epi64(static_cast<long long>(bits)));
}

// In each byte the lowest kBits bits of `low`, and the bits above of `high`.
template <int kBits>
__m512i join(__m512i low, __m512i high) {
  return _mm512_ternarylogic_epi64(_mm512_set1_epi8((1 << kBits) - 1), low, high, 0xca);
}

// Trellis codes: the index of an integer is its rank in the subset, then y0 and y1. Bits above these are of no meaning.
//   first_groups [num_groups / 8, rounded up]: bit i of byte b set where group 8 b + i is the first of its positions
template <unsigned kBits, bool kIsKey>
void expand_trellis_tile(const std::byte* tile, std::size_t num_groups, const std::uint8_t* first_groups, __m512i book,
                         std::int8_t* out) {
  constexpr int kRank = kBits - 1;
  const std::byte* plane_1 = tile + num_groups * (kRank / 2 * 16);
  const std::byte* plane_trellis = tile + num_groups * (kRank * 8);
  for (std::size_t begin = 0; begin < num_groups; begin += 8) {
    const std::size_t end = begin + 8 < num_groups ? begin + 8 : num_groups;
    const auto there = static_cast<__mmask8>(0xffu >> (begin + 8 - end));
    const auto has_before = static_cast<__mmask8>(there & ~first_groups[begin / 8]);
    Subsets subsets;
    find_subsets<kIsKey>(_mm512_maskz_loadu_epi64(there, plane_trellis + begin * 8),
                         _mm512_maskz_loadu_epi64(has_before, plane_trellis + begin * 8 - 8), subsets);
    for (std::size_t group = begin; group < end; ++group) {
      __m512i index = _mm512_setzero_si512();
      if constexpr (kRank == 4) index = load_plane_4(tile + group * 32);
      if constexpr ((kRank & 2) != 0)
        index = _mm512_srlv_epi64(load_plane_2(tile + group * 16), _mm512_set_epi64(6, 6, 4, 4, 2, 2, 0, 0));
      if constexpr ((kRank & 1) != 0)
        index = join<kRank - 1>(index, spread_bits<kRank - 1>(load_bits(plane_1 + group * 8)));
      index = join<kRank>(index, spread_bits<kRank>(subsets.y0[group - begin]));
      index = join<kRank + 1>(index, spread_bits<kRank + 1>(subsets.y1[group - begin]));
      _mm512_store_si512(out + group * kGroup, _mm512_permutexvar_epi8(index, book));
    }
  }
}

template <unsigned kBits>
void expand_tiles(const CodeTiles& tiles, __m512i flip, std::int8_t* out) {
  const __m512i low = load_book<kBits>(0, flip), high = load_book<kBits>(64, flip);
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile)
    expand_tile<kBits>(tiles.codes + tile * tiles.num_groups * kBits * 8, tiles.num_groups, low, high,
                       out + tile * tiles.num_groups * kGroup);
}

template <unsigned kBits>
void expand_trellis(const CodeTiles& tiles, __m512i flip, std::int8_t* out) {
  const __m512i book = load_book<kBits>(0, flip);
  std::uint8_t first_groups[16]{};
  const std::size_t row = tiles.is_key ? tiles.num_groups : tiles.num_groups / 4;
  for (std::size_t group = 0; group < tiles.num_groups; group += row)
    first_groups[group / 8] = static_cast<std::uint8_t>(first_groups[group / 8] | 1u << group % 8);
  const auto expand_tile_of = tiles.is_key ? expand_trellis_tile<kBits, true> : expand_trellis_tile<kBits, false>;
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile)
    expand_tile_of(tiles.codes + tile * tiles.num_groups * kBits * 8, tiles.num_groups, first_groups, book,
                   out + tile * tiles.num_groups * kGroup);
}

void copy_tiles(const CodeTiles& tiles, __m512i flip, std::int8_t* out) {
  for (std::size_t group = 0; group < tiles.num_tiles * tiles.num_groups; ++group)
    _mm512_store_si512(out + group * kGroup, _mm512_xor_si512(_mm512_loadu_si512(tiles.codes + group * kGroup), flip));
}

}  // namespace

void expand_avx512(const CodeTiles& tiles, std::uint8_t flip, std::int8_t* out) {
  const __m512i flips = _mm512_set1_epi8(static_cast<char>(flip));
  switch (tiles.bits) {
    case 1:
      return expand_trellis<1>(tiles, flips, out);
    case 2:
      return expand_trellis<2>(tiles, flips, out);
    case 3:
      return expand_trellis<3>(tiles, flips, out);
    case 4:
      return expand_trellis<4>(tiles, flips, out);
    case 5:
      return expand_trellis<5>(tiles, flips, out);
    case 6:
      return expand_tiles<6>(tiles, flips, out);
    case 7:
      return expand_tiles<7>(tiles, flips, out);
    default:
      return copy_tiles(tiles, flips, out);
  }
}

}  // namespace polykv::core
POLYKV_TARGET_END

#endif
