#include <fmt/format.h>

#include <algorithm>

#include "engine/text/tokenizer_json.h"

namespace vkmoe::text {
namespace {

// The pre-tokens (pre_tokens.h) for programs that read them from the file; @ is ECMAScript's \s, spelled out.
constexpr std::string_view kHead = R"({
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [],
  "normalizer": null,
  "pre_tokenizer": {
    "type": "Sequence",
    "pretokenizers": [
      {
        "type": "Split",
        "pattern": {
          "Regex": "(?:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^@\\p{L}\\p{N}]+[\\r\\n]*|[@]*[\\r\\n]+|[@]+(?![^@])|[@]+"
        },
        "behavior": "Isolated",
        "invert": false
      },
      {
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": false
      }
    ]
  },
  "post_processor": null,
  "decoder": {
    "type": "ByteLevel",
    "add_prefix_space": false,
    "trim_offsets": true,
    "use_regex": false
  },
  "model": {
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": true,
    "vocab": {)";
constexpr std::string_view kSpaces = R"(\\t-\\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff)";

std::string head() {
    std::string text;
    for (const char c : kHead)
        if (c == '@')
            text += kSpaces;
        else
            text += c;
    return text;
}

std::string inQuotes(std::string_view text) {
    std::string out = "\"";
    for (const char c : text)
        if (c == '"' || c == '\\')
            out += {'\\', c};
        else if (static_cast<unsigned char>(c) < 0x20)
            out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
        else
            out += c;
    return out + '"';
}

bool hasSpace(const BpeCodec::Merge& merge) {
    return merge.first.find(' ') != std::string::npos || merge.second.find(' ') != std::string::npos;
}

}  // namespace

std::string writeTokenizer(const TokenTable& tokens, std::span<const BpeCodec::Merge> merges) {
    std::string text = head();
    const char* between = "";
    for (const auto& [name, id] : tokens.tokens()) {
        text += fmt::format("{}\n      {}: {}", between, inQuotes(name), id);
        between = ",";
    }
    text += "\n    },\n    \"merges\": [";
    between = "";
    const bool pairs = std::any_of(merges.begin(), merges.end(), hasSpace);  // the form must be the same for all
    for (const auto& [left, right] : merges) {
        text += between;
        text += "\n      ";
        text += pairs ? fmt::format("[{}, {}]", inQuotes(left), inQuotes(right)) : inQuotes(left + " " + right);
        between = ",";
    }
    return text + "\n    ]\n  }\n}\n";
}

}  // namespace vkmoe::text
