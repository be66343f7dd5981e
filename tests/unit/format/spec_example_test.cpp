// The worked example of spec/pool-format.md, section 18, and its numbers. SHA-256 and XXH3 of them were checked from
// the page with other tools than ours.
#include <cstring>

#include "format/bytes.h"
#include "format/identity.h"
#include "format/page_layout.h"
#include "format/reader.h"
#include "tests/support/catch.h"
#include "tests/unit/format/sample_pool.h"

using namespace polykv;
using namespace polykv::tests;
using format::SectionKind;
using format::to_hex;

TEST_CASE("the worked example of the specification") {
  SamplePool sample;
  format::PoolSpec& spec = sample.spec;
  spec.shape = {1, 1, 8, 5};
  spec.identity.set("model.name", "toy");
  spec.identity.set("codec.name", "k5v4");
  spec.tokens = {{7, 8, 9, 10, 11}, {0, 1, 2, 3, 4}, {1, 2, 3, 4, 5}, "ab cd!"};
  spec.layout = format::Layout::uniform(spec.shape, 0, 5, 4);
  spec.has_means = true;
  sample.exponents = {{{0, 0}}};
  sample.pages = {std::vector<std::byte>(format::run_bytes(5, 4, 8, 1))};
  sample.sinks = {std::vector<std::byte>(2 * 4 * 8 * 2)};
  sample.means = {std::vector<std::byte>(format::kMeanVectors * 8 * 2)};
  const std::vector<std::byte> pool = pool_bytes(sample);
  const auto reader = format::PoolReader::open(pool);
  REQUIRE(reader.has_value());
  const format::Superblock& superblock = reader->superblock();
  CHECK(to_hex(superblock.file_id) == "5b8924fb30ace65163a021652e6e2aac");
  CHECK(to_hex(superblock.model_fingerprint) == "62cc7c1f7007f46f649ca31673f7f2126eb86debcc1f90a6cfa196c28d74a7b8");
  CHECK(to_hex(superblock.tokenizer_fingerprint) == "28e8f99163ceea20869f47e1ce5b6b052ffbae3e1380395a02ee73e339487b3b");
  CHECK(to_hex(superblock.document_fingerprint) == "8e3dfbb57272494b14a5e391a74fa3d718b77b108a4644cf90cfa44758aaf8cb");
  CHECK(to_hex(superblock.tokens_fingerprint) == "f3fea765a2f8654ac424ad001947dca5b900689f1904d75f06f6262ab8b1745a");
  CHECK(to_hex(superblock.codec_fingerprint) == "cd7ea556c66801bc8089b1b823bffd494c8c57beac416d17c49c41056548454b");
  CHECK(format::chunk_seed(superblock.file_id, 0) == 0xbd64632a8acb228f);
  CHECK(format::chunk_seed(superblock.file_id, 1) == 0x43b5e4702525f2de);
  CHECK(format::section_seed(superblock.file_id, SectionKind::kChunkTable) == 0x5235ac2368df483f);
  CHECK(format::section_seed(superblock.file_id, SectionKind::kDigests) == 0x2d4f910d5801e74c);
  const format::SectionEntry* table = format::find_section(reader->sections(), SectionKind::kChunkTable);
  CHECK(format::load_le64(pool.data() + table->offset) == 0xb7ea18a49ad8d732);
  CHECK(format::load_le64(pool.data() + table->offset + 8) == 0x90662a03196b726d);
  // Another release of zstd may compress the text to another length, which moves what comes after the source.
  const format::SectionEntry* source = format::find_section(reader->sections(), SectionKind::kSource);
  CHECK(source->offset == 0x1080);
  const auto text_checksum = format::load_le64(pool.data() + source->offset + 8);
  CHECK(text_checksum == 0xe0439ffacdc24334);
  CHECK(pool.size() == 9216);
}
