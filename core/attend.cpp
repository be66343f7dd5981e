#include "core/attend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/attend_queries.h"
#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "core/rotation.h"
#include "format/bytes.h"
#include "format/page_layout.h"

namespace polykv::core {
namespace {

constexpr std::size_t kTile = format::kTileTokens;
constexpr std::size_t kPage = format::kPageTokens;
constexpr std::size_t kPageTiles = kPage / kTile;
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// Partials are computed in waves and merged after each, in order, so that many rows on a long document do not need them
// all at once: 1 MiB of sums a wave.
constexpr std::size_t kWaveValues = std::size_t{1} << 18;

// Kernels prefetch what they will be given so many pages later: processors do not guess the way from page to page. (One
// agent, 28 MB: 6.7 ms a step without, 3.9 with; 1 to 4 pages are alike. What runs over is the next run, read next.)
constexpr std::size_t kPagesAhead = 2;

// Below so many values to merge, waking threads costs more than merging.
constexpr std::size_t kSoloMergeValues = std::size_t{1} << 15;

// Below so many query vectors the caller prepares them alone.
constexpr std::size_t kSoloVectors = 64;

struct SlotRange {
  std::uint32_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};

enum class SourceKind { kSinks, kRun, kTail };

// What rows look at under one kv_head: the sinks of a pool, a run, or a tail. Slots count its positions from 0.
struct Source {
  SourceKind kind;
  std::uint32_t kv_head;
  std::size_t pool;  // of the chain; not for tails
  const KvPool::Run* run;
  const Tail* tail;
  std::size_t first_row, num_rows;
  std::size_t visible;        // of row first_row + i: Buffers::visible[visible + i], in slots
  format::PageLayout page{};  // of a run's pages but the last

  bool is_rotated() const { return kind == SourceKind::kRun && run->codec.value != format::kCodecF16; }
};

// A unit of work: some vectors against one partial of one source.
struct Item {
  std::size_t source;
  std::uint32_t first_slot, num_slots;
  std::size_t first_vector, num_vectors;  // of the kv_head's; vector = row * q_per_kv + q_head in the group
  std::size_t result;                     // index of the first vector's result in the wave
};

struct WorkerBuffers {
  std::vector<float> scores;              // [vectors][kScoreStride]
  std::vector<std::uint16_t> sink_tiles;  // a key tile and a value tile; zero past the sinks
};

}  // namespace

struct AttendScratch::Buffers {
  // [kv_head][vector] ...
  std::vector<float> plain;         // [head_dim]: scaled by 1/sqrt(head_dim)
  IntegerQueries rotated, blocked;  // for key codecs 1 to 7, and 8
  std::vector<float> offsets;       // [pool] before kv_head: query times mean
  std::vector<float> zeros;         // offsets of keys whose mean stayed: [kMaxVectors]
  std::vector<float> balances;      // [kv_head][of keys, of values][head_dim]
  std::vector<std::uint8_t> not_finite;
  std::vector<SoftmaxSum> merged;
  std::vector<float> merged_plain, merged_rotated;  // [padded_dim]

  std::vector<Source> sources;
  std::vector<SlotRange> visible;
  std::vector<Item> items;          // kv_head by kv_head, each in the order of merging
  std::vector<SoftmaxSum> results;  // of a wave
  std::vector<float> result_sums;   // [result][padded_dim]
  std::vector<WorkerBuffers> workers;
};

AttendScratch::AttendScratch() : buffers_(std::make_unique<Buffers>()) {}
AttendScratch::~AttendScratch() = default;

namespace {

class Step {
 public:
  Step(std::span<const KvPool* const> chain, std::uint32_t layer, std::uint32_t num_q_heads, std::uint32_t num_kv_heads,
       std::uint32_t head_dim, std::span<const AttendRow> rows, Workers& workers, AttendScratch& scratch)
      : chain_(chain),
        layer_(layer),
        num_kv_heads_(num_kv_heads),
        head_dim_(head_dim),
        padded_dim_(format::padded_value_dim(head_dim)),
        q_per_kv_(num_q_heads / num_kv_heads),
        num_vectors_(rows.size() * q_per_kv_),
        partial_slots_(std::min<std::size_t>(scratch.partial_slots, kPartialSlots)),
        rows_(rows),
        kernels_(*active_kernels().attention),
        workers_(workers),
        buffers_(scratch.buffers()) {}

  void run() {
    look_at_codecs();
    prepare();
    list_sources();
    list_items();
    std::size_t begin = 0;
    do {
      const std::size_t end = wave_end(begin);
      workers_.run(end - begin, [this, begin](std::size_t i, std::size_t worker) {
        compute(buffers_.items[begin + i], buffers_.workers[worker]);
      });
      merge_wave(begin, end);
      begin = end;
    } while (begin < buffers_.items.size());
  }

 private:
  // ---- queries

  void look_at_codecs() {
    for (const KvPool* pool : chain_)
      for (std::uint32_t kv_head = 0; kv_head < num_kv_heads_; ++kv_head)
        for (const KvPool::Run& run : pool->runs(layer_, kv_head)) {
          if (run.codec.key == 8) uses_blocked_ = true;
          if (format::key_codec_removes_mean(run.codec.key)) uses_rotated_ = true;
          if (run.codec.value != format::kCodecF16) has_rotated_values_ = true;
        }
  }

  std::size_t vector_index(std::uint32_t kv_head, std::size_t vector) const { return kv_head * num_vectors_ + vector; }

  // The means that pool `i` of the chain was made with.
  std::span<const std::byte> mean(std::size_t i, std::uint32_t kv_head) const {
    for (;; --i) {
      const std::span<const std::byte> own = chain_[i]->mean(layer_, kv_head);
      if (!own.empty() || i == 0) return own;
    }
  }

  // Those of the chain's one pool that has some (a pool whose parent has means stores none), else ones.
  void load_balances() {
    buffers_.balances.assign(num_kv_heads_ * 2 * head_dim_, 1.0f);
    const auto owner = std::find_if(chain_.begin(), chain_.end(),
                                    [this](const KvPool* pool) { return !pool->mean(layer_, 0).empty(); });
    if (owner == chain_.end()) return;
    float* to = buffers_.balances.data();
    for (std::uint32_t kv_head = 0; kv_head < num_kv_heads_; ++kv_head) {
      const KvPool::Transform transform = (*owner)->transform(layer_, kv_head);
      for (const std::span<const std::byte> from : {transform.key_balance, transform.value_balance})
        for (std::size_t d = 0; d < head_dim_; ++d) *to++ = float16_to_float(format::load_le16(from.data() + 2 * d));
    }
  }
  const float* key_balance(std::uint32_t kv_head) const { return &buffers_.balances[kv_head * 2 * head_dim_]; }
  const float* value_balance(std::uint32_t kv_head) const { return key_balance(kv_head) + head_dim_; }

  void prepare() {
    const std::size_t count = num_kv_heads_ * num_vectors_;
    load_balances();
    buffers_.plain.resize(count * head_dim_);
    if (uses_rotated_) buffers_.rotated.resize(num_kv_heads_, num_vectors_, head_dim_, head_dim_);
    if (uses_blocked_) buffers_.blocked.resize(num_kv_heads_, num_vectors_, head_dim_, 32);
    buffers_.offsets.resize(uses_rotated_ ? chain_.size() * count : 0);
    buffers_.zeros.assign(kMaxVectors, 0.0f);
    buffers_.not_finite.resize(count);
    buffers_.merged.assign(count, SoftmaxSum{kNegativeInfinity, 0.0f});
    buffers_.merged_plain.assign(count * padded_dim_, 0.0f);
    buffers_.merged_rotated.assign(has_rotated_values_ ? count * padded_dim_ : 0, 0.0f);
    if (count < kSoloVectors) {
      for (std::uint32_t kv_head = 0; kv_head < num_kv_heads_; ++kv_head) prepare_head(kv_head);
    } else {
      workers_.run(num_kv_heads_, [this](std::size_t i, std::size_t) { prepare_head(static_cast<std::uint32_t>(i)); });
    }
  }

  void prepare_head(std::uint32_t kv_head) {
    const float factor = 1.0f / std::sqrt(static_cast<float>(head_dim_));
    float turned[format::kMaxHeadDim];
    for (std::size_t v = 0; v < num_vectors_; ++v) {
      const std::size_t index = vector_index(kv_head, v);
      const float* query = rows_[v / q_per_kv_].query + (kv_head * q_per_kv_ + v % q_per_kv_) * head_dim_;
      float* plain = buffers_.plain.data() + index * head_dim_;
      bool finite = true;
      for (std::size_t d = 0; d < head_dim_; ++d) finite &= query[d] - query[d] == 0.0f;
      for (std::size_t d = 0; d < head_dim_; ++d) plain[d] = finite ? query[d] * factor : 0.0f;
      buffers_.not_finite[index] = !finite;
      if (uses_blocked_) buffers_.blocked.assign(kv_head, v, {plain, head_dim_});
      if (!uses_rotated_) continue;
      const float* balance = key_balance(kv_head);
      for (std::size_t d = 0; d < head_dim_; ++d) {
        turned[d] = plain[d] / balance[d];
        finite &= turned[d] - turned[d] == 0.0f;
      }
      if (!finite) std::fill_n(turned, head_dim_, 0.0f);
      buffers_.not_finite[index] = !finite;
      rotate({turned, head_dim_});
      buffers_.rotated.assign(kv_head, v, {turned, head_dim_});
      for (std::size_t i = 0; i < chain_.size(); ++i) {
        const std::span<const std::byte> keys_mean = mean(i, kv_head);
        buffers_.offsets[i * num_kv_heads_ * num_vectors_ + index] =
            keys_mean.empty() ? 0.0f : kernels_.dot_float16(plain, keys_mean.data(), head_dim_);
      }
    }
  }

  // ---- work

  SlotRange visible_in_pool(std::size_t row, std::size_t pool, const KvPool::Run* run) const {
    const PositionRange range = rows_[row].visible[pool];
    if (run != nullptr) return {run->slots_below(range.begin), run->slots_below(range.end)};
    const std::uint32_t first = chain_[pool]->first_position(), num_sinks = chain_[pool]->num_sinks();
    const auto slot = [&](std::uint32_t position) {
      return position <= first ? 0 : std::min(position - first, num_sinks);
    };
    return {slot(range.begin), slot(range.end)};
  }

  void add_pool_source(SourceKind kind, std::uint32_t kv_head, std::size_t pool, const KvPool::Run* run) {
    const std::size_t visible = buffers_.visible.size();
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      const bool same = row > 0 && rows_[row].visible[pool] == rows_[row - 1].visible[pool];
      buffers_.visible.push_back(same ? buffers_.visible.back() : visible_in_pool(row, pool, run));
    }
    Source source{kind, kv_head, pool, run, nullptr, 0, rows_.size(), visible};
    if (run != nullptr) source.page = format::page_layout(run->codec.key, run->codec.value, head_dim_, kPage);
    buffers_.sources.push_back(source);
  }

  // Rows that are neighbours and have one tail go through it together.
  void add_tail_sources(std::uint32_t kv_head) {
    for (std::size_t row = 0, end; row < rows_.size(); row = end) {
      const Tail* tail = rows_[row].tail;
      const std::size_t visible = buffers_.visible.size();
      for (end = row; end < rows_.size() && rows_[end].tail == tail; ++end) {
        const std::uint32_t reserved = tail == nullptr ? 0 : tail->num_blocks() * Tail::kBlockTokens;
        buffers_.visible.push_back({0, std::min(rows_[end].tail_visible, reserved)});
      }
      if (tail != nullptr)
        buffers_.sources.push_back({SourceKind::kTail, kv_head, 0, nullptr, tail, row, end - row, visible});
    }
  }

  void list_sources() {
    buffers_.sources.clear();
    buffers_.visible.clear();
    for (std::uint32_t kv_head = 0; kv_head < num_kv_heads_; ++kv_head) {
      for (std::size_t i = 0; i < chain_.size(); ++i) {
        if (chain_[i]->num_sinks() > 0) add_pool_source(SourceKind::kSinks, kv_head, i, nullptr);
        for (const KvPool::Run& run : chain_[i]->runs(layer_, kv_head))
          add_pool_source(SourceKind::kRun, kv_head, i, &run);
      }
      add_tail_sources(kv_head);
    }
  }

  void list_items() {
    buffers_.items.clear();
    for (std::size_t s = 0; s < buffers_.sources.size(); ++s) {
      const Source& source = buffers_.sources[s];
      const SlotRange* visible = buffers_.visible.data() + source.visible;
      std::uint32_t end = 0;
      for (std::size_t i = 0; i < source.num_rows; ++i)
        if (!visible[i].empty()) end = std::max(end, visible[i].end);
      for (std::uint32_t slot = 0; slot < end; slot += static_cast<std::uint32_t>(partial_slots_)) {
        const auto num_slots = static_cast<std::uint32_t>(std::min<std::size_t>(partial_slots_, end - slot));
        const auto sees = [&](std::size_t i) {
          return !visible[i].empty() && visible[i].begin < slot + num_slots && visible[i].end > slot;
        };
        std::size_t first = 0, last = source.num_rows;
        while (first < last && !sees(first)) ++first;
        while (last > first && !sees(last - 1)) --last;
        if (first < last) add_items(s, slot, num_slots, source.first_row + first, source.first_row + last);
      }
    }
  }

  // Rows [first_row, end_row) of one partial, in even parts of at most kMaxVectors vectors.
  void add_items(std::size_t source, std::uint32_t slot, std::uint32_t num_slots, std::size_t first_row,
                 std::size_t end_row) {
    const std::size_t end = end_row * q_per_kv_;
    std::size_t first = first_row * q_per_kv_;
    const std::size_t num_parts = (end - first + kMaxVectors - 1) / kMaxVectors;
    for (std::size_t part = num_parts; part > 0; --part) {
      const std::size_t count = (end - first + part - 1) / part;
      buffers_.items.push_back({source, slot, num_slots, first, count, 0});
      first += count;
    }
  }

  // Takes items from `begin` for a wave, gives them their results, and makes room.
  std::size_t wave_end(std::size_t begin) {
    std::size_t end = begin, num_results = 0, max_vectors = 0;
    for (; end < buffers_.items.size(); ++end) {
      Item& item = buffers_.items[end];
      if (end > begin + workers_.num_threads() && (num_results + item.num_vectors) * padded_dim_ > kWaveValues) break;
      item.result = num_results;
      num_results += item.num_vectors;
      max_vectors = std::max(max_vectors, item.num_vectors);
    }
    if (buffers_.results.size() < num_results) buffers_.results.resize(num_results);
    if (buffers_.result_sums.size() < num_results * padded_dim_) buffers_.result_sums.resize(num_results * padded_dim_);
    if (buffers_.workers.size() < workers_.num_threads()) buffers_.workers.resize(workers_.num_threads());
    for (WorkerBuffers& worker : buffers_.workers)
      if (worker.scores.size() < max_vectors * kScoreStride) worker.scores.resize(max_vectors * kScoreStride);
    return end;
  }

  // ---- one item

  // Slots of the partial that a vector of the item sees.
  SlotRange visible_slots(const Source& source, const Item& item, std::size_t vector) const {
    const SlotRange range =
        buffers_.visible[source.visible + (item.first_vector + vector) / q_per_kv_ - source.first_row];
    const std::uint32_t begin = std::max(range.begin, item.first_slot);
    const std::uint32_t end = std::min(range.end, item.first_slot + item.num_slots);
    if (begin >= end) return {};
    return {begin - item.first_slot, end - item.first_slot};
  }

  void compute(const Item& item, WorkerBuffers& worker) {
    const Source& source = buffers_.sources[item.source];
    SoftmaxSum* results = buffers_.results.data() + item.result;
    float* sums = buffers_.result_sums.data() + item.result * padded_dim_;
    SlotRange visible[kMaxVectors];
    std::uint64_t seen = 0;  // a bit a tile
    for (std::size_t v = 0; v < item.num_vectors; ++v) {
      visible[v] = visible_slots(source, item, v);
      if (visible[v].empty()) continue;
      const std::size_t first = visible[v].begin / kTile, last = (visible[v].end - 1) / kTile;
      seen |= ((std::uint64_t{2} << last) - 1) & ~((std::uint64_t{1} << first) - 1);
    }
    const std::size_t num_slots = (item.num_slots + kTile - 1) / kTile * kTile;
    if (source.kind == SourceKind::kSinks) fill_sink_tiles(source, worker);
    for_seen_tiles(seen, [&](std::size_t page, std::size_t tile, std::size_t num_tiles) {
      score(source, item, page, tile, num_tiles, worker);
    });
    for (std::size_t v = 0; v < item.num_vectors; ++v) {
      float* scores = worker.scores.data() + v * kScoreStride;
      results[v] = {kNegativeInfinity, 0.0f};
      if (visible[v].empty())
        std::fill_n(scores, num_slots, 0.0f);
      else
        results[v] = kernels_.softmax(scores, visible[v].begin, visible[v].end, num_slots);
    }
    std::fill_n(sums, item.num_vectors * padded_dim_, 0.0f);
    for_seen_tiles(seen, [&](std::size_t page, std::size_t tile, std::size_t num_tiles) {
      add_values(source, item, page, tile, num_tiles, worker, sums);
    });
  }

  // Calls visit(page of the partial, first tile in it, number of tiles) for every row of tiles that somebody sees.
  template <typename Visit>
  static void for_seen_tiles(std::uint64_t seen, const Visit& visit) {
    for (std::size_t tile = 0; tile < kPartialSlots / kTile;) {
      std::size_t end = tile;
      while ((seen >> end & 1) != 0 && end / kPageTiles == tile / kPageTiles) ++end;
      if (end > tile) visit(tile / kPageTiles, tile % kPageTiles, end - tile);
      tile = std::max(end, tile + 1);
    }
  }

  // The sinks as one tile of float16 keys and one of values.
  void fill_sink_tiles(const Source& source, WorkerBuffers& worker) const {
    const std::size_t num_values = kTile * (head_dim_ + padded_dim_);
    if (worker.sink_tiles.size() != num_values) worker.sink_tiles.assign(num_values, 0);
    std::uint16_t* keys = worker.sink_tiles.data();
    std::uint16_t* values = keys + kTile * head_dim_;
    const KvPool& pool = *chain_[source.pool];
    const std::byte* from_keys = pool.sink_keys(layer_, source.kv_head).data();
    const std::byte* from_values = pool.sink_values(layer_, source.kv_head).data();
    for (std::size_t i = 0; i < format::kNumSinks; ++i) {
      const bool used = i < pool.num_sinks();  // else zero: the buffer may hold another pool's
      for (std::size_t d = 0; d < head_dim_; ++d) {
        keys[d * kTile + i] = values[i * padded_dim_ + d] = 0;
        if (!used) continue;
        std::memcpy(&keys[d * kTile + i], from_keys + (i * head_dim_ + d) * 2, 2);
        std::memcpy(&values[i * padded_dim_ + d], from_values + (i * head_dim_ + d) * 2, 2);
      }
    }
  }

  struct Page {
    format::PageLayout layout;
    const std::byte* bytes;
  };

  Page page_of_run(const Source& source, const Item& item, std::size_t page) const {
    const KvPool::Run& run = *source.run;
    const std::size_t index = item.first_slot / kPage + page, left = run.num_positions - index * kPage;
    const std::byte* bytes = run.pages.data() + index * source.page.bytes;
    if (left >= kPage) return {source.page, bytes};
    return {format::page_layout(run.codec.key, run.codec.value, head_dim_, left), bytes};
  }

  KeyTiles key_tiles(const Source& source, const Item& item, std::size_t page, std::size_t tile, std::size_t num_tiles,
                     const WorkerBuffers& worker) const {
    if (source.kind == SourceKind::kSinks) {
      const auto* keys = reinterpret_cast<const std::byte*>(worker.sink_tiles.data());
      return {nullptr, keys, num_tiles, head_dim_, 0};
    }
    if (source.kind == SourceKind::kTail) {
      const auto block = static_cast<std::uint32_t>(item.first_slot / kPage + page);
      const auto* keys = reinterpret_cast<const std::byte*>(source.tail->key_block(layer_, source.kv_head, block));
      keys += tile * kTile * head_dim_ * 2;
      return {nullptr, keys, num_tiles, head_dim_, 0};
    }
    const Page at = page_of_run(source, item, page);
    const format::PageLayout& layout = at.layout;
    const std::size_t codes = layout.keys_offset + tile * layout.key_tile_bytes;
    return {at.bytes + layout.key_scales_offset + tile * layout.key_scale_bytes,
            at.bytes + codes,
            num_tiles,
            head_dim_,
            source.run->codec.key,
            source.run->exponents.key,
            kPagesAhead * source.page.bytes};
  }

  ValueTiles value_tiles(const Source& source, const Item& item, std::size_t page, std::size_t tile,
                         std::size_t num_tiles, const WorkerBuffers& worker) const {
    if (source.kind == SourceKind::kSinks) {
      const auto* values = reinterpret_cast<const std::byte*>(worker.sink_tiles.data() + kTile * head_dim_);
      return {nullptr, values, num_tiles, padded_dim_, 0};
    }
    if (source.kind == SourceKind::kTail) {
      const auto block = static_cast<std::uint32_t>(item.first_slot / kPage + page);
      const auto* values = reinterpret_cast<const std::byte*>(source.tail->value_block(layer_, source.kv_head, block));
      values += tile * kTile * padded_dim_ * 2;
      return {nullptr, values, num_tiles, padded_dim_, 0};
    }
    const Page at = page_of_run(source, item, page);
    const format::PageLayout& layout = at.layout;
    const std::size_t codes = layout.values_offset + tile * layout.value_tile_bytes;
    return {at.bytes + layout.value_scales_offset + tile * layout.value_scale_bytes,
            at.bytes + codes,
            num_tiles,
            padded_dim_,
            source.run->codec.value,
            source.run->exponents.value,
            kPagesAhead * source.page.bytes};
  }

  void score(const Source& source, const Item& item, std::size_t page, std::size_t tile, std::size_t num_tiles,
             WorkerBuffers& worker) const {
    const KeyTiles tiles = key_tiles(source, item, page, tile, num_tiles, worker);
    const std::size_t first = vector_index(source.kv_head, item.first_vector);
    float* scores = worker.scores.data() + page * kPage + tile * kTile;
    const format::CodecId codec = source.kind == SourceKind::kRun ? source.run->codec.key : format::kCodecF16;
    if (codec == format::kCodecF16) {
      kernels_.score_float16(tiles, buffers_.plain.data() + first * head_dim_, item.num_vectors, scores);
    } else if (codec == 8) {
      kernels_.score_codes(
          tiles, buffers_.blocked.view(source.kv_head, item.first_vector, item.num_vectors, buffers_.zeros.data()),
          scores);
    } else {
      const float* offsets = buffers_.offsets.data() + source.pool * num_kv_heads_ * num_vectors_ + first;
      kernels_.score_codes(tiles, buffers_.rotated.view(source.kv_head, item.first_vector, item.num_vectors, offsets),
                           scores);
    }
  }

  void add_values(const Source& source, const Item& item, std::size_t page, std::size_t tile, std::size_t num_tiles,
                  const WorkerBuffers& worker, float* sums) const {
    const ValueTiles tiles = value_tiles(source, item, page, tile, num_tiles, worker);
    const float* weights = worker.scores.data() + page * kPage + tile * kTile;
    const auto add = source.is_rotated() ? kernels_.add_codes : kernels_.add_float16;
    add(tiles, weights, item.num_vectors, sums);
  }

  // ---- merging

  void merge_wave(std::size_t begin, std::size_t end) {
    const bool is_last = end == buffers_.items.size();
    std::size_t num_values = is_last ? num_kv_heads_ * num_vectors_ * padded_dim_ : 0;
    for (std::size_t i = begin; i < end; ++i) num_values += buffers_.items[i].num_vectors * padded_dim_;
    const auto merge_head = [this, begin, end](std::size_t head, std::size_t) {
      const auto kv_head = static_cast<std::uint32_t>(head);
      for (std::size_t i = begin; i < end; ++i)
        if (buffers_.sources[buffers_.items[i].source].kv_head == kv_head) merge_item(buffers_.items[i]);
      if (end == buffers_.items.size()) finish_head(kv_head);
    };
    if (num_values >= kSoloMergeValues) return workers_.run(num_kv_heads_, merge_head);
    for (std::uint32_t kv_head = 0; kv_head < num_kv_heads_; ++kv_head) merge_head(kv_head, 0);
  }

  void merge_item(const Item& item) {
    const Source& source = buffers_.sources[item.source];
    for (std::size_t v = 0; v < item.num_vectors; ++v) {
      const SoftmaxSum& part = buffers_.results[item.result + v];
      if (!(part.sum > 0.0f)) continue;  // nothing seen, or no score that is a number
      const std::size_t index = vector_index(source.kv_head, item.first_vector + v);
      SoftmaxSum& all = buffers_.merged[index];
      const float max = std::max(all.max, part.max);
      const float kept = exp_nonpositive(all.max - max), added = exp_nonpositive(part.max - max);
      all = {max, std::fma(part.sum, added, all.sum * kept)};
      float* plain = buffers_.merged_plain.data() + index * padded_dim_;
      float* rotated = has_rotated_values_ ? buffers_.merged_rotated.data() + index * padded_dim_ : nullptr;
      float* into = source.is_rotated() ? rotated : plain;
      float* other = source.is_rotated() ? plain : rotated;
      const float* sums = buffers_.result_sums.data() + (item.result + v) * padded_dim_;
      kernels_.merge(into, kept, sums, added, padded_dim_);
      if (other != nullptr && kept != 1.0f)
        for (std::size_t d = 0; d < padded_dim_; ++d) other[d] *= kept;
    }
  }

  // Rotation is linear: the sum of all rotated values is turned back once.
  void finish_head(std::uint32_t kv_head) {
    for (std::size_t v = 0; v < num_vectors_; ++v) {
      const std::size_t index = vector_index(kv_head, v);
      float* out = rows_[v / q_per_kv_].out + (kv_head * q_per_kv_ + v % q_per_kv_) * head_dim_;
      const float* plain = buffers_.merged_plain.data() + index * padded_dim_;
      const float sum = buffers_.merged[index].sum;
      if (float* log_sums = rows_[v / q_per_kv_].log_sums; log_sums != nullptr)
        log_sums[kv_head * q_per_kv_ + v % q_per_kv_] =
            sum > 0.0f ? buffers_.merged[index].max + std::log(sum) : kNegativeInfinity;
      if (buffers_.not_finite[index] != 0) {
        std::fill_n(out, head_dim_, std::numeric_limits<float>::quiet_NaN());
      } else if (!(sum > 0.0f)) {
        std::fill_n(out, head_dim_, 0.0f);
      } else if (has_rotated_values_) {
        float* rotated = buffers_.merged_rotated.data() + index * padded_dim_;
        unrotate({rotated, head_dim_});
        const float* balance = value_balance(kv_head);
        for (std::size_t d = 0; d < head_dim_; ++d) out[d] = (plain[d] + rotated[d] / balance[d]) / sum;
      } else {
        for (std::size_t d = 0; d < head_dim_; ++d) out[d] = plain[d] / sum;
      }
    }
  }

  const std::span<const KvPool* const> chain_;
  const std::uint32_t layer_;
  const std::uint32_t num_kv_heads_;
  const std::size_t head_dim_, padded_dim_, q_per_kv_, num_vectors_, partial_slots_;
  const std::span<const AttendRow> rows_;
  const AttentionKernels& kernels_;
  Workers& workers_;
  AttendScratch::Buffers& buffers_;
  bool uses_rotated_ = false, uses_blocked_ = false, has_rotated_values_ = false;
};

}  // namespace

format::Status attend(std::span<const KvPool* const> chain, std::uint32_t layer, std::uint32_t num_q_heads,
                      std::uint32_t num_kv_heads, std::uint32_t head_dim, std::span<const AttendRow> rows,
                      Workers& workers, AttendScratch& scratch) {
  for (const KvPool* pool : chain) POLYKV_CHECK_STATUS(pool->check_layer(layer));
  if (!rows.empty()) Step(chain, layer, num_q_heads, num_kv_heads, head_dim, rows, workers, scratch).run();
  return {};
}

}  // namespace polykv::core
