#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/formats/checked.h"
#include "engine/formats/checkpoint_facts.h"
#include "engine/formats/javascript_json.h"
#include "engine/formats/lm_parameters.h"
#include "engine/formats/moe0.h"
#include "engine/formats/package.h"

namespace vkmoe::formats {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kMagic = 0x45564d31;
constexpr uint32_t kVersion = 1;

Result<CheckpointFacts> readFacts(std::shared_ptr<const ByteSource> checkpoint) {
    std::byte first[4] = {};
    if (checkpoint->size() >= sizeof first) VKMOE_CHECK(checkpoint->read(0, first));
    if (looksLikeEvl0(first)) {
        VKMOE_TRY(model, readEvl0(std::move(checkpoint)));
        return factsOf(model);
    }
    VKMOE_TRY(layer, readMoe0(std::move(checkpoint)));
    return factsOf(layer);
}

Result<std::vector<std::byte>> wholeOf(const ByteSource& file) {
    VKMOE_TRY(bytes, zeroBytes(file.size()));
    VKMOE_CHECK(file.read(0, bytes));
    return bytes;
}

Json configJson(const CheckpointFacts& facts, std::optional<double> seed) {
    Json config = Json::object();
    for (const auto& [name, value] : facts.config) config[name] = value;
    if (seed) config["seed"] = *seed;
    return config;
}

Json cardJson(const ModelCard& card) {
    Json json = {{"description", card.description}};
    if (card.training_summary) json["trainingSummary"] = *card.training_summary;
    if (card.license) json["license"] = *card.license;
    if (card.author) json["author"] = *card.author;
    if (card.tags) json["tags"] = *card.tags;
    return json;
}

// In the reference engine's order.
Json manifestJson(const PackageInfo& info, const CheckpointFacts& facts, uint64_t bytes, uint32_t checksum) {
    Json json = {{"schema", "evermind.model/1"}, {"name", info.name}, {"version", info.version}};
    json["modelType"] = facts.model_type;
    if (!info.modality.empty()) json["modality"] = info.modality;
    json["config"] = configJson(facts, info.seed);
    json["paramCount"] = facts.parameters;
    json["checkpointFormat"] = facts.format;
    json["checkpointFp16"] = facts.fp16;
    if (!info.modality.empty()) json["checkpointBytes"] = bytes;
    json["checksum"] = checksum;
    if (!info.modality.empty()) json["codecFormat"] = "VRQ0";
    if (!info.modality.empty()) json["codecChecksum"] = fnv1a(info.codec);
    json["card"] = cardJson(info.card);
    if (!info.created_at.empty()) json["createdAt"] = info.created_at;
    return json;
}

std::array<uint32_t, 3> headerWords(std::string_view manifest) { return {kMagic, kVersion, uint32_t(manifest.size())}; }

// A file's bytes, a piece at a time.
Result<void> inPieces(const ByteSource& file, const ByteSink& put) {
    constexpr uint64_t kPieceBytes = uint64_t{1} << 20;
    std::vector<std::byte> piece(std::min(file.size(), kPieceBytes));
    for (uint64_t done = 0; done < file.size(); done += piece.size()) {
        piece.resize(std::min(file.size() - done, kPieceBytes));
        VKMOE_CHECK(file.read(done, piece));
        VKMOE_CHECK(put(piece));
    }
    return {};
}

std::vector<std::byte> join(std::string_view manifest, std::span<const std::byte> checkpoint,
                            std::span<const std::byte> codec) {
    const auto header = headerWords(manifest);
    std::vector<std::byte> bytes;
    bytes.reserve(sizeof header + manifest.size() + checkpoint.size() + codec.size());
    const std::span<const std::byte> parts[] = {std::as_bytes(std::span(header)), std::as_bytes(std::span(manifest)),
                                                checkpoint, codec};
    for (const auto part : parts) bytes.insert(bytes.end(), part.begin(), part.end());
    return bytes;
}

Result<void> checkInfo(const PackageInfo& info, const CheckpointFacts& facts) {
    const auto refuse = [](const std::string& detail) { return Error{ErrorCode::bad_input, detail}; };
    for (const auto& [name, value] : facts.config)
        if (value == 0 && name == std::string_view("numLayers"))
            return refuse("numLayers is 0; readers of .evermind packages want at least 1");
    if (info.modality.empty() != info.codec.empty())
        return refuse(
            fmt::format("the modality is \"{}\" and the codec has {} bytes; only both together make a package",
                        shown(info.modality), info.codec.size()));
    if (!info.modality.empty() && info.modality != "image" && info.modality != "video")
        return refuse(fmt::format("the modality is \"{}\", must be image or video", shown(info.modality)));
    if (!info.modality.empty() && facts.model_type != std::string_view(kLmPackage))
        return refuse(fmt::format("the modality is {}, but the checkpoint is a layer", info.modality));
    return {};
}

Result<std::string> textOf(const Json& manifest) try {
    return javascriptJson(manifest);
} catch (const Json::exception&) {
    return Error{ErrorCode::bad_input, "a text of the manifest is not UTF-8"};
}

// Every dimension that the manifest names is the checkpoint's.
Result<void> checkSameConfig(const Package& package, const CheckpointFacts& facts) {
    const Manifest& manifest = package.manifest;
    if (manifest.string("modelType") != facts.model_type)
        return inputError(package.file->name(), fmt::format("modelType is {}, of the new checkpoint it is {}",
                                                            manifest.shown("modelType"), facts.model_type));
    for (const auto& [name, value] : facts.config) {
        const std::string key = fmt::format("config.{}", name);
        if (manifest.number(key) != double(value))
            return inputError(package.file->name(),
                              fmt::format("{} is {}, of the new checkpoint it is {}", key, manifest.shown(key), value));
    }
    return {};
}

}  // namespace

Result<void> writePackage(const PackageInfo& info, std::shared_ptr<const ByteSource> checkpoint, const ByteSink& put) {
    VKMOE_TRY(facts, readFacts(checkpoint));
    VKMOE_CHECK(checkInfo(info, facts));
    uint32_t checksum = fnv1a({});
    VKMOE_CHECK(inPieces(*checkpoint, [&](std::span<const std::byte> piece) {
        checksum = fnv1a(piece, checksum);
        return Result<void>();
    }));
    VKMOE_TRY(manifest, textOf(manifestJson(info, facts, checkpoint->size(), checksum)));
    const auto header = headerWords(manifest);
    VKMOE_CHECK(put(std::as_bytes(std::span(header))));
    VKMOE_CHECK(put(std::as_bytes(std::span(manifest))));
    VKMOE_CHECK(inPieces(*checkpoint, put));
    return put(info.codec);
}

Result<std::vector<std::byte>> writePackage(const PackageInfo& info, std::shared_ptr<const ByteSource> checkpoint) {
    std::vector<std::byte> bytes;
    VKMOE_CHECK(writePackage(info, std::move(checkpoint), [&](std::span<const std::byte> piece) {
        bytes.insert(bytes.end(), piece.begin(), piece.end());
        return Result<void>();
    }));
    return bytes;
}

Result<std::vector<std::byte>> replaceCheckpoint(const Package& package, std::shared_ptr<const ByteSource> checkpoint) {
    VKMOE_TRY(facts, readFacts(checkpoint));
    VKMOE_CHECK(checkSameConfig(package, facts));
    if (package.manifest.text().size() > kMaxRewrittenManifest)
        return inputError(package.file->name(), fmt::format("the manifest has {} bytes, at most {} are written anew",
                                                            package.manifest.text().size(), kMaxRewrittenManifest));
    VKMOE_TRY(bytes, wholeOf(*checkpoint));
    VKMOE_TRY(codec, wholeOf(*codecOf(package)));
    Json json = Json::parse(package.manifest.text());  // which its reader parsed
    json["checkpointFp16"] = facts.fp16;
    if (json.contains("checkpointBytes")) json["checkpointBytes"] = bytes.size();
    json["checksum"] = fnv1a(bytes);
    VKMOE_TRY(manifest, textOf(json));
    return join(manifest, bytes, codec);
}

Result<std::vector<std::byte>> packageBytes(const Package& package) {
    VKMOE_TRY(checkpoint, wholeOf(*checkpointOf(package)));
    VKMOE_TRY(codec, wholeOf(*codecOf(package)));
    return join(package.manifest.text(), checkpoint, codec);
}

}  // namespace vkmoe::formats
