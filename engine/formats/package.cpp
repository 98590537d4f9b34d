#include "engine/formats/package.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "engine/formats/checked.h"
#include "engine/formats/checkpoint_facts.h"
#include "engine/formats/file_section.h"
#include "engine/formats/moe0.h"

namespace vkmoe::formats {
namespace {

constexpr uint32_t kMagic = 0x45564d31;
constexpr uint32_t kVersion = 1;
constexpr const char* kSchema = "evermind.model/1";
constexpr uint64_t kPieceBytes = uint64_t{1} << 20;

Result<uint32_t> checksumOf(const ByteSource& file, uint64_t offset, uint64_t bytes) {
    std::vector<std::byte> piece(std::min(bytes, kPieceBytes));
    uint32_t sum = fnv1a({});
    for (uint64_t done = 0; done < bytes; done += piece.size()) {
        piece.resize(std::min(bytes - done, kPieceBytes));
        VKMOE_CHECK(file.read(offset + done, piece));
        sum = fnv1a(piece, sum);
    }
    return sum;
}

// ---------------------------------------------------------------------------------------------- finding the parts

struct Header {
    uint32_t version, manifest_bytes;
};

Result<Header> readHeader(const ByteSource& file) {
    std::array<std::byte, kPackageHeaderBytes> bytes = {};
    if (file.size() < bytes.size())
        return inputError(file.name(),
                          fmt::format("length is {} bytes; the header of an .evermind file has 12", file.size()));
    VKMOE_CHECK(file.read(0, bytes));
    const uint32_t magic = littleU32(bytes);
    if (magic != kMagic)
        return inputError(file.name(),
                          fmt::format("magic is {:#010x}; .evermind files start with {:#010x}", magic, kMagic));
    const Header header = {littleU32(std::span(bytes).subspan(4)), littleU32(std::span(bytes).subspan(8))};
    const uint64_t rest = file.size() - bytes.size();
    if (header.manifest_bytes > rest)
        return inputError(file.name(), fmt::format("the manifest has {} bytes, but {} follow the header",
                                                   header.manifest_bytes, rest));
    return header;
}

// Where checkpoint and codec lie in the bytes after the manifest.
Result<void> findSections(Package& package) {
    const std::string& file = package.file->name();
    const uint64_t rest = package.file->size() - package.checkpoint_offset;
    package.checkpoint_bytes = rest;
    const ManifestValue* told = package.manifest.find("checkpointBytes");
    if (told == nullptr) return {};
    const double bytes = told->number;
    if (told->kind != ManifestValue::Kind::number || bytes < 0 || bytes != std::floor(bytes))
        return inputError(file, fmt::format("checkpointBytes is {}, must be a whole number", told->shown));
    if (!(bytes <= double(rest)))
        return inputError(file,
                          fmt::format("checkpointBytes is {}, but {} bytes follow the manifest", told->shown, rest));
    package.checkpoint_bytes = uint64_t(bytes);
    package.codec_offset = package.checkpoint_offset + package.checkpoint_bytes;
    package.codec_bytes = rest - package.checkpoint_bytes;
    return {};
}

// ------------------------------------------------------------------------------------------------------ validation

using Failure = std::optional<std::string>;

std::string quoted(const std::string& text) { return fmt::format("\"{}\"", text); }

Failure fieldFailure(const Manifest& manifest, const std::string& key, double least, bool compat) {
    const ManifestValue* value = manifest.find(key);
    if (value == nullptr) return compat ? Failure() : fmt::format("{} is missing", key);
    if (value->kind != ManifestValue::Kind::number) return fmt::format("{} is {}, must be a number", key, value->shown);
    const double number = value->number;
    if (number < least && !(compat && number > 0 && key != "config.topK"))
        return fmt::format("{} is {}, must be at least {}", key, value->shown, least);
    if (!compat && number != std::floor(number)) return fmt::format("{} is {}, must be whole", key, value->shown);
    if (!compat && number > UINT32_MAX)
        return fmt::format("{} is {}, must be at most {}", key, value->shown, UINT32_MAX);
    return {};
}

Failure configFailure(const Manifest& manifest, bool compat) {
    const ManifestValue* config = manifest.find("config");
    if (config == nullptr || config->kind != ManifestValue::Kind::other)
        return fmt::format("config is {}, must be an object", manifest.shown("config"));
    const bool lm = manifest.string("modelType") == kLmPackage;
    for (const std::string name : configNames(manifest.string("modelType"))) {
        if (compat && lm && (name == "convKernel" || name == "hiddenDim")) continue;  // as the reference engine does
        const double least = name == "convKernel" ? 0 : 1;
        if (auto failure = fieldFailure(manifest, "config." + name, least, compat)) return failure;
    }
    const auto top_k = manifest.number("config.topK"), experts = manifest.number("config.numExperts");
    if (top_k && experts && *top_k > *experts)
        return fmt::format("config.topK is {}, must be at most config.numExperts, which is {}",
                           manifest.shown("config.topK"), manifest.shown("config.numExperts"));
    return {};
}

Failure modelFailure(const Package& package, bool compat) {
    if (package.isLayer() || package.isLm()) return configFailure(package.manifest, compat);
    return fmt::format("modelType is {}, must be {} or {}", package.manifest.shown("modelType"), quoted(kLayerPackage),
                       quoted(kLmPackage));
}

Failure checksumFailure(const Manifest& manifest, const char* key, const char* what, uint32_t actual) {
    if (manifest.number(key) == double(actual)) return {};
    return fmt::format("{} is {}, but the FNV-1a of the {} is {}: it is damaged", key, manifest.shown(key), what,
                       actual);
}

// What the reference engine never looks at.
void addStrict(const Package& package, std::vector<std::string>& failures) {
    const Manifest& manifest = package.manifest;
    const std::string wanted = formatName(manifest.string("modelType"));
    if ((package.isLayer() || package.isLm()) && manifest.string("checkpointFormat") != wanted)
        failures.push_back(fmt::format("checkpointFormat is {}, of {} it is {}", manifest.shown("checkpointFormat"),
                                       manifest.shown("modelType"), quoted(wanted)));
    if (manifest.find("modality") != nullptr && !package.isMedia() && manifest.string("modality") != "text")
        failures.push_back(
            fmt::format("modality is {}, must be \"text\", \"image\" or \"video\"", manifest.shown("modality")));
    if (package.isMedia() && manifest.string("codecFormat") != "VRQ0")
        failures.push_back(fmt::format("codecFormat is {}, must be \"VRQ0\"", manifest.shown("codecFormat")));
    if (package.codec_bytes > 0 && !package.isMedia())
        failures.push_back(
            fmt::format("{} bytes follow the checkpoint, but the modality is text", package.codec_bytes));
}

// Whether the manifest tells of the checkpoint what it is.
Result<void> checkAgreement(const Package& package, const CheckpointFacts& facts, bool compat) {
    const Manifest& manifest = package.manifest;
    const auto disagree = [&](const std::string& key, const auto& value) {
        return inputError(package.file->name(), fmt::format("{} is {} in the manifest, and {} in the checkpoint", key,
                                                            manifest.shown(key), value));
    };
    for (const auto& [name, value] : facts.config) {
        const std::string key = fmt::format("config.{}", name);
        if (manifest.find(key) != nullptr && manifest.number(key) != double(value)) return disagree(key, value);
    }
    if (compat) return {};
    if (manifest.number("paramCount") != double(facts.parameters)) return disagree("paramCount", facts.parameters);
    const ManifestValue* fp16 = manifest.find("checkpointFp16");
    if (fp16 == nullptr || fp16->kind != ManifestValue::Kind::boolean || fp16->boolean != facts.fp16)
        return disagree("checkpointFp16", facts.fp16);
    return {};
}

std::shared_ptr<const ByteSource> section(const Package& package, const char* what, uint64_t offset, uint64_t bytes) {
    return fileSection(fmt::format("{} ({})", package.file->name(), what), package.file, offset, bytes);
}

}  // namespace

uint32_t fnv1a(std::span<const std::byte> bytes, uint32_t before) {
    uint32_t sum = before;
    for (const std::byte byte : bytes) sum = (sum ^ std::to_integer<uint32_t>(byte)) * 0x01000193;
    return sum;
}

bool Package::isMedia() const {
    const std::string modality = manifest.string("modality");
    return modality == "image" || modality == "video";
}

bool looksLikePackage(std::span<const std::byte> first_bytes) {
    return first_bytes.size() >= 4 && littleU32(first_bytes) == kMagic;
}

Result<Package> findPackage(std::shared_ptr<const ByteSource> file, bool compat) {
    VKMOE_TRY(header, readHeader(*file));
    if (header.version != kVersion && !compat)
        return inputError(file->name(), fmt::format("version is {}; .evermind files have version 1", header.version));
    VKMOE_TRY(manifest, Manifest::read(*file, kPackageHeaderBytes, header.manifest_bytes));
    Package package;
    if (header.version != kVersion)
        package.warnings.push_back(fmt::format("{}: version is {}; read as 1", file->name(), header.version));
    package.file = std::move(file);
    package.manifest = std::move(manifest);
    package.checkpoint_offset = kPackageHeaderBytes + header.manifest_bytes;
    VKMOE_CHECK(findSections(package));
    return package;
}

Result<std::vector<std::string>> packageFailures(const Package& package, bool compat) {
    const Manifest& manifest = package.manifest;
    std::vector<std::string> failures;
    const auto add = [&](const Failure& failure) {
        if (failure) failures.push_back(*failure);
    };
    if (manifest.string("schema") != kSchema)
        failures.push_back(fmt::format("schema is {}, must be {}", manifest.shown("schema"), quoted(kSchema)));
    add(modelFailure(package, compat));
    VKMOE_TRY(sum, checksumOf(*package.file, package.checkpoint_offset, package.checkpoint_bytes));
    add(checksumFailure(manifest, "checksum", "checkpoint", sum));
    if (package.isMedia() && package.codec_bytes == 0)
        failures.push_back(fmt::format("modality is {}, but there is no codec", manifest.shown("modality")));
    if (package.isMedia() && package.codec_bytes > 0) {
        VKMOE_TRY(codec_sum, checksumOf(*package.file, package.codec_offset, package.codec_bytes));
        add(checksumFailure(manifest, "codecChecksum", "codec", codec_sum));
    }
    if (!compat) addStrict(package, failures);
    return failures;
}

std::shared_ptr<const ByteSource> checkpointOf(const Package& package) {
    return section(package, "checkpoint", package.checkpoint_offset, package.checkpoint_bytes);
}

std::shared_ptr<const ByteSource> codecOf(const Package& package) {
    return section(package, "codec", package.codec_offset, package.codec_bytes);
}

Result<Package> readPackage(std::shared_ptr<const ByteSource> file, bool compat) {
    VKMOE_TRY(package, findPackage(std::move(file), compat));
    VKMOE_TRY(failures, packageFailures(package, compat));
    if (failures.empty()) return package;
    return inputError(package.file->name(), fmt::format("{}", fmt::join(failures, "; ")));
}

Result<LayerSource> readPackagedLayer(const Package& package, bool compat) {
    if (!package.isLayer())
        return inputError(package.file->name(), fmt::format("modelType is {}, not a layer: it holds a language model",
                                                            package.manifest.shown("modelType")));
    VKMOE_TRY(layer, readMoe0(checkpointOf(package), {.compat = compat}));
    VKMOE_CHECK(checkAgreement(package, factsOf(layer), compat));
    layer.warnings.insert(layer.warnings.begin(), package.warnings.begin(), package.warnings.end());
    return layer;
}

Result<LmSource> readPackagedLm(const Package& package, bool compat) {
    if (!package.isLm())
        return inputError(package.file->name(), fmt::format("modelType is {}, not a language model: it holds a layer",
                                                            package.manifest.shown("modelType")));
    VKMOE_TRY(model, readEvl0(checkpointOf(package), {.compat = compat}));
    VKMOE_CHECK(checkAgreement(package, factsOf(model), compat));
    model.warnings.insert(model.warnings.begin(), package.warnings.begin(), package.warnings.end());
    return model;
}

}  // namespace vkmoe::formats
