// Errors as values: ErrorCode, Error, Result<T>, Status and POLYKV_TRY.
//
// A damaged file is a normal answer, not an exception: each cause has its own pinned code. `format` and `core` never
// print and never exit. Codes are grouped by the exit status that the program ends with: status = code / 100.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace polykv::format {

// Values are pinned: they appear in --json, in the specification and in the man page. A number is never reused.
enum class ErrorCode : std::uint32_t {
  // 1xx, exit 1: the check said no, or a runtime failure.
  kFailed = 100,        // a runtime failure with no code of its own
  kUnusableText = 101,  // a document or question that cannot be used: empty, not UTF-8, too long
  kNotFinite = 102,     // keys or values that are not finite, or too large for float16
  kReadBack = 103,      // the pool written does not read back as it was written
  kNoTorch = 104,       // LibTorch, needed for a prefill, was not found
  kItemsFailed = 105,   // some of several items failed; each was reported
  // 2xx, exit 2: usage.
  kUsage = 200,
  // 3xx, exit 3: input and output.
  kNotFound = 300,
  kExists = 301,
  kIo = 302,
  kNoSpace = 303,
  kNotRegularFile = 304,  // a folder, a device, ... where a model or a document is expected
  // 4xx, exit 4: not a pool, unfinished or truncated.
  kNotAPool = 400,
  kUnfinished = 401,
  kTruncated = 402,  // shorter or longer than it says, or its tail is missing
  kShrunk = 403,     // a pool that became shorter while in use
  kNotAFile = 404,   // the pool's path is a folder, a FIFO, a device
  // 5xx, exit 5: corrupt. A structural rule broken under valid checksums belongs here too.
  kBadChecksum = 500,
  kMalformed = 501,
  kLimitExceeded = 502,
  kBadReserved = 503,      // reserved or padding bytes that are not zero
  kBadSectionTable = 504,  // overlap, hole, order, unknown duplicate
  kBadSectionSize = 505,   // a section's size contradicts the header or the layout
  kBadIdentity = 506,
  kBadFingerprint = 507,  // a stored fingerprint is not that of the stored fields
  kBadTokens = 508,
  kBadLayout = 509,
  kBadSource = 510,     // the zstd frame of the source text
  kBadPadding = 511,    // an unused slot of a page is not zero
  kBadDigest = 512,     // a SHA-256 of the tree differs
  kChanged = 513,       // a pool or model that was changed while in use
  kBadModelFile = 550,  // a damaged or contradictory model file
  // 6xx, exit 6: needs a newer polykv, or is not supported.
  kUnsupportedVersion = 600,
  kUnsupportedFeature = 601,
  kForeignByteOrder = 602,
  kUnknownSection = 603,
  kUnknownAlgorithm = 604,
  kUnknownCodec = 605,
  kUnsupportedModel = 650,  // architecture, tensor type, RoPE scaling, head_dim
  kUnsupportedTokenizer = 651,
  kUnknownTemplate = 652,
  kUnsupportedKernels = 653,  // --kernels names a table this machine does not have
  // 7xx, exit 7: unsafe owner or mode.
  kUnsafeFile = 700,
  // 9xx, exit 9: published, durability unknown.
  kNotDurable = 900,
  // 10xx, exit 10: does not fit.
  kMismatch = 1000,
  // 130xx, 143xx: stopped by a signal.
  kInterrupted = 13000,
  kTerminated = 14300,
};

// The exit status a command ends with for `code`.
constexpr int exit_status(ErrorCode code) { return static_cast<int>(code) / 100; }

inline constexpr std::uint64_t kNoOffset = ~std::uint64_t{0};

struct [[nodiscard]] Error {
  ErrorCode code;
  std::uint64_t offset = kNoOffset;  // first byte that is wrong, from the start of the file, where one can be named
  std::string message;               // what is wrong, where, expected and found; no file name, no full stop
  std::string found, expected;       // as the message shows them, where it is about a value; else empty

  Error(ErrorCode code_, std::string message_) : code(code_), message(std::move(message_)) {}
  Error(ErrorCode code_, std::uint64_t offset_, std::string message_)
      : code(code_), offset(offset_), message(std::move(message_)) {}
};

// A value or an Error, with std::expected's member names.
template <typename T>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit on purpose
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit on purpose

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

// Success or an Error.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}  // NOLINT: implicit on purpose

  bool has_value() const { return !error_.has_value(); }
  explicit operator bool() const { return has_value(); }
  const Error& error() const& { return *error_; }
  Error&& error() && { return *std::move(error_); }

 private:
  std::optional<Error> error_;
};

}  // namespace polykv::format

#define POLYKV_CONCAT_(a, b) a##b
#define POLYKV_CONCAT(a, b) POLYKV_CONCAT_(a, b)

// POLYKV_TRY(const Header header, parse_header(file));  declares `header`, or returns the error from this function.
#define POLYKV_TRY(declaration, expression) POLYKV_TRY_(declaration, expression, POLYKV_CONCAT(polykv_try_, __LINE__))
#define POLYKV_TRY_(declaration, expression, result)         \
  auto result = (expression);                                \
  if (!result.has_value()) return std::move(result).error(); \
  declaration = std::move(result).value()

// POLYKV_CHECK_STATUS(write_all(...));  returns the error from this function, if there is one.
#define POLYKV_CHECK_STATUS(expression)                                                                         \
  do {                                                                                                          \
    if (auto polykv_status = (expression); !polykv_status.has_value()) return std::move(polykv_status).error(); \
  } while (false)
