#include "samples/vkmoe/lm_file.h"

#include <fmt/format.h>

#include "engine/formats/checked.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/formats/evl0_view.h"
#include "engine/formats/file_kind.h"
#include "engine/formats/package.h"

namespace vkmoe::program {
namespace {

constexpr const char* kTag = "codec:";

using formats::FileKind;
using formats::inputError;

// The tag among those of the card, which readers of packages keep as they are.
std::string tagIn(const std::string& manifest) {
    const auto json = nlohmann::json::parse(manifest, nullptr, false);
    const auto card = json.is_object() ? json.find("card") : json.end();
    if (card == json.end() || !card->is_object() || !card->contains("tags") || !(*card)["tags"].is_array()) return "";
    for (const auto& tag : (*card)["tags"])
        if (tag.is_string() && tag.get_ref<const std::string&>().starts_with(kTag)) return tag.get<std::string>();
    return "";
}

LmFile told(LmFile model) {
    for (const auto& warning : model.source.warnings) fmt::print(stderr, "vkmoe: warning: {}\n", warning);
    return model;
}

Result<LmFile> ofPackage(const formats::Package& package, bool compat) {
    VKMOE_TRY(source, formats::readPackagedLm(package, compat));
    source.warnings.insert(source.warnings.begin(), package.warnings.begin(), package.warnings.end());
    return LmFile{std::move(source), tagIn(package.manifest.text())};
}

Result<std::unique_ptr<TextCodec>> findCodec(const std::string& path, const LmFile& model, const std::string& chosen) {
    if (!chosen.empty()) return openCodec(chosen);
    const bool bytes =
        model.codec.empty() ? model.source.config.vocab_size == 256 : model.codec == codecTag(ByteCodec());
    std::error_code unknown;
    const std::string beside = tokenizerPath(path);
    const bool is_beside = std::filesystem::exists(beside, unknown);
    if (bytes && !(model.codec.empty() && is_beside)) return openCodec("bytes");
    if (!is_beside)
        return inputError(path, fmt::format("has a vocabulary of {} tokens and no {} beside it; --codec must say how "
                                            "text becomes tokens",
                                            model.source.config.vocab_size, beside));
    VKMOE_TRY(codec, openCodec(beside));
    if (model.codec.empty() || codecTag(*codec) == model.codec) return codec;
    auto previous = BpeCodec::load(previousTokenizerPath(path));
    if (previous && codecTag(*previous) == model.codec)
        return std::unique_ptr<TextCodec>(std::make_unique<BpeCodec>(std::move(*previous)));
    return inputError(beside, fmt::format("is {}, but {} was trained with {}", codecTag(*codec), path, model.codec));
}

}  // namespace

Result<LmFile> readLm(std::shared_ptr<const ByteSource> file, bool compat) {
    VKMOE_TRY(kind, formats::kindOf(*file));
    if (kind == FileKind::package) {
        VKMOE_TRY(package, formats::readPackage(std::move(file), compat));
        return ofPackage(package, compat);
    }
    if (kind != FileKind::language_model)
        return inputError(file->name(), "is neither a package (.evermind) nor an EVL0 file");
    VKMOE_TRY(source, formats::readEvl0(std::move(file), {.compat = compat}));
    return LmFile{std::move(source), ""};
}

Result<LmFile> openLm(const std::string& path, bool compat) {
    VKMOE_TRY(file, openFile(path));
    VKMOE_TRY(model, readLm(std::move(file), compat));
    return told(std::move(model));
}

Result<std::optional<LmFile>> findLm(const std::string& path, bool compat) {
    std::error_code unknown;
    if (std::filesystem::is_directory(path, unknown)) return std::optional<LmFile>();
    VKMOE_TRY(file, openFile(path));
    VKMOE_TRY(kind, formats::kindOf(*file));
    if (kind == FileKind::package) {
        VKMOE_TRY(package, formats::readPackage(std::move(file), compat));
        if (!package.isLm()) return std::optional<LmFile>();
        VKMOE_TRY(model, ofPackage(package, compat));
        return std::optional(told(std::move(model)));
    }
    if (kind != FileKind::language_model) return std::optional<LmFile>();
    VKMOE_TRY(model, readLm(std::move(file), compat));
    return std::optional(told(std::move(model)));
}

std::string fingerprint(std::span<const float> parameters) {
    return fmt::format("{:016x}", XXH3_64bits(parameters.data(), parameters.size_bytes()));
}

std::string codecTag(const TextCodec& codec) {
    const auto* bpe = dynamic_cast<const BpeCodec*>(&codec);
    if (bpe == nullptr) return kTag + codec.name();
    const std::string json = bpe->json();
    return fmt::format("{}bpe-{:016x}", kTag, XXH3_64bits(json.data(), json.size()));
}

std::string tokenizerPath(const std::string& model) { return model + ".tokenizer.json"; }
std::string previousTokenizerPath(const std::string& model) { return tokenizerPath(model) + ".previous"; }

Result<std::unique_ptr<TextCodec>> codecFor(const std::string& path, const LmFile& model, const std::string& chosen) {
    VKMOE_TRY(codec, findCodec(path, model, chosen));
    if (codec->idLimit() == model.source.config.vocab_size) return codec;
    return inputError(path, fmt::format("vocabSize is {}, but the codec {} has {} tokens",
                                        model.source.config.vocab_size, codec->name(), codec->idLimit()));
}

Result<void> packLm(const std::string& name, const LmConfig& config, std::span<const float> parameters,
                    const std::string& codec_tag, const std::string& summary, const ByteSink& put) {
    VKMOE_TRY(checkpoint, formats::evl0View(name, config, parameters));
    formats::PackageInfo info;
    info.name = name;
    info.version = "1";
    info.card.description = summary.empty() ? "A language model" : "A language model trained by vkmoe";
    if (!summary.empty()) info.card.training_summary = summary;
    if (!codec_tag.empty()) info.card.tags = std::vector{codec_tag};
    return formats::writePackage(info, std::move(checkpoint), put);
}

}  // namespace vkmoe::program
