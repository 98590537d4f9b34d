#include "samples/vkmoe/corpus.h"

#include <fmt/format.h>

#include "engine/formats/checked.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <filesystem>

#include "host/file.h"

namespace vkmoe::program {
namespace {

namespace fs = std::filesystem;

using formats::inputError;

bool isTemporary(const fs::path& path) {
    const std::string name = path.filename().string();
    return name.starts_with(".vkmoe-") && name.ends_with(".tmp");
}

Result<std::vector<std::string>> filesOf(const std::string& path, const std::vector<std::string>& others) {
    std::error_code failure;
    if (!fs::is_directory(path, failure)) return std::vector{path};
    std::vector<std::string> files;
    const auto is_other = [&](const fs::path& file) {
        std::error_code absent;
        return std::any_of(others.begin(), others.end(),
                           [&](const std::string& other) { return fs::equivalent(file, other, absent); });
    };
    fs::directory_iterator at(path, failure);
    for (; !failure && at != fs::directory_iterator(); at.increment(failure))
        if (fs::is_regular_file(at->symlink_status(failure)) && !isTemporary(at->path()) && !is_other(at->path()))
            files.push_back(at->path().string());
    if (failure) return Error{ErrorCode::io, fmt::format("{}: cannot be listed: {}", path, failure.message())};
    if (files.empty()) return inputError(path, "has no regular file in it");
    std::sort(files.begin(), files.end());
    return files;
}

bool startsCharacter(char byte) { return (uint8_t(byte) & 0xc0) != 0x80; }

Result<Text> readText(const std::string& path, double validation) {
    VKMOE_TRY(bytes, readFile(path));
    Text text{path, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())};
    if (text.contents.empty()) return inputError(path, "is empty: it ends at offset 0");
    if (const auto offset = checkUtf8(text.contents))
        return inputError(
            path, fmt::format("is not UTF-8 at offset {}, byte {:#04x}", *offset, uint8_t(text.contents[*offset])));
    text.split = text.contents.size() - uint64_t(double(text.contents.size()) * validation);
    while (text.split < text.contents.size() && !startsCharacter(text.contents[text.split])) ++text.split;
    return text;
}

}  // namespace

Result<std::vector<Text>> readTexts(const std::string& path, double validation,
                                    const std::vector<std::string>& others) {
    VKMOE_TRY(files, filesOf(path, others));
    std::vector<Text> texts;
    for (const std::string& file : files) {
        VKMOE_TRY(text, readText(file, validation));
        texts.push_back(std::move(text));
    }
    return texts;
}

std::string fingerprint(const std::vector<Text>& texts) {
    uint64_t bytes = 0, hash = texts.size();
    for (const Text& text : texts) {
        const uint64_t length = text.contents.size();
        bytes += length;
        hash = XXH3_64bits_withSeed(&length, sizeof length, hash);
        hash = XXH3_64bits_withSeed(text.contents.data(), length, hash);
    }
    return fmt::format("{} bytes in {} {}, hash {:016x}", bytes, texts.size(), texts.size() == 1 ? "file" : "files",
                       hash);
}

Result<Corpus> Corpus::encode(const std::vector<Text>& texts, const TextCodec& codec, uint32_t context) {
    Corpus corpus;
    corpus.context_ = context;
    std::vector<Sequence> kept;
    for (const Text& text : texts) {
        Sequence ids = codec.encode(text.training());
        if (ids.size() < context)
            return inputError(text.path, fmt::format("ends at offset {}: the {} tokens to learn from are fewer than a "
                                                     "context of {}",
                                                     text.contents.size(), ids.size(), context));
        corpus.tokens_ += ids.size();
        corpus.ends_.push_back(corpus.windows() + ids.size() - context + 1);
        corpus.texts_.push_back(std::move(ids));
        const Sequence end = codec.encode(text.validation());
        for (size_t at = 0; at + 2 <= end.size(); at += context)
            kept.emplace_back(end.begin() + ptrdiff_t(at), end.begin() + ptrdiff_t(std::min(at + context, end.size())));
    }
    const size_t used = std::min(kept.size(), kMostValidation);
    for (size_t i = 0; i < used; ++i) corpus.validation_.push_back(std::move(kept[i * kept.size() / used]));
    return corpus;
}

Sequence Corpus::window(uint64_t index) const {
    const auto end = std::upper_bound(ends_.begin(), ends_.end(), index);
    const auto text = end - ends_.begin();
    const uint64_t before = text == 0 ? 0 : ends_[size_t(text) - 1];
    const auto first = texts_[size_t(text)].begin() + ptrdiff_t(index - before);
    return {first, first + context_};
}

uint64_t Sampler::below(uint64_t limit) {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    __extension__ using Wide = unsigned __int128;
    return uint64_t(Wide{z} * limit >> 64);
}

}  // namespace vkmoe::program
