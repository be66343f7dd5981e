#include "core/tile_codes.h"

#include <cstring>
#include <initializer_list>

namespace polykv::core {
namespace {

// One plane of one group: the `kBits` bits of each code from bit `shift` up. Code e of a 4-bit plane lies in byte e %
// 32, of a 2-bit plane in byte e % 16, so that unpacking is a shift and a mask of whole vectors; of a 1-bit plane in
// byte e / 8, which is an AVX-512 mask as it stands.
template <unsigned kBits>
void pack_plane(const std::uint8_t* codes, unsigned shift, std::uint8_t* plane) {
  constexpr std::size_t kPlaneBytes = kGroupCodes * kBits / 8;
  constexpr unsigned kMask = (1u << kBits) - 1;
  for (std::size_t i = 0; i < kPlaneBytes; ++i) {
    unsigned byte = 0;
    for (unsigned j = 0; j < 8 / kBits; ++j) byte |= ((codes[i + j * kPlaneBytes] >> shift) & kMask) << (j * kBits);
    plane[i] = static_cast<std::uint8_t>(byte);
  }
}

// Eight codes at a time: the product has bit `shift` of code j at bit 56 + j, and nothing carries into these.
template <>
void pack_plane<1>(const std::uint8_t* codes, unsigned shift, std::uint8_t* plane) {
  for (std::size_t i = 0; i < kGroupCodes / 8; ++i) {
    std::uint64_t bits = 0;
    for (unsigned j = 0; j < 8; ++j) bits |= std::uint64_t{codes[i * 8 + j]} << (8 * j);
    bits = bits >> shift & 0x0101010101010101u;
    plane[i] = static_cast<std::uint8_t>(bits * 0x0102040810204080u >> 56);
  }
}

template <unsigned kBits>
void unpack_plane(const std::uint8_t* plane, unsigned shift, std::uint8_t* codes) {
  constexpr std::size_t kPlaneBytes = kGroupCodes * kBits / 8;
  constexpr unsigned kMask = (1u << kBits) - 1;
  for (std::size_t i = 0; i < kPlaneBytes; ++i) {
    for (unsigned j = 0; j < 8 / kBits; ++j) {
      const std::size_t code = kBits == 1 ? i * 8 + j : i + j * kPlaneBytes;
      codes[code] = static_cast<std::uint8_t>(codes[code] | (((unsigned{plane[i]} >> (j * kBits)) & kMask) << shift));
    }
  }
}

// Calls visit(width, lowest bit) for the planes of a codec, in their order.
template <typename Visit>
void for_planes(format::CodecId codec, const Visit& visit) {
  const unsigned trellis_bits = format::is_trellis_codec(codec) ? 1 : 0;
  const unsigned rest = codec - trellis_bits;
  unsigned shift = 0;
  for (const unsigned width : {8u, 4u, 2u, 1u}) {
    if ((rest & width) == 0) continue;
    visit(width, shift);
    shift += width;
  }
  if (trellis_bits != 0) visit(1u, shift);
}

}  // namespace

void pack_codes(format::CodecId codec, const std::uint8_t* codes, std::size_t num_groups, std::byte* tile) {
  auto* plane = reinterpret_cast<std::uint8_t*>(tile);
  for_planes(codec, [&](unsigned width, unsigned shift) {
    for (std::size_t group = 0; group < num_groups; ++group, plane += kGroupCodes * width / 8) {
      const std::uint8_t* group_codes = codes + group * kGroupCodes;
      if (width == 8) std::memcpy(plane, group_codes, kGroupCodes);
      if (width == 4) pack_plane<4>(group_codes, shift, plane);
      if (width == 2) pack_plane<2>(group_codes, shift, plane);
      if (width == 1) pack_plane<1>(group_codes, shift, plane);
    }
  });
}

void unpack_codes(format::CodecId codec, const std::byte* tile, std::size_t num_groups, std::uint8_t* codes) {
  const auto* plane = reinterpret_cast<const std::uint8_t*>(tile);
  std::memset(codes, 0, num_groups * kGroupCodes);
  for_planes(codec, [&](unsigned width, unsigned shift) {
    for (std::size_t group = 0; group < num_groups; ++group, plane += kGroupCodes * width / 8) {
      std::uint8_t* group_codes = codes + group * kGroupCodes;
      if (width == 8) std::memcpy(group_codes, plane, kGroupCodes);
      if (width == 4) unpack_plane<4>(plane, shift, group_codes);
      if (width == 2) unpack_plane<2>(plane, shift, group_codes);
      if (width == 1) unpack_plane<1>(plane, shift, group_codes);
    }
  });
}

}  // namespace polykv::core
