// A tokenizer from GGUF metadata, made here byte by byte.
#include <random>

#include "cli/runtime/weights/gguf.h"
#include "small_tokenizer.h"

namespace polykv::tests {
namespace {

using format::ErrorCode;

// Just enough of a GGUF v3 writer: metadata of three types, no tensors.
class GgufWriter {
 public:
  void text(std::string_view key, std::string_view value) {
    start(key, 8);
    append_text(value);
  }
  void number(std::string_view key, std::uint32_t value) {
    start(key, 4);
    append(value);
  }
  void flag(std::string_view key, bool value) {
    start(key, 7);
    bytes_ += static_cast<char>(value ? 1 : 0);
  }
  void texts(std::string_view key, const std::vector<std::string>& values) {
    start(key, 9);
    append(std::uint32_t{8});
    append(std::uint64_t{values.size()});
    for (const std::string& value : values) append_text(value);
  }
  void numbers(std::string_view key, const std::vector<std::int32_t>& values) {
    start(key, 9);
    append(std::uint32_t{5});
    append(std::uint64_t{values.size()});
    for (const std::int32_t value : values) append(value);
  }
  std::string finish() const {
    GgufWriter out;
    out.bytes_ = "GGUF";
    out.append(std::uint32_t{3});
    out.append(std::uint64_t{0});
    out.append(num_keys_);
    return out.bytes_ + bytes_;
  }

 private:
  template <typename T>
  void append(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void append_text(std::string_view value) {
    append(std::uint64_t{value.size()});
    bytes_ += value;
  }
  void start(std::string_view key, std::uint32_t type) {
    ++num_keys_;
    append_text(key);
    append(type);
  }
  std::string bytes_;
  std::uint64_t num_keys_ = 0;
};

// The small vocabulary as a GGUF would hold it. Changes are made to the fields before it is written.
struct SmallGguf {
  std::string model = "gpt2", pre = "smollm";
  std::vector<std::string> tokens, merges;
  std::vector<std::int32_t> types;
  std::optional<std::uint32_t> bos, eos;
  std::optional<bool> add_bos;

  SmallGguf() {
    const nlohmann::json& vectors = tokenizer_vectors();
    tokens.resize(vectors["vocab"].size());
    for (const auto& [text, id] : vectors["vocab"].items()) tokens[id.get<std::size_t>()] = text;
    types.assign(tokens.size(), 1);
    for (const nlohmann::json& name : vectors["control_tokens"]) {
      tokens.push_back(name);
      types.push_back(3);
    }
    merges = vectors["merges"].get<std::vector<std::string>>();
  }

  std::string bytes() const {
    GgufWriter writer;
    writer.text("general.architecture", "llama");
    writer.text("tokenizer.ggml.model", model);
    writer.text("tokenizer.ggml.pre", pre);
    writer.texts("tokenizer.ggml.tokens", tokens);
    writer.texts("tokenizer.ggml.merges", merges);
    if (!types.empty()) writer.numbers("tokenizer.ggml.token_type", types);
    if (bos) writer.number("tokenizer.ggml.bos_token_id", *bos);
    if (eos) writer.number("tokenizer.ggml.eos_token_id", *eos);
    if (add_bos) writer.flag("tokenizer.ggml.add_bos_token", *add_bos);
    return writer.finish();
  }
};

// Keeps the bytes that the tokenizer looks at.
struct Opened {
  std::string bytes;
  format::Result<Tokenizer> tokenizer;
  explicit Opened(const SmallGguf& small) : bytes(small.bytes()), tokenizer(open(bytes)) {}
  static format::Result<Tokenizer> open(const std::string& bytes) {
    const auto gguf = runtime::GgufFile::parse(as_bytes(bytes));
    REQUIRE(gguf);
    return Tokenizer::from_gguf(*gguf);
  }
};

void check_refused(const SmallGguf& small, ErrorCode code, std::string_view word) {
  const Opened opened(small);
  REQUIRE_FALSE(opened.tokenizer);
  CAPTURE(opened.tokenizer.error().message);
  CHECK(opened.tokenizer.error().code == code);
  CHECK(opened.tokenizer.error().message.find(word) != std::string::npos);
}

}  // namespace

TEST_CASE("a GGUF and a tokenizer.json of one vocabulary tokenize alike", "[tokenizer]") {
  for (const std::string rule : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    SmallGguf small;
    small.pre = rule;
    const Opened opened(small);
    REQUIRE(opened.tokenizer);
    const Tokenizer json = small_tokenizer(rule);
    CHECK(opened.tokenizer->vocab_size() == json.vocab_size());
    CHECK(opened.tokenizer->normalizer() == json.normalizer());
    for (const nlohmann::json& vector : tokenizer_vectors()["texts"]) {
      const std::string text = json.normalize(vector.get<std::string>());
      CHECK(ids_of(opened.tokenizer->tokenize(text)) == ids_of(json.tokenize(text)));
    }
  }
}

TEST_CASE("names that mean a known pre-tokenizer", "[tokenizer]") {
  for (const auto& [name, known] : {std::pair("gpt2", "gpt-2"),
                                    {"llama3", "llama-bpe"},
                                    {"llama-v3", "llama-bpe"},
                                    {"starcoder", "starcoder"},
                                    {"refact", "refact"}}) {
    SmallGguf small;
    small.pre = name;
    const Opened opened(small);
    REQUIRE(opened.tokenizer);
    CHECK(opened.tokenizer->pre_tokenizer() == known);
  }
}

TEST_CASE("BOS and end tokens of a GGUF", "[tokenizer]") {
  SmallGguf small;
  const Opened plain(small);
  REQUIRE(plain.tokenizer);
  CHECK_FALSE(plain.tokenizer->adds_bos());
  CHECK_FALSE(plain.tokenizer->bos());
  small.bos = *plain.tokenizer->control_token("<|begin_of_text|>");
  small.eos = 7;
  CHECK_FALSE(Opened(small).tokenizer->adds_bos());
  small.pre = "llama-bpe";
  const Opened llama(small);
  REQUIRE(llama.tokenizer);
  CHECK(llama.tokenizer->adds_bos());
  CHECK(llama.tokenizer->end_tokens().front() == 7);
  small.add_bos = false;
  CHECK_FALSE(Opened(small).tokenizer->adds_bos());
  small.add_bos = true;
  small.bos = 1;
  check_refused(small, ErrorCode::kBadModelFile, "BOS");
  small.bos.reset();
  check_refused(small, ErrorCode::kBadModelFile, "BOS");
  small.bos = static_cast<std::uint32_t>(small.tokens.size());
  check_refused(small, ErrorCode::kBadModelFile, "bos_token_id");
}

TEST_CASE("what polykv does not know in a GGUF is refused by name", "[tokenizer]") {
  SmallGguf small;
  small.model = "llama";
  check_refused(small, ErrorCode::kUnsupportedTokenizer, "\"llama\"");
  small = {};
  small.pre = "deepseek-llm\x1b[31m";
  check_refused(small, ErrorCode::kUnsupportedTokenizer, "\"deepseek-llm?[31m\"");
  small = {};
  small.types[3] = 9;
  check_refused(small, ErrorCode::kBadModelFile, "token_type");
  small.types.pop_back();
  check_refused(small, ErrorCode::kBadModelFile, "token_type");
  small = {};
  small.merges.push_back("no such");
  check_refused(small, ErrorCode::kBadModelFile, "merge");
  small = {};
  small.merges[0] = "nospace";
  check_refused(small, ErrorCode::kBadModelFile, "merge 0");
  small = {};
  small.tokens.push_back("    ");
  small.types.push_back(4);
  check_refused(small, ErrorCode::kUnsupportedTokenizer, "added token");
  small = {};
  small.tokens.push_back(std::string(65536, 'x'));
  small.types.push_back(1);
  check_refused(small, ErrorCode::kUnsupportedTokenizer, "65,535");
  small = {};
  small.types.assign(small.tokens.size(), 5);
  small.merges.clear();
  check_refused(small, ErrorCode::kUnsupportedTokenizer, "byte-level");
  small = {};
  small.tokens.clear();
  small.types.clear();
  check_refused(small, ErrorCode::kBadModelFile, "tokens");
}

TEST_CASE("equal tokens, empty tokens and unused numbers do no harm", "[tokenizer]") {
  SmallGguf small;
  const std::size_t unused = small.tokens.size();
  for (const char* text : {"[PAD]", "", "", "the", "the"}) small.tokens.push_back(text);
  for (const std::int32_t type : {5, 1, 3, 1, 3}) small.types.push_back(type);
  const Opened opened(small);
  REQUIRE(opened.tokenizer);
  const Tokenizer& tokenizer = *opened.tokenizer;
  CHECK(tokenizer.token_bytes(static_cast<TokenId>(unused)).empty());
  CHECK_FALSE(tokenizer.control_token("[PAD]"));
  CHECK(tokenizer.control_token("the") == unused + 4);  // a name that is a word too
  CHECK(ids_of(tokenizer.tokenize("the lamp")) == ids_of(small_tokenizer("smollm").tokenize("the lamp")));
}

TEST_CASE("damaged bytes are refused or read, never followed", "[tokenizer]") {
  const std::string good = SmallGguf().bytes();
  std::mt19937 random(23);
  int num_opened = 0;
  for (int i = 0; i < 400; ++i) {
    std::string bytes = good;
    for (std::size_t left = 1 + random() % 3; left > 0; --left) {
      bytes[random() % bytes.size()] = static_cast<char>(random() % 256);
    }
    const auto gguf = runtime::GgufFile::parse(as_bytes(bytes));
    if (!gguf) continue;
    const auto tokenizer = Tokenizer::from_gguf(*gguf);
    if (!tokenizer) continue;
    ++num_opened;
    const std::string text = "They're keepers of 34 lamps.\n";
    CHECK(tiles(tokenizer->tokenize(text), text.size()));
    for (TokenId id = 0; id < tokenizer->vocab_size(); ++id) (void)tokenizer->token_bytes(id);
  }
  CHECK(num_opened > 0);  // or the test has seen nothing
}

}  // namespace polykv::tests
