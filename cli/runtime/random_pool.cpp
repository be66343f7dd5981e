#include "cli/runtime/random_pool.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "core/float16.h"
#include "format/page_layout.h"

namespace polykv::runtime {
namespace {

// Random numbers are made once and repeated: a prime number of them, so that no two neighbouring heads are alike.
constexpr std::size_t kPatternValues = 65537;

// Scales that are bytes are from 96 to 127: from 0.5 to 1, with this exponent.
constexpr std::int8_t scale_exponent(format::CodecId codec) { return format::is_trellis_codec(codec) ? -4 : 0; }

std::vector<std::byte> repeat(const std::vector<std::uint16_t>& pattern, std::size_t num_bytes) {
  std::vector<std::byte> out(num_bytes);
  for (std::size_t at = 0; at < num_bytes; at += pattern.size() * 2)
    std::memcpy(out.data() + at, pattern.data(), std::min(pattern.size() * 2, num_bytes - at));
  return out;
}

}  // namespace

RandomPool::RandomPool(const format::KvShape& shape, core::CodecPair codec)
    : shape_(shape), layout_(format::Layout::uniform(shape, 0, codec.key, codec.value)) {
  std::mt19937 random(1);
  std::vector<std::uint16_t> halves(kPatternValues), codes(kPatternValues);
  for (std::uint16_t& half : halves) half = core::float_to_float16(0.5f + static_cast<float>(random() % 1024) / 1024);
  for (std::uint16_t& code : codes) code = static_cast<std::uint16_t>(random());
  for (std::vector<format::Run>& runs : layout_.runs)
    for (format::Run& run : runs) run.exponents = {scale_exponent(codec.key), scale_exponent(codec.value)};
  const std::size_t num_heads = std::size_t{shape.num_layers} * shape.num_kv_heads;
  const std::uint32_t num_sinks = std::min(format::kNumSinks, shape.num_tokens);
  sinks_ = repeat(halves, num_heads * 2 * num_sinks * shape.head_dim * 2);
  means_ = repeat(halves, num_heads * format::kMeanVectors * shape.head_dim * 2);
  const bool is_float16 = codec.key == format::kCodecF16;
  pages_ = repeat(is_float16 ? halves : codes, layout_.place(shape).value());  // of a uniform layout: cannot fail
  if (!is_float16) add_scales(codec, halves);
  pool_.emplace(core::KvPool::Parts{shape_, 0, num_sinks, &layout_, pages_, sinks_, means_});
}

// Scales stand at the beginning of each page, of keys, then of values; the last page of a run is short.
void RandomPool::add_scales(core::CodecPair codec, const std::vector<std::uint16_t>& halves) {
  std::vector<std::uint16_t> bytes(halves.size());
  std::transform(halves.begin(), halves.end(), bytes.begin(),
                 [](std::uint16_t half) { return static_cast<std::uint16_t>(0x6060u | (half & 0x1f1fu)); });
  const auto scales_of = [&](format::CodecId id) { return (format::is_trellis_codec(id) ? bytes : halves).data(); };
  const std::size_t num_positions = shape_.num_tokens - std::min(format::kNumSinks, shape_.num_tokens);
  for (std::size_t at = 0; at < pages_.size();) {
    for (std::size_t slot = 0; slot < num_positions; slot += format::kPageTokens) {
      const std::size_t page_positions = std::min<std::size_t>(format::kPageTokens, num_positions - slot);
      const format::PageLayout page = format::page_layout(codec.key, codec.value, shape_.head_dim, page_positions);
      std::memcpy(pages_.data() + at, scales_of(codec.key), page.value_scales_offset);
      std::memcpy(pages_.data() + at + page.value_scales_offset, scales_of(codec.value),
                  page.keys_offset - page.value_scales_offset);
      at += page.bytes;
    }
  }
}

}  // namespace polykv::runtime
