#include "cli/runtime/tokenizer/tokenizer_json_reader.h"

#include <string>
#include <utility>

#include "cli/runtime/tokenizer/vocabulary.h"
#include "cli/runtime/weights/json_text.h"

namespace polykv::runtime {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxFileBytes = std::size_t{256} << 20;  // Llama 3's has 9 MB, the largest known 34 MB

class Handler : public nlohmann::json_sax<json> {
 public:
  explicit Handler(TokenizerJson& out) : out_(out) {}
  const std::string& problem() const { return problem_; }
  std::size_t offset() const { return offset_; }

  bool null() override { return value(nullptr); }
  bool boolean(bool flag) override { return value(flag); }
  bool number_integer(number_integer_t number) override { return value(number); }
  bool number_float(number_float_t number, const string_t&) override { return value(number); }
  bool binary(binary_t&) override { return fail("binary data"); }

  bool number_unsigned(number_unsigned_t number) override {
    if (mode_ != Mode::kVocab) return value(number);
    if (number >= kMaxVocabSize) return fail("model.vocab has an id of 2^22 or more");
    out_.tokens.push_back({static_cast<std::uint32_t>(number), key_begin_, text_bytes()});
    return out_.tokens.size() <= kMaxVocabSize || fail("model.vocab has more than 2^22 entries");
  }

  bool string(string_t& text) override {
    switch (mode_) {
      case Mode::kRest:
        return value(std::move(text));
      case Mode::kVocab:
        return fail("model.vocab holds a text where an id belongs");
      case Mode::kMerges:
        return merge_line(text);
      case Mode::kMergePair:
        return merge_half(text);
    }
    return false;
  }

  bool key(string_t& name) override {
    if (mode_ == Mode::kVocab) {
      key_begin_ = text_bytes();
      out_.text.insert(out_.text.end(), name.begin(), name.end());
      return true;
    }
    if (open_.back()->contains(name)) return fail("the key \"" + name.substr(0, 64) + "\" is there twice");
    key_ = std::move(name);
    return true;
  }

  bool start_object(std::size_t) override {
    if (mode_ != Mode::kRest) return fail("model.vocab or model.merges holds an object");
    if (in_model() && key_ == "vocab") return enter(Mode::kVocab);
    return open(json::object());
  }
  bool end_object() override { return close(); }

  bool start_array(std::size_t) override {
    if (mode_ == Mode::kMerges) {
      halves_ = 0;
      mode_ = Mode::kMergePair;
      return true;
    }
    if (mode_ != Mode::kRest) return fail("model.vocab or model.merges holds an array");
    if (in_model() && key_ == "merges") return enter(Mode::kMerges);
    return open(json::array());
  }
  bool end_array() override {
    if (mode_ != Mode::kMergePair) return close();
    mode_ = Mode::kMerges;
    return halves_ == 2 || fail("a merge is not two texts");
  }

  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    offset_ = position;
    return fail("not valid JSON");
  }

 private:
  enum class Mode { kRest, kVocab, kMerges, kMergePair };

  bool fail(std::string what) {
    if (problem_.empty()) problem_ = std::move(what);
    return false;
  }

  std::uint32_t text_bytes() const { return static_cast<std::uint32_t>(out_.text.size()); }
  bool in_model() const { return open_.size() == 2 && model_ != nullptr && open_.back() == model_; }

  // The pass over model.vocab or model.merges begins. The null that stays behind is for key(), which refuses a second
  // one.
  bool enter(Mode mode) {
    put(nullptr);
    (mode == Mode::kVocab ? out_.has_vocab : out_.has_merges) = true;
    mode_ = mode;
    return true;
  }

  json* put(json element) {
    if (open_.empty()) {
      out_.rest = std::move(element);
      return &out_.rest;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(element));
      return &parent.back();
    }
    json& slot = parent[key_];
    slot = std::move(element);
    return &slot;
  }

  bool value(json element) {
    if (mode_ != Mode::kRest) return fail("model.vocab or model.merges holds something else than ids or texts");
    return put(std::move(element)) != nullptr;
  }

  // Elements that are open stay where they are: a parent gets no other element before they are closed.
  bool open(json container) {
    if (open_.size() >= kMaxJsonDepth) return fail("nested deeper than 64 levels");
    json* added = put(std::move(container));
    if (open_.size() == 1 && key_ == "model") model_ = added;
    open_.push_back(added);
    return true;
  }

  bool close() {
    if (mode_ != Mode::kRest) {
      mode_ = Mode::kRest;
    } else {
      open_.pop_back();
    }
    return true;
  }

  std::uint32_t append_half(std::string_view half) {
    const auto begin = static_cast<std::uint32_t>(out_.merge_text.size());
    out_.merge_text.insert(out_.merge_text.end(), half.begin(), half.end());
    return begin;
  }

  bool merge_line(std::string_view line) {
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos) return fail("a merge is not two tokens parted by a space");
    const std::uint32_t begin = append_half(line.substr(0, space));
    return add_merge(begin, append_half(line.substr(space + 1)));
  }

  bool merge_half(std::string_view half) {
    const std::uint32_t begin = append_half(half);
    if (++halves_ == 1) half_begin_ = begin;
    if (halves_ == 2) return add_merge(half_begin_, begin);
    return halves_ == 1 || fail("a merge is not two texts");
  }

  bool add_merge(std::uint32_t begin, std::uint32_t middle) {
    out_.merges.push_back({begin, middle, static_cast<std::uint32_t>(out_.merge_text.size())});
    return out_.merges.size() <= kMaxVocabSize || fail("model.merges has more than 2^22 entries");
  }

  TokenizerJson& out_;
  Mode mode_ = Mode::kRest;
  std::vector<json*> open_;  // objects and arrays being read, outermost first
  json* model_ = nullptr;
  std::string key_;
  std::uint32_t key_begin_ = 0;
  std::uint32_t half_begin_ = 0;
  int halves_ = 0;
  std::string problem_;
  std::size_t offset_ = 0;
};

}  // namespace

format::Result<TokenizerJson> read_tokenizer_json(std::span<const std::byte> file) {
  constexpr auto kBad = format::ErrorCode::kBadModelFile;
  if (file.size() > kMaxFileBytes) return format::Error{kBad, "tokenizer.json is larger than 256 MiB"};
  TokenizerJson out;
  Handler handler(out);
  const char* begin = reinterpret_cast<const char*>(file.data());
  if (!json::sax_parse(begin, begin + file.size(), &handler)) {
    return format::Error{kBad, handler.offset() == 0 ? format::kNoOffset : handler.offset(),
                         "tokenizer.json: " + handler.problem()};
  }
  if (!out.rest.is_object()) return format::Error{kBad, "tokenizer.json is not a JSON object"};
  return out;
}

}  // namespace polykv::runtime
