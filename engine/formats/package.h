// Package: the reference engine's .evermind file, which holds a manifest (JSON) and one checkpoint, MoE0 or EVL0; those
// of images and video also a codec, whose bytes are kept and checked but not read.
//
// A file is three little-endian u32 (magic 0x45564d31, version 1, bytes of the manifest), the manifest, the checkpoint,
// and after it, if the manifest has checkpointBytes, the codec. The manifest holds 32-bit FNV-1a checksums of both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/formats/evl0.h"
#include "engine/formats/manifest.h"
#include "engine/formats/tensor_source.h"
#include "host/file.h"
#include "host/result.h"

namespace vkmoe::formats {

inline constexpr uint64_t kPackageHeaderBytes = 12;
inline constexpr uint64_t kMaxRewrittenManifest = uint64_t{256} << 10;
inline constexpr const char* kLayerPackage = "shared-expert-moe";  // modelType of a MoE0 checkpoint
inline constexpr const char* kLmPackage = "evermind-lm";           // of an EVL0 checkpoint

uint32_t fnv1a(std::span<const std::byte> bytes, uint32_t before = 0x811c9dc5);

// A package whose parts were found; whether they are right, packageFailures tells.
struct Package {
    std::shared_ptr<const ByteSource> file;
    Manifest manifest;
    uint64_t checkpoint_offset = 0, checkpoint_bytes = 0;
    uint64_t codec_offset = 0, codec_bytes = 0;  // 0 bytes: there is none
    std::vector<std::string> warnings;           // what compat let pass

    bool isLayer() const { return manifest.string("modelType") == kLayerPackage; }
    bool isLm() const { return manifest.string("modelType") == kLmPackage; }
    bool isMedia() const;  // of images or video
};

bool looksLikePackage(std::span<const std::byte> first_bytes);

// Compat accepts any version of the package. Errors: a short header, another magic, lengths beyond the file, a manifest
// that is no JSON object.
Result<Package> findPackage(std::shared_ptr<const ByteSource> file, bool compat = false);

// Every reason not to trust the package, in order: schema, config, modelType, checksum, codec. Compat accepts what the
// reference engine accepts: missing fields and fractions in config, a wrong paramCount, checkpointFormat or
// checkpointFp16. The error is that of reading.
Result<std::vector<std::string>> packageFailures(const Package& package, bool compat = false);

// The checkpoint and the codec as files of their own.
std::shared_ptr<const ByteSource> checkpointOf(const Package& package);
std::shared_ptr<const ByteSource> codecOf(const Package& package);

// findPackage and packageFailures; all failures in one sentence.
Result<Package> readPackage(std::shared_ptr<const ByteSource> file, bool compat = false);

// The model in a package that has no failures. A package of the other kind, and a checkpoint that disagrees with the
// manifest, are errors.
Result<LayerSource> readPackagedLayer(const Package& package, bool compat = false);
Result<LmSource> readPackagedLm(const Package& package, bool compat = false);

// ---- writing

struct ModelCard {
    std::string description;
    std::optional<std::string> training_summary, license, author;
    std::optional<std::vector<std::string>> tags;
};

struct PackageInfo {
    std::string name, version;
    ModelCard card;
    std::string created_at = {};      // a date as text; empty: none
    std::optional<double> seed = {};  // of a layer that was made with one
    std::string modality = {};        // "image" or "video": with the codec's bytes
    std::span<const std::byte> codec = {};
};

// The bytes of a package with this checkpoint, a MoE0 or EVL0 file. Texts are UTF-8.
Result<std::vector<std::byte>> writePackage(const PackageInfo& info, std::shared_ptr<const ByteSource> checkpoint);

// The same in pieces, front to back; the checkpoint is read three times, a piece at a time.
Result<void> writePackage(const PackageInfo& info, std::shared_ptr<const ByteSource> checkpoint, const ByteSink& put);

// The package with another checkpoint of the same config, e.g. after training: the manifest's other values stay. Its
// manifest has at most kMaxRewrittenManifest bytes.
Result<std::vector<std::byte>> replaceCheckpoint(const Package& package, std::shared_ptr<const ByteSource> checkpoint);

// The bytes of a package that was read: those of its file.
Result<std::vector<std::byte>> packageBytes(const Package& package);

}  // namespace vkmoe::formats
