#include "samples/vkmoe/inspect.h"

#include <fmt/format.h>

#include "engine/formats/check_values.h"
#include "engine/formats/description_json.h"
#include "engine/formats/model_source.h"
#include "engine/moe/page_layout.h"
#include "samples/vkmoe/commands.h"

namespace vkmoe::program {
namespace {

using formats::LayerSource;
using formats::TensorRange;

Json describe(const Description& d) {
    Json json = {{"model_dim", d.model_dim}, {"hidden_dim", d.hidden_dim}, {"experts", d.experts}};
    json.update(Json::parse(formats::descriptionToJson({&d, 1})));
    json["shared_dim"] = d.shared_dim;
    json["biases"] = {{"router", d.router_bias}, {"gate", d.gate_bias}, {"up", d.up_bias}, {"down", d.down_bias}};
    return json;
}

// The tensors as the file has them: a layer file keeps those of all experts in one, named without "[0]".
std::vector<TensorRange> fileTensors(const LayerSource& layer) {
    std::vector<TensorRange> tensors;
    for (TensorRange tensor : layer.tensors) {
        if (tensor.label.ends_with(']')) {
            if (!tensor.label.ends_with("[0]")) continue;
            tensor.label.resize(tensor.label.size() - 3);
            tensor.shape.insert(tensor.shape.begin(), layer.description.experts);
            tensor.bytes *= layer.description.experts;
            tensor.scales_bytes *= layer.description.experts;
        }
        tensors.push_back(std::move(tensor));
    }
    return tensors;
}

uint64_t parameterCount(const LayerSource& layer) {
    uint64_t parameters = 0;
    for (const TensorRange& tensor : layer.tensors) {
        uint64_t count = 1;
        for (const uint64_t n : tensor.shape) count *= n;
        parameters += count;
    }
    return parameters;
}

uint64_t pageBytes(const LayerSource& layer) {
    WeightFormat up = layer.find("experts.0.up.weight")->format;
    const TensorRange* gate = layer.find("experts.0.gate.weight");
    if (gate && gate->format != up) up = WeightFormat::f32;  // both are widened
    const WeightFormat down = layer.find("experts.0.down.weight")->format;
    return layoutPage(routedShape(layer.description, up, down)).bytes();
}

Json tensorJson(const LayerSource& layer, const TensorRange& tensor) {
    Json json = {{"name", tensor.shown()},
                 {"format", name(tensor.format)},
                 {"shape", tensor.shape},
                 {"offset", tensor.offset},
                 {"bytes", tensor.bytes}};
    if (tensor.format == WeightFormat::mxfp4) {
        json["scales_offset"] = tensor.scales_offset;
        json["scales_bytes"] = tensor.scales_bytes;
    }
    const std::string& file = layer.bytes->nameAt(tensor.offset);
    if (file != layer.bytes->name()) json["file"] = file;
    return json;
}

}  // namespace

Json layerJson(const LayerSource& layer) {
    Json tensors = Json::array();
    for (const TensorRange& tensor : fileTensors(layer)) tensors.push_back(tensorJson(layer, tensor));
    return {{"parameters", parameterCount(layer)},
            {"page_bytes", pageBytes(layer)},
            {"description", describe(layer.description)},
            {"tensors", std::move(tensors)}};
}

void printLayer(const LayerSource& layer) {
    const Description& d = layer.description;
    fmt::print("  tokens of {} values, {} experts of {} hidden values, top {}, {} parameters\n", d.model_dim, d.experts,
               d.hidden_dim, d.top_k, parameterCount(layer));
    fmt::print("  score {}, activation {}, shared expert {}", name(d.score), name(d.activation), name(d.shared));
    if (d.shared != Shared::none) fmt::print(" ({}, {} hidden values)", name(d.shared_order), d.shared_dim);
    fmt::print("\n  an expert's page takes {} on a device\n\n", readableBytes(double(pageBytes(layer))));
    fmt::print("  {:<36} {:<5} {:<16} {:>12} {:>12}\n", "tensor", "type", "shape", "offset", "bytes");
    for (const TensorRange& tensor : fileTensors(layer)) {
        const std::string shape = fmt::format("[{}]", fmt::join(tensor.shape, ", "));
        fmt::print("  {:<36} {:<5} {:<16} {:>12} {:>12}\n", tensor.shown(), name(tensor.format), shape, tensor.offset,
                   tensor.bytes + tensor.scales_bytes);
    }
}

namespace {

Json modelJson(const std::string& path, const formats::ModelSource& model) {
    Json json = {{"file", path}, {"kind", name(model.format)}, {"bytes", model.layers[0].bytes->size()}};
    if (!model.stack) json.update(layerJson(model.layers[0]));
    if (model.stack) {
        uint64_t parameters = 0;
        for (const LayerSource& layer : model.layers) {
            json["layers"].push_back(layerJson(layer));
            parameters += parameterCount(layer);
        }
        json["parameters"] = parameters;
    }
    json["warnings"] = model.warnings;
    return json;
}

void printText(const std::string& path, const formats::ModelSource& model) {
    const std::string size = readableBytes(double(model.layers[0].bytes->size()));
    if (!model.stack) {
        fmt::print("{}: {}, one mixture-of-experts layer, {}\n", path, name(model.format), size);
        return printLayer(model.layers[0]);
    }
    fmt::print("{}: {}, a stack of {} mixture-of-experts layers, {}\n", path, name(model.format), model.layers.size(),
               size);
    for (size_t n = 0; n < model.layers.size(); ++n) {
        fmt::print("\nlayer {}\n", n);
        printLayer(model.layers[n]);
    }
}

}  // namespace

// Full validation: the header, every length, and every value.
int inspect(const Context& context, const std::string& path) {
    if (const auto done = inspectModelFile(context, path)) return *done;
    auto model = formats::openModel(path, {.compat = context.compat});
    if (!model) return fail(model.error());
    for (const LayerSource& layer : model->layers)
        if (auto values = formats::checkValues(layer); !values) return fail(values.error());
    for (const auto& warning : model->warnings) fmt::print(stderr, "vkmoe: warning: {}\n", warning);
    if (context.json)
        print(modelJson(path, *model));
    else
        printText(path, *model);
    return kOk;
}

}  // namespace vkmoe::program
