#include "engine/formats/model_source.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include "engine/formats/checked.h"
#include "engine/formats/file_kind.h"
#include "engine/formats/layer_file.h"
#include "engine/formats/moe0.h"
#include "engine/formats/package.h"

namespace vkmoe::formats {
namespace {

Result<ModelSource> oneLayer(LayerSource layer) {
    if (const auto valid = validate(layer.description); !valid) return inFile(layer.bytes->name(), valid.error());
    ModelSource model;
    model.warnings = layer.warnings;
    model.layers.push_back(std::move(layer));
    return model;
}

Error languageModel(const ByteSource& file, const char* what) {
    return inputError(file.name(), fmt::format("{} a language model, not a layer: vkmoe generate runs it", what));
}

Result<ModelSource> readPackagedModel(const std::shared_ptr<const ByteSource>& file, ReadOptions options) {
    VKMOE_TRY(package, readPackage(file, options.compat));
    if (package.isLm()) return languageModel(*file, "holds");
    VKMOE_TRY(layer, readPackagedLayer(package, options.compat));
    return oneLayer(std::move(layer));
}

bool isFolder(const std::string& path) {
    struct stat status = {};
    return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool exists(const std::string& path) {
    struct stat status = {};
    return ::stat(path.c_str(), &status) == 0;
}

}  // namespace

const char* name(FileFormat format) { return format == FileFormat::moe0 ? "MoE0" : "layer file"; }

Result<ModelSource> readModel(std::shared_ptr<const ByteSource> file, ReadOptions options, const std::string& folder) {
    VKMOE_TRY(kind, kindOf(*file));
    if (kind == FileKind::package) return readPackagedModel(file, options);
    if (kind == FileKind::language_model) return languageModel(*file, "is");
    if (kind == FileKind::delta)
        return inputError(file->name(), "is a delta of a checkpoint's rows (EVD0), not a layer");
    if (kind == FileKind::moe0) {
        VKMOE_TRY(layer, readMoe0(std::move(file), {.compat = options.compat}));
        return oneLayer(std::move(layer));
    }
    if (kind == FileKind::safetensors) {
        VKMOE_TRY(files, SafetensorsFiles::open(std::move(file), checkLayerTensorName));
        return readLayerFile(files);
    }
    const OpenShard open = [&](const std::string& name) { return openFile(folder + "/" + name); };
    VKMOE_TRY(files, SafetensorsFiles::openIndex(*file, open, checkLayerTensorName));
    return readLayerFile(files);
}

Result<ModelSource> openModel(const std::string& path, ReadOptions options) {
    if (isFolder(path)) {
        const std::string index = path + "/model.safetensors.index.json";
        return openModel(exists(index) ? index : path + "/model.safetensors", options);
    }
    VKMOE_TRY(file, openFile(path));
    const size_t slash = path.rfind('/');
    return readModel(file, options, slash == path.npos ? "." : path.substr(0, slash));
}

}  // namespace vkmoe::formats
