// SPDX-License-Identifier: Apache-2.0
#include "runtime/json.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "runtime/error.h"

namespace deeplab::runtime {
namespace {

constexpr size_t kMaxLength = size_t{16} << 20;
constexpr int kMaxDepth = 32;
constexpr int64_t kMaxValues = 1 << 18;

void append_utf8(std::string& text, uint32_t code) {
  if (code < 0x80) {
    text += static_cast<char>(code);
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  constexpr uint8_t lead[] = {0, 0xC0, 0xE0, 0xF0};
  text += static_cast<char>(lead[more] | code >> 6 * more);
  for (int i = more - 1; i >= 0; --i) text += static_cast<char>(0x80 | (code >> 6 * i & 0x3F));
}

}  // namespace

class JsonParser {
 public:
  explicit JsonParser(std::string_view text) : text_(text) {}

  Json document() {
    if (text_.size() > kMaxLength) fail("is longer than 16 MiB");
    Json value = read_value(0);
    skip_space();
    if (position_ != text_.size()) fail("goes on after its end");
    return value;
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw StatusError(DEEPLAB_MODEL_FILE, message("JSON ", what, " (byte ", position_, ")"));
  }

  bool at(char wanted) const { return position_ < text_.size() && text_[position_] == wanted; }

  void skip_space() {
    while (at(' ') || at('\t') || at('\n') || at('\r')) ++position_;
  }

  bool take(std::string_view word) {
    if (text_.substr(position_, word.size()) != word) return false;
    position_ += word.size();
    return true;
  }

  Json read_value(int depth) {
    if (depth > kMaxDepth) fail("is nested too deeply");
    if (++values_ > kMaxValues) fail("holds too many values");
    skip_space();
    Json value;
    if (at('{') || at('[')) {
      read_container(value, depth);
    } else if (at('"')) {
      value.kind_ = Json::Kind::string;
      value.string_ = read_string();
    } else if (take("true")) {
      value.kind_ = Json::Kind::boolean;
      value.boolean_ = true;
    } else if (take("false")) {
      value.kind_ = Json::Kind::boolean;
    } else if (!take("null")) {
      value.kind_ = Json::Kind::number;
      value.number_ = read_number();
    }
    return value;
  }

  void read_container(Json& value, int depth) {
    const bool object = at('{');
    const char end = object ? '}' : ']';
    value.kind_ = object ? Json::Kind::object : Json::Kind::array;
    ++position_;
    skip_space();
    if (at(end)) {
      ++position_;
      return;
    }
    while (true) {
      if (object) {
        skip_space();
        if (!at('"')) fail("needs a name here");
        value.keys_.push_back(read_string());
        skip_space();
        if (!take(":")) fail("needs a colon here");
      }
      value.items_.push_back(read_value(depth + 1));
      skip_space();
      if (take(",")) continue;
      if (!at(end)) fail("needs a comma or the end of a list here");
      ++position_;
      return;
    }
  }

  std::string read_string() {
    ++position_;
    std::string result;
    while (true) {
      if (position_ >= text_.size()) fail("ends within a string");
      const char c = text_[position_++];
      if (c == '"') return result;
      if (static_cast<unsigned char>(c) < 0x20) fail("has a control character in a string");
      if (c == '\\') {
        read_escape(result);
      } else {
        result += c;
      }
    }
  }

  void read_escape(std::string& result) {
    constexpr std::string_view names = "\"\\/bfnrt", values = "\"\\/\b\f\n\r\t";
    if (position_ >= text_.size()) fail("ends within a string");
    const char c = text_[position_++];
    if (const size_t index = names.find(c); index != std::string_view::npos) {
      result += values[index];
      return;
    }
    if (c != 'u') fail("has an unknown escape in a string");
    uint32_t code = read_hex();
    if (code >= 0xD800 && code < 0xDC00 && take("\\u")) {
      const uint32_t low = read_hex();
      if (low < 0xDC00 || low > 0xDFFF) fail("has half a surrogate pair in a string");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (code >= 0xD800 && code <= 0xDFFF) fail("has half a surrogate pair in a string");
    if (code == 0) fail("has a zero character in a string");  // our strings end with one
    append_utf8(result, code);
  }

  uint32_t read_hex() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++position_) {
      const char c = position_ < text_.size() ? text_[position_] : ' ';
      const int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
      if (digit < 0) fail("needs four hexadecimal digits here");
      code = code * 16 + static_cast<uint32_t>(digit);
    }
    return code;
  }

  double read_number() {
    // Python writes these three, which are not JSON.
    if (take("NaN")) return std::numeric_limits<double>::quiet_NaN();
    if (take("Infinity")) return std::numeric_limits<double>::infinity();
    if (take("-Infinity")) return -std::numeric_limits<double>::infinity();
    const char* const begin = text_.data() + position_;
    take("-");
    if (!take("0")) skip_digits();  // no digit follows a leading zero
    if (take(".")) skip_digits();
    if (take("e") || take("E")) {
      if (!take("+")) take("-");
      skip_digits();
    }
    double value = 0;
    const std::errc error = std::from_chars(begin, text_.data() + position_, value).ec;
    // Too large or too small: neither is a size or a colour, and the checks of those refuse infinity.
    return error == std::errc() ? value : std::numeric_limits<double>::infinity();
  }

  void skip_digits() {
    const size_t start = position_;
    while (position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '9') ++position_;
    if (position_ == start) fail("needs a value here");
  }

  std::string_view text_;
  size_t position_ = 0;
  int64_t values_ = 0;
};

Json Json::parse(std::string_view text) {
  return JsonParser(text).document();
}

const Json& Json::operator[](const char* name) const {
  require(kind_ == Kind::object, DEEPLAB_MODEL_FILE, "it has a value in place of the mapping with '", name, "'");
  for (size_t i = keys_.size(); i-- > 0;) {  // of equal names the last counts, as in Python
    if (keys_[i] == name) return items_[i];
  }
  throw StatusError(DEEPLAB_MODEL_FILE, message("it lacks '", name, "'"));
}

const std::string& Json::as_string(const char* name) const {
  require(kind_ == Kind::string, DEEPLAB_MODEL_FILE, "'", name, "' is not a text");
  return string_;
}

bool Json::as_bool(const char* name) const {
  require(kind_ == Kind::boolean, DEEPLAB_MODEL_FILE, "'", name, "' is not true or false");
  return boolean_;
}

double Json::as_number(const char* name) const {
  require(kind_ == Kind::number && std::isfinite(number_), DEEPLAB_MODEL_FILE, "'", name, "' is not a number");
  return number_;
}

int64_t Json::as_integer(const char* name, int64_t low, int64_t high) const {
  const double value = as_number(name);
  require(value == std::floor(value) && value >= static_cast<double>(low) && value <= static_cast<double>(high),
          DEEPLAB_MODEL_FILE, "'", name, "' is ", value, ", needs an integer of ", low, " to ", high);
  return static_cast<int64_t>(value);
}

const std::vector<Json>& Json::as_array(const char* name) const {
  require(kind_ == Kind::array, DEEPLAB_MODEL_FILE, "'", name, "' is not a list");
  return items_;
}

}  // namespace deeplab::runtime
