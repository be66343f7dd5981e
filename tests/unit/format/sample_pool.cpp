#include "tests/unit/format/sample_pool.h"

#include <stdlib.h>

#include <algorithm>
#include <stdexcept>

#include "format/file.h"

namespace polykv::tests {
namespace {

using format::CodecId;
using format::Layout;
using format::PositionSet;
using format::Run;

std::uint32_t below(std::mt19937_64& random, std::uint32_t limit) {
  return static_cast<std::uint32_t>(random() % limit);
}

std::vector<std::byte> random_bytes(std::mt19937_64& random, std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 0xff);
  return bytes;
}

CodecId random_codec(std::mt19937_64& random) {
  const std::uint32_t bits = 1 + below(random, 9);
  return static_cast<CodecId>(bits == 9 ? 16 : bits);
}

// Deals each position of the pool to one of the runs of a head, or to none.
void deal_positions(Layout& layout, std::vector<Run>& runs, std::uint32_t begin, std::uint32_t end,
                    std::mt19937_64& random) {
  const std::uint32_t num_sets = 1 + below(random, 3);
  const std::uint32_t typical = 1 + below(random, 12);
  std::vector<PositionSet> sets(num_sets + 1);
  for (std::uint32_t position = begin; position < end;) {
    const std::uint32_t next = std::min(end, position + 1 + below(random, typical));
    std::vector<format::PositionRange>& ranges = sets[below(random, num_sets + 1)].ranges;
    if (!ranges.empty() && ranges.back().end == position) {
      ranges.back().end = next;
    } else {
      ranges.push_back({position, next});
    }
    position = next;
  }
  for (std::uint32_t i = 0; i < num_sets; ++i) {
    if (sets[i].ranges.empty()) continue;
    runs.push_back(
        {static_cast<std::uint32_t>(layout.position_sets.size()), random_codec(random), random_codec(random)});
    layout.position_sets.push_back(sets[i]);
  }
}

void fill_tokens(format::Tokens& tokens, std::uint32_t num_tokens, std::mt19937_64& random) {
  const std::uint32_t template_tokens = below(random, 2) == 0 ? 0 : below(random, num_tokens + 1);
  std::uint32_t at = 0;
  for (std::uint32_t i = 0; i < num_tokens; ++i) {
    const std::uint32_t bytes = i < template_tokens ? 0 : 1 + below(random, 6);
    tokens.ids.push_back(below(random, 0x80000000u));
    tokens.text_begin.push_back(at);
    tokens.text_end.push_back(at += bytes);
  }
  const std::uint32_t open = below(random, 20);
  for (std::uint32_t i = 0; i < at + open; ++i) tokens.text += static_cast<char>('a' + below(random, 26));
}

bool needs_means(const Layout& layout) {
  return std::any_of(layout.runs.begin(), layout.runs.end(), [](const std::vector<Run>& runs) {
    return std::any_of(runs.begin(), runs.end(),
                       [](const Run& run) { return format::key_codec_removes_mean(run.key_codec); });
  });
}

void fill_identity(format::Identity& identity) {
  identity.set("model.name", "sample");
  identity.set("model.weights", "0123456789abcdef");
  identity.set("rope.theta", "10000");
  identity.set("tokenizer.vocabulary", "fedcba9876543210");
  identity.set("template.name", "none");
  identity.set("codec.name", "k5v4");
  identity.set("writer.program", "test");
}

}  // namespace

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "polykv-test-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make a temporary folder");
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::vector<std::string> TemporaryFolder::names() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path_))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void fill_values(SamplePool& sample, std::mt19937_64& random) {
  format::PoolSpec& spec = sample.spec;
  sample.exponents.clear(), sample.pages.clear(), sample.sinks.clear(), sample.means.clear();
  spec.has_means = needs_means(spec.layout) && !(spec.parent && spec.parent->chain_has_means);
  const std::uint64_t total = spec.layout.place(spec.shape).value();
  const std::size_t head_values = std::size_t{spec.shape.num_kv_heads} * spec.shape.head_dim;
  const std::size_t num_sinks = spec.parent ? 0 : std::min(format::kNumSinks, spec.shape.num_tokens);
  std::vector<std::uint64_t> begins(spec.shape.num_layers + 1, total);
  for (std::size_t head = spec.layout.runs.size(); head-- > 0;) {
    const std::size_t layer = head / spec.shape.num_kv_heads;
    begins[layer] = std::min(begins[layer], begins[layer + 1]);
    if (!spec.layout.runs[head].empty()) begins[layer] = spec.layout.runs[head].front().pages_offset;
  }
  std::mt19937_64 exponent_random(1);  // of its own: what is drawn for shapes and pages does not depend on codecs
  const auto exponent = [&](format::CodecId codec) {
    return static_cast<std::int8_t>(format::is_trellis_codec(codec) ? static_cast<int>(below(exponent_random, 128)) - 64
                                                                    : 0);
  };
  for (std::size_t layer = 0; layer < spec.shape.num_layers; ++layer) {
    std::vector<format::ScaleExponents>& exponents = sample.exponents.emplace_back();
    const std::size_t first = layer * spec.shape.num_kv_heads;
    for (std::size_t head = first; head < first + spec.shape.num_kv_heads; ++head)
      for (const Run& run : spec.layout.runs[head]) {
        const std::int8_t key = exponent(run.key_codec), value = exponent(run.value_codec);
        exponents.push_back({key, value});
      }
    sample.pages.push_back(random_bytes(random, begins[layer + 1] - begins[layer]));
    sample.sinks.push_back(random_bytes(random, head_values * num_sinks * 4));
    sample.means.push_back(random_bytes(random, spec.has_means ? head_values * format::kMeanVectors * 2 : 0));
  }
}

SamplePool tiny_sample(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  SamplePool sample;
  sample.spec.shape = {1, 1, 8, 21};
  fill_identity(sample.spec.identity);
  fill_tokens(sample.spec.tokens, 21, random);
  sample.spec.layout = Layout::uniform(sample.spec.shape, 0, 5, 4);
  sample.fidelity = "{\"tail\":{\"positions\":0}}";
  fill_values(sample, random);
  return sample;
}

SamplePool random_sample(std::mt19937_64& random) {
  SamplePool sample;
  format::KvShape& shape = sample.spec.shape;
  shape = {1 + below(random, 3), 1 + below(random, 3), 8 * (1 + below(random, 8)), 1 + below(random, 5)};
  if (below(random, 3) > 0) shape.num_tokens = 1 + below(random, 300);
  fill_identity(sample.spec.identity);
  fill_tokens(sample.spec.tokens, shape.num_tokens, random);
  if (below(random, 3) == 0) {
    format::ParentLink parent{{}, {}, 1 + below(random, 5000), below(random, 2) == 0};
    for (format::Digest* digest : {&parent.tokens_fingerprint, &parent.digest})
      for (std::uint8_t& byte : *digest) byte = static_cast<std::uint8_t>(below(random, 256));
    sample.spec.parent = parent;
  }
  const std::uint32_t first = sample.spec.parent ? sample.spec.parent->end : 0;
  const std::uint32_t begin = first + (sample.spec.parent ? 0 : std::min(format::kNumSinks, shape.num_tokens));
  Layout& layout = sample.spec.layout;
  if (below(random, 3) == 0) {
    layout = Layout::uniform(shape, first, random_codec(random), random_codec(random));
  } else {
    layout.runs.resize(std::size_t{shape.num_layers} * shape.num_kv_heads);
    for (std::vector<Run>& runs : layout.runs) deal_positions(layout, runs, begin, first + shape.num_tokens, random);
  }
  sample.spec.created = below(random, 2) == 0 ? 0 : 1'700'000'000;
  if (below(random, 2) == 0) sample.fidelity = "{\"tail\":{\"positions\":0}}";
  fill_values(sample, random);
  return sample;
}

format::Status write_pool(const SamplePool& sample, const std::filesystem::path& path, bool force, std::uint32_t mode) {
  auto writer = format::PoolWriter::create(path, sample.spec, {force, mode});
  if (!writer) return writer.error();
  for (std::uint32_t layer = 0; layer < sample.spec.shape.num_layers; ++layer) {
    POLYKV_CHECK_STATUS(writer->write_layer(layer, sample.exponents[layer], sample.pages[layer], sample.sinks[layer],
                                            sample.means[layer]));
  }
  return writer->finish(sample.fidelity);
}

std::vector<std::byte> bytes_at(const std::filesystem::path& path) {
  auto bytes = format::read_file(path);
  if (!bytes) throw std::runtime_error(bytes.error().message);
  return std::move(bytes).value();
}

std::vector<std::byte> pool_bytes(const SamplePool& sample) {
  const TemporaryFolder folder;
  const format::Status written = write_pool(sample, folder / "sample.pkv");
  if (!written) throw std::runtime_error(written.error().message);
  return bytes_at(folder / "sample.pkv");
}

format::Status open_and_verify(std::span<const std::byte> pool) {
  const auto reader = format::PoolReader::open(pool);
  if (!reader) return reader.error();
  return reader->verify(true, {});
}

std::uint32_t code_of(const format::Status& status) {
  return status ? 0 : static_cast<std::uint32_t>(status.error().code);
}

}  // namespace polykv::tests
