// Codes become the codebook's integers by byte shuffles of 16 entries each.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "core/codebook.h"
#include "core/kernels/expand.h"
#include "core/kernels/target.h"

POLYKV_TARGET_BEGIN("avx2")
namespace polykv::core {
namespace {

constexpr std::size_t kGroup = 64;  // codes

__m128i load_16(const void* bytes) { return _mm_loadu_si128(static_cast<const __m128i*>(bytes)); }
__m256i load_32(const void* bytes) { return _mm256_loadu_si256(static_cast<const __m256i*>(bytes)); }

// 32 bits -> 32 bytes, 0xff where the bit is set.
__m256i spread_bits(const void* bytes) {
  std::int32_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
  const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte_of);
  return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of), bit_of);
}

__m256i add_bit(__m256i codes, __m256i mask, int bit) {
  return _mm256_or_si256(codes, _mm256_and_si256(mask, _mm256_set1_epi8(static_cast<char>(1 << bit))));
}

// Bits of codes e = 32 * kHalf to 32 * kHalf + 31 of one group, kBits of them, from its planes of 4, 2 and 1 bits.
template <unsigned kBits, int kHalf>
__m256i load_codes(const std::byte* plane_4, const std::byte* plane_2, const std::byte* plane_1) {
  __m256i codes = _mm256_setzero_si256();
  if constexpr ((kBits & 4u) != 0)
    codes = _mm256_and_si256(_mm256_srli_epi16(load_32(plane_4), 4 * kHalf), _mm256_set1_epi8(15));
  if constexpr ((kBits & 2u) != 0) {
    const __m128i x = load_16(plane_2);
    const __m256i pairs =
        _mm256_set_m128i(_mm_srli_epi16(x, 4 * kHalf + 2), kHalf == 0 ? x : _mm_srli_epi16(x, 4 * kHalf));
    const __m256i high = _mm256_and_si256(pairs, _mm256_set1_epi8(3));
    codes = _mm256_or_si256(codes, kBits & 4u ? _mm256_slli_epi16(high, 4) : high);
  }
  if constexpr ((kBits & 1u) != 0) codes = add_bit(codes, spread_bits(plane_1 + 4 * kHalf), kBits - 1);
  return codes;
}

// The planes of a tile of `kBits` bits a code, trellis bits not counted.
template <unsigned kBits>
struct Planes {
  const std::byte *plane_4, *plane_2, *plane_1;

  Planes(const std::byte* tile, std::size_t num_groups)
      : plane_4(tile),
        plane_2(plane_4 + (kBits & 4u ? num_groups * 32 : 0)),
        plane_1(plane_2 + (kBits & 2u ? num_groups * 16 : 0)) {}

  template <int kHalf>
  __m256i load(std::size_t group) const {
    return load_codes<kBits, kHalf>(plane_4 + group * 32, plane_2 + group * 16, plane_1 + group * 8);
  }
};

template <unsigned kBits>
void load_books(__m256i (&books)[4]) {
  for (int i = 0; i < 4; ++i) books[i] = _mm256_broadcastsi128_si256(load_16(codebook(kBits).values + 16 * i));
}

// ---- 6 and 7 bits

// The integers of 32 codes. 6 bits: a byte shuffle for each 16 entries, where codes outside them get their highest bit
// set (saturating add), for which the shuffle gives 0.
template <unsigned kBits>
__m256i look_up(__m256i codes, const __m256i (&books)[4]) {
  if constexpr (kBits == 7)  // 2 * code - 127
    return _mm256_sub_epi8(_mm256_add_epi8(codes, codes), _mm256_set1_epi8(127));
  __m256i values = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) {
    const __m256i entry = _mm256_sub_epi8(codes, _mm256_set1_epi8(static_cast<char>(16 * i)));
    const __m256i index = _mm256_adds_epu8(entry, _mm256_set1_epi8(0x70));
    values = _mm256_or_si256(values, _mm256_shuffle_epi8(books[i], index));
  }
  return values;
}

template <unsigned kBits>
void expand_tiles(const CodeTiles& tiles, std::int8_t* out) {
  __m256i books[4];
  load_books<kBits>(books);
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile) {
    const Planes<kBits> planes(tiles.codes + tile * tiles.num_groups * kBits * 8, tiles.num_groups);
    for (std::size_t group = 0; group < tiles.num_groups; ++group, out += kGroup) {
      auto* to = reinterpret_cast<__m256i*>(out);
      _mm256_store_si256(to, look_up<kBits>(planes.template load<0>(group), books));
      _mm256_store_si256(to + 1, look_up<kBits>(planes.template load<1>(group), books));
    }
  }
}

// ---- trellis codes

// The subsets (2 y1 + y0) of four groups' codes, a bit a code.
struct Subsets {
  alignas(32) std::uint64_t y1[4], y0[4];
};

__m256i select(__m256i mask, __m256i one, __m256i other) {
  return _mm256_or_si256(_mm256_and_si256(mask, one), _mm256_andnot_si256(mask, other));
}

// From `bits`, the trellis bits of four groups, and `before`, those of the groups with the four (keys) or sixteen
// (values) dimensions before theirs. In a group of keys four dimensions of a position are neighbours, in one of values
// four positions of a dimension.
template <bool kIsKey>
void find_subsets(__m256i bits, __m256i before, Subsets& out) {
  __m256i one, two, three;  // trellis bits of so many dimensions ago
  if constexpr (kIsKey) {
    one = select(_mm256_set1_epi8(static_cast<char>(0xee)), _mm256_slli_epi64(bits, 1), _mm256_srli_epi64(before, 3));
    two = select(_mm256_set1_epi8(static_cast<char>(0xcc)), _mm256_slli_epi64(bits, 2), _mm256_srli_epi64(before, 2));
    three = select(_mm256_set1_epi8(static_cast<char>(0x88)), _mm256_slli_epi64(bits, 3), _mm256_srli_epi64(before, 1));
  } else {
    one = _mm256_or_si256(_mm256_slli_epi64(bits, 4), _mm256_srli_epi64(before, 60));
    two = _mm256_or_si256(_mm256_slli_epi64(bits, 8), _mm256_srli_epi64(before, 56));
    three = _mm256_or_si256(_mm256_slli_epi64(bits, 12), _mm256_srli_epi64(before, 52));
  }
  _mm256_store_si256(reinterpret_cast<__m256i*>(out.y1), _mm256_xor_si256(bits, _mm256_xor_si256(one, three)));
  _mm256_store_si256(reinterpret_cast<__m256i*>(out.y0), two);
}

// The integers of 32 codes from their ranks. The index of an integer is its rank, then y0 and y1: up to four bits of it
// are for the shuffle, the others choose among its tables.
template <unsigned kBits>
__m256i look_up_trellis(__m256i ranks, __m256i y0, __m256i y1, const __m256i (&books)[4]) {
  if constexpr (kBits == 5) {
    const __m256i low =
        _mm256_blendv_epi8(_mm256_shuffle_epi8(books[0], ranks), _mm256_shuffle_epi8(books[1], ranks), y0);
    const __m256i high =
        _mm256_blendv_epi8(_mm256_shuffle_epi8(books[2], ranks), _mm256_shuffle_epi8(books[3], ranks), y0);
    return _mm256_blendv_epi8(low, high, y1);
  }
  const __m256i index = add_bit(ranks, y0, kBits - 1);
  if constexpr (kBits == 4)
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(books[0], index), _mm256_shuffle_epi8(books[1], index), y1);
  return _mm256_shuffle_epi8(books[0], add_bit(index, y1, kBits));
}

// Groups [begin, end) of a tile, four at most.
//   there, has_before: all ones for each group, and for each that is not the first of its positions
template <unsigned kBits, bool kIsKey>
void expand_groups(const Planes<kBits - 1>& planes, const std::byte* plane_trellis, std::size_t begin, std::size_t end,
                   __m256i there, __m256i has_before, const __m256i (&books)[4], std::int8_t* out) {
  const auto* bits = reinterpret_cast<const long long*>(plane_trellis) + begin;
  Subsets subsets;
  find_subsets<kIsKey>(_mm256_maskload_epi64(bits, there), _mm256_maskload_epi64(bits - 1, has_before), subsets);
  for (std::size_t group = begin; group < end; ++group) {
    auto* to = reinterpret_cast<__m256i*>(out + group * kGroup);
    const std::uint64_t& y1 = subsets.y1[group - begin];
    const std::uint64_t& y0 = subsets.y0[group - begin];
    const auto* y1_bytes = reinterpret_cast<const std::byte*>(&y1);
    const auto* y0_bytes = reinterpret_cast<const std::byte*>(&y0);
    _mm256_store_si256(to, look_up_trellis<kBits>(planes.template load<0>(group), spread_bits(y0_bytes),
                                                  spread_bits(y1_bytes), books));
    _mm256_store_si256(to + 1, look_up_trellis<kBits>(planes.template load<1>(group), spread_bits(y0_bytes + 4),
                                                      spread_bits(y1_bytes + 4), books));
  }
}

template <unsigned kBits, bool kIsKey>
void expand_trellis_tiles(const CodeTiles& tiles, std::int8_t* out) {
  __m256i books[4];
  load_books<kBits>(books);
  const std::size_t num_groups = tiles.num_groups, row = kIsKey ? num_groups : num_groups / 4;
  alignas(32) std::int64_t there[128]{}, has_before[128]{};  // all ones for true
  for (std::size_t group = 0; group < num_groups; ++group) there[group] = has_before[group] = -1;
  for (std::size_t group = 0; group < num_groups; group += row) has_before[group] = 0;
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile, out += num_groups * kGroup) {
    const std::byte* codes = tiles.codes + tile * num_groups * kBits * 8;
    const Planes<kBits - 1> planes(codes, num_groups);
    for (std::size_t begin = 0; begin < num_groups; begin += 4)
      expand_groups<kBits, kIsKey>(planes, codes + num_groups * (kBits - 1) * 8, begin,
                                   begin + 4 < num_groups ? begin + 4 : num_groups, load_32(there + begin),
                                   load_32(has_before + begin), books, out);
  }
}

template <unsigned kBits>
void expand_trellis(const CodeTiles& tiles, std::int8_t* out) {
  return tiles.is_key ? expand_trellis_tiles<kBits, true>(tiles, out) : expand_trellis_tiles<kBits, false>(tiles, out);
}

}  // namespace

const std::int8_t* expand_avx2(const CodeTiles& tiles, std::int8_t* room) {
  switch (tiles.bits) {
    case 1:
      expand_trellis<1>(tiles, room);
      break;
    case 2:
      expand_trellis<2>(tiles, room);
      break;
    case 3:
      expand_trellis<3>(tiles, room);
      break;
    case 4:
      expand_trellis<4>(tiles, room);
      break;
    case 5:
      expand_trellis<5>(tiles, room);
      break;
    case 6:
      expand_tiles<6>(tiles, room);
      break;
    case 7:
      expand_tiles<7>(tiles, room);
      break;
    default:
      return reinterpret_cast<const std::int8_t*>(tiles.codes);
  }
  return room;
}

}  // namespace polykv::core
POLYKV_TARGET_END

#endif
