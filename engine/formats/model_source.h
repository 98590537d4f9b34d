// ModelSource: the layer or layers of a model file of any format, opened by path.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/formats/tensor_source.h"
#include "host/result.h"

namespace vkmoe::formats {

enum class FileFormat { moe0, layer_file };
const char* name(FileFormat format);  // "MoE0", "layer file"

struct ReadOptions {
    bool compat = false;  // accept what the reference engine accepts, with warnings (MoE0 alone)
};

struct ModelSource {
    FileFormat format = FileFormat::moe0;
    bool stack = false;               // layers follow each other: y = x + moe(x) at each; else there is one layer
    std::vector<LayerSource> layers;  // valid descriptions, complete tensors of the right shapes; one model_dim
    std::vector<std::string> warnings;
};

// Opens a MoE0 file, an .evermind package of one, a safetensors layer file, the index of one in several files, or a
// folder with model.safetensors.index.json or model.safetensors in it. What a file is, its content says; its name
// helps.
Result<ModelSource> openModel(const std::string& path, ReadOptions options = {});

// The same of a source that is open. An index finds its files in `folder`.
Result<ModelSource> readModel(std::shared_ptr<const ByteSource> file, ReadOptions options = {},
                              const std::string& folder = ".");

}  // namespace vkmoe::formats
