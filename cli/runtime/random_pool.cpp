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
  const std::size_t num_heads = std::size_t{shape.num_layers} * shape.num_kv_heads;
  const std::uint32_t num_sinks = std::min(format::kNumSinks, shape.num_tokens);
  sinks_ = repeat(halves, num_heads * 2 * num_sinks * shape.head_dim * 2);
  means_ = repeat(halves, num_heads * shape.head_dim * 2);
  const bool is_float16 = codec.key == format::kCodecF16;
  pages_ = repeat(is_float16 ? halves : codes, layout_.place(shape).value());  // of a uniform layout: cannot fail
  if (!is_float16) add_scales(codec, halves);
  pool_.emplace(core::KvPool::Parts{shape_, 0, num_sinks, &layout_, pages_, sinks_, means_});
}

// Scales stand at the beginning of each page; the last page of a run is short.
void RandomPool::add_scales(core::CodecPair codec, const std::vector<std::uint16_t>& halves) {
  const std::size_t num_positions = shape_.num_tokens - std::min(format::kNumSinks, shape_.num_tokens);
  for (std::size_t at = 0; at < pages_.size();) {
    for (std::size_t slot = 0; slot < num_positions; slot += format::kPageTokens) {
      const std::size_t page_positions = std::min<std::size_t>(format::kPageTokens, num_positions - slot);
      const format::PageLayout page = format::page_layout(codec.key, codec.value, shape_.head_dim, page_positions);
      std::memcpy(pages_.data() + at, halves.data(), page.keys_offset);
      at += page.bytes;
    }
  }
}

}  // namespace polykv::runtime
