// What broken_container.cpp and broken_contents.cpp share: the good pools, and words for breaking them.
#pragma once

#include <string_view>

#include "tests/support/reseal.h"
#include "tests/tools/broken_pools.h"

namespace polykv::tests {

using Bytes = std::vector<std::byte>;
using format::ErrorCode;
using format::SectionKind;

// After a change to superblock or trailer: their checksums and the trailer's fields, nothing else.
inline constexpr Seal kSealEnds{.fingerprints = false, .digests = false, .checksums = false, .trailer = true};

class BrokenMaker {
 public:
  BrokenMaker();

  // 4 tokens, all of them sinks: identity, tokens, source, layout, sinks, chunk table, digests.
  const Bytes& bare() const { return bare_; }
  // 21 tokens; one run of 17 positions in k5v4: pages and means besides.
  const Bytes& paged() const { return paged_; }

  void add(std::string name, ErrorCode code, std::uint64_t offset, Bytes bytes);
  // `change` gets a copy of `base`; then it is sealed again.
  template <typename Change>
  void change(const std::string& name, ErrorCode code, std::uint64_t offset, const Bytes& base, const Seal& seal,
              Change change) {
    Bytes pool = base;
    change(pool);
    reseal(pool, seal);
    add(name, code, offset, std::move(pool));
  }
  // A field of the superblock; checksum and trailer are right.
  void superblock32(const std::string& name, ErrorCode code, std::uint64_t offset, std::uint32_t value);
  void superblock8(const std::string& name, ErrorCode code, std::uint64_t offset, std::uint8_t value);
  // One byte of a section, relative to its start; everything is sealed again.
  void byte(const std::string& name, ErrorCode code, const Bytes& base, SectionKind kind, std::uint64_t offset,
            std::uint8_t value);
  // `base` with other bytes in a section, and everything that follows from that. The offset is relative to the section.
  void section(const std::string& name, ErrorCode code, const Bytes& base, SectionKind kind, std::uint64_t offset,
               Bytes bytes);

  std::vector<BrokenPool> take() { return std::move(pools_); }

 private:
  Bytes bare_, paged_;
  std::vector<BrokenPool> pools_;
};

format::SectionEntry entry_of(const Bytes& pool, SectionKind kind);
std::uint64_t index_of(const Bytes& pool, SectionKind kind);  // in the section table
Bytes section_bytes(const Bytes& pool, SectionKind kind);

Bytes bytes_of(std::string_view text);
void append(Bytes& out, const Bytes& more);
Bytes le32(std::initializer_list<std::uint32_t> values);
Bytes le64(std::uint64_t value);

void break_container(BrokenMaker& maker);  // sections 1 to 7, 14
void break_contents(BrokenMaker& maker);   // sections 8 to 13, codecs

}  // namespace polykv::tests
